//! The Core Lightning plugin that records every database change, thin over `common`, which knows what a backup is.
//!
//! `lightningd` calls the hook `db_write` inside each of its transactions and commits when the answer is "continue". It
//! does so before it has initialised its plugins, while it stops, and it waits for each answer; so one thread reads all
//! of `lightningd`'s messages and answers each `db_write` on the spot:
//!
//! ```text
//! stdin ─▶ splitter ─▶ message ─┬─ db_write ─▶ hook ─▶ destination (append + fdatasync) ─▶ reply ─▶ stdout
//!                               └─ all else ─▶ plugin (cln-plugin in a thread of its own) ─────▶ stdout
//!                                     destination ─▶ sealing (a background thread) ─▶ segments, status, log
//! ```
//!
//! | module | idea |
//! | --- | --- |
//! | [`splitter`] | bytes into messages (pure) |
//! | [`message`] | the kind of a message (pure) |
//! | [`hook`] | the parameters of a `db_write` (pure) |
//! | [`reply`] | replies, byte for byte (pure) |
//! | [`transport`] | reads the messages in order, until the end |
//! | [`answer`] | handles each message |
//! | [`outgoing`] | whole messages to standard output |
//! | [`plugin`] | the part that `cln-plugin` does |
//! | [`lightningd_log`] | log records to `lightningd`, behind the answers |
//! | [`destination`] | the backup that writes go to: opened when first needed, and again after a call to it has failed |
//! | [`shared_writer`] | the mutex around the writer of that backup |
//! | [`waiting`] | the pauses between attempts while the backup is out of reach |
//! | [`draining`] | the thread that copies spooled changes into the backup |
//! | [`pending`], [`watchdog`] | the thread that refuses a write whose recording hangs, and reports long waits |
//! | [`stalls`] | those waits in `backup-status` |
//! | [`sealing`] | the thread that replays what is recorded and seals finished logs (`common::Sealer` does the work) |
//! | [`wakeup`] | the signals that wake it |
//! | [`compacting`] | history dropped by that thread: `backup-compact`, and the policy of `backup.lock` |
//! | [`scrubbing`] | the thread that reads the backup back from its disk (`common::scrub` does the work) |
//! | [`scrub_state`] | how far it is, beside `backup.lock` and in `backup-status` |
//! | [`shipping`] | the process that ships to the off-site copies |
//! | [`holding`] | answers held until those copies have the change |
//! | [`waited_copy`] | whether an answer waits for one of them (pure) |
//! | [`disk_warnings`] | warnings about the directories of backup and spool: little room, open to others |
//! | [`status`] | `backup-status` |
//! | [`latency`], [`destination_probe`] | its figures of the last answers, and of the destination, which may not answer |

pub mod answer;
pub mod compacting;
pub mod destination;
pub mod destination_probe;
pub mod disk_warnings;
pub mod draining;
pub mod holding;
pub mod hook;
pub mod latency;
pub mod lightningd_log;
pub mod message;
pub mod outgoing;
pub mod pending;
pub mod plugin;
pub mod reply;
pub mod scrub_state;
pub mod scrubbing;
pub mod sealing;
pub mod shared_writer;
pub mod shipping;
pub mod splitter;
pub mod stalls;
pub mod status;
pub mod transport;
pub mod waited_copy;
pub mod waiting;
pub mod wakeup;
pub mod watchdog;
