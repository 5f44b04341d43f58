//! The backup itself: its files, how they are written, and how every recorded version is read again.
//!
//! A *recorder* opens a [`BackupWriter`] and passes it every `db_write` of `lightningd`; when
//! [`record`](BackupWriter::record) returns, the change is durable. A [`Sealer`] follows: it replays every change and makes a
//! segment of each finished log. To restore, open a [`Backup`], read its [`History`], and open a [`View`] of a version: the
//! pages of the keyframe or snapshot before it, with the changes since replayed on top.
//!
//! `ARCHITECTURE.md` lists the modules, which are rooms on floors, and follows a write, a read, a seal and a restore through them.
//! To find: where a byte is laid out, one module of the crate `format` per structure, named after it; where a page of a sealed
//! version is read, `segment::sealed_pages`, and of any other `pages::snapshot_pages` with `pages::overlay` on top; where a log
//! is sealed, `check::log_replay` (what is gathered) and `seal::write` (what is written); what a version is built from,
//! [`History::plan`].

#![cfg_attr(not(test), deny(unsafe_code))]

mod backup;
#[cfg(test)]
mod campaign;
mod check;
pub mod compact;
mod compare;
mod config;
pub mod create;
pub mod diff;
pub mod durability;
pub mod feed;
pub mod find;
pub mod history;
mod live;
mod log;
mod pages;
mod parity;
pub mod preflight;
pub mod python_plugin;
pub mod recording;
pub mod repair;
pub mod replay;
pub mod scrub;
mod seal;
mod segment;
pub mod spool;
mod status;
pub mod storage;
mod sync;
#[cfg(test)]
mod testing;
pub mod verify;

pub use backup::attach_error::OpenRecordingError;
pub use backup::lock_status::LockStatus;
pub use backup::shared_lock::SharedLock;
pub use backup::size::BytesByKind;
pub use backup::snapshot_check::quick_check;
pub use backup::source::Source;
pub use backup::state::{BackupState, UnsealedChanges};
pub use backup::view::{View, ViewError};
pub use backup::views::Views;
pub use backup::{Backup, Follower, OpenError, Polled};
pub use compare::differences::{
    ContentDifferences, KeyPart, RowDifference, SchemaDifference, TableDifferences, WhichRow,
};
pub use compare::value::Value;
pub use config::backup_lock::{BackupLock, BackupLockError, OnGap};
pub use config::backup_url::{BackupUrl, BackupUrlError};
pub use config::keep_policy::{KeepPolicy, KeepPolicyError, KeepSpan, KeepSpanError};
pub use config::log_limits::LogLimits;
pub use config::offsite::{Every, EveryError, OffsiteEntry, OffsiteEntryError, OffsiteSeal};
pub use config::offsite_wait::{OffsiteWait, OffsiteWaitError, WaitThen};
pub use config::on_unreachable::OnUnreachable;
pub use config::python_lock::PythonLock;
pub use config::scrub_interval::{ParseScrubIntervalError, ScrubInterval};
pub use create::replace::{ReplaceError, StaleDatabase};
pub use create::{
    CreateError, Created, CreatedSnapshot, DamagedDatabase, create_backup, create_backup_for, replace_backup,
};
pub use format::units::{Counted, DataVersion, Keyframe, PageNo, PageSize, Seq, Timestamp, counted};
pub use history::{History, NewestVersion, Recorded, RecordedBy, ReplayPlan, SealedThrough};
pub use live::live_database::{LiveDatabaseError, expect_openable, node_id_of_database, version_of_database};
pub use live::open_transaction::is_in_transaction;
pub use live::take_snapshot::{PagesDone, SnapshotError};
pub use log::{AppendError, CutError, DbWrite, LogEnd, RecordAddress, RecoverError};
pub use pages::{CopyConnection, CopyOrder, DatabaseCopy, PageIdentity, PageSource, Piece};
pub use parity::share::{ParityShare, ParseShareError};
pub use recording::record_error::RecordError;
pub use recording::{BackupWriter, Interrupted};
pub use replay::sqlite_reason::reason as sqlite_reason;
pub use replay::{Forbidden, OutOfBounds, ReplayError, VirtualTable};
pub use seal::{MendedLog, Progress, SealBackupError, SealError, Sealer, SnapshotCheckError, seal_backup};
pub use segment::version::{NewestRecorded, Origin, Readable, TimelineEntry, Version};
pub use spool::{Drain, DrainError, DrainPlan, SpoolError, SpoolStatus, SpooledChanges};
pub use status::fields::{DatabaseDamage, ReplayCheck, StatusFields};
pub use status::offsite::{OffsiteRehearsal, OffsiteState, OffsiteStatus, WaitState, WaitStatus, offsite_directory};
pub use status::ship_words;
pub use storage::causes::{with_causes, with_remedy};
pub use storage::owner::Owner;
pub use storage::read_error::ReadError;
pub use storage::regular_file::{expect_regular_file, open_regular_file};
pub use storage::unfinished::{Unfinished, Workplace};
pub use storage::unused_name::unused_name;
pub use storage::{FreeSpace, Healed, InFlightCalls, Trouble};
