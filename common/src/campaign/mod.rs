//! The fault campaign: a scripted history, cut off at every call and with every call failing once.
//!
//! | file | what |
//! | --- | --- |
//! | `script` | what the node does, and when the recorder preallocates, seals, stops and fails |
//! | `model` | the expected state, according to the script |
//! | `disk`, `home` | a disk in memory that records every call; the locations of backup and spool on it |
//! | `play` | the script played on a disk |
//! | `images` | the states that a power cut may leave |
//! | `check`, `onward` | the invariants of these states; further recording from them |
//! | `checked` | the images of a campaign, each checked once |
//! | `power_cuts`, `repairs`, `failing_calls`, `needed_syncs` | the campaigns; and the check that they would detect a missing sync |

mod check;
mod checked;
mod disk;
mod failing_calls;
mod home;
mod images;
mod model;
mod needed_syncs;
mod onward;
mod play;
mod power_cuts;
mod random;
mod repairs;
mod script;
