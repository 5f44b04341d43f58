//! The fault campaign: a scripted history, cut off at every call and with every call failing once.
//!
//! | file | what |
//! | --- | --- |
//! | `script` | what the node does, and when the recorder makes room, seals, stops and fails |
//! | `model` | what must be found, as the script tells it |
//! | `disk`, `home` | a disk in memory that notes every call; where backup and spool are on it |
//! | `play` | the script played on a disk |
//! | `images` | what a power cut may leave of a disk |
//! | `check`, `onward` | what must hold of that; recording on from it |
//! | `checked` | the images of a campaign, each checked once |
//! | `power_cuts`, `failing_calls`, `needed_syncs` | the campaigns; and that they would notice a sync that is not made |

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
mod script;
