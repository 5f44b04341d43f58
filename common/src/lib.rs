//! The backup itself: what is on disk, how it is written, and how any recorded version is read again.
//!
//! A *recorder* opens a [`Recording`] and hands it every `db_write` of `lightningd`; when
//! [`record`](Recording::record) returns, the change is durable. Whoever restores opens a [`Backup`], reads its
//! [`History`], and opens a [`View`] of a version: the pages of a snapshot, with the changes since replayed on top.
//!
//! | where | what |
//! | --- | --- |
//! | [`mod@format`] | the bytes: pure encoding and decoding, and the format document |
//! | [`version_rules`] | what an incoming write says about what `lightningd` has committed: pure |
//! | [`storage`] | the seam to the file system: the only place that makes its calls for a backup directory |
//! | `log` | records appended to files, read back in order, put right after a crash |
//! | `pages` | pages of a database: snapshots, the overlay that replay writes to, the SQLite VFS over it |
//! | [`replay`] | statements executed as `lightningd` executed them |
//! | [`history`] | which versions there are and what each is made of |
//! | `view`, `views` | a version opened for reading; those open or used lately |
//! | `live_database`, `snapshot` | the running node's database, and copying its pages into the backup |
//! | `commit_check`, `contents` | whether the node committed what was recorded; comparing two databases |
//! | [`recording`], `record_error`, [`create`], [`backup`] | a backup being written, made, read |

#![cfg_attr(not(test), deny(unsafe_code))]

pub mod backup;
mod backup_lock;
mod backup_url;
mod commit_check;
mod contents;
pub mod create;
mod data_version;
pub mod format;
pub mod history;
mod live_database;
mod log;
mod log_limits;
mod page_no;
mod pages;
mod read_error;
mod recently_used;
mod record_error;
mod recorded_changes;
pub mod recording;
pub mod replay;
mod seal;
mod segment;
mod seq;
mod snapshot;
pub mod storage;
#[cfg(test)]
mod testing;
mod timestamp;
pub mod version_rules;
mod view;
mod views;

pub use backup::{Backup, Follower, OpenError, Polled, Reread};
pub use backup_lock::{BackupLock, BackupLockError, OnGap};
pub use backup_url::{BackupUrl, BackupUrlError};
pub use create::{CreateError, Created, CreatedSnapshot, create_backup};
pub use data_version::DataVersion;
pub use history::{History, Origin, ReplayPlan, TimelineEntry, Version};
pub use live_database::LiveDatabaseError;
pub use log::{AppendError, RecordPlace, RecoverError};
pub use log_limits::LogLimits;
pub use page_no::{PageNo, PageSize};
pub use pages::PageSource;
pub use read_error::ReadError;
pub use record_error::{OpenRecordingError, RecordError};
pub use recording::{DbWrite, NewestVersion, Recorded, Recording};
pub use replay::ReplayError;
pub use seal::{Progress, SealBackupError, SealError, Sealer, seal_backup};
pub use seq::Seq;
pub use snapshot::{PagesDone, SnapshotError};
pub use timestamp::Timestamp;
pub use view::{View, ViewError};
pub use views::Views;
