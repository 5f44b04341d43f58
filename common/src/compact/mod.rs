//! Compaction: dropping history outside of the policy while the recorder continues.
//!
//! | file | what |
//! | --- | --- |
//! | `clock` | whether the clock that decides can be trusted |
//! | `plan` | which segments are dropped |
//! | `reach` | which of their blocks kept history needs |
//! | `write` | those blocks written to the file `pruned`, and read back |
//! | `offline` | compaction of a backup without a recorder |
//!
//! No kept file is changed, and no page is computed again: a kept segment finds the blocks that it refers to in `pruned` instead
//! of in their segments, byte for byte. The rename of that file makes the history shorter.

mod clock;
#[cfg(test)]
mod clock_tests;
mod offline;
mod plan;
mod reach;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thinning_tests;
mod write;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::backup::removal::remove_dropped;
use crate::config::keep_policy::{KeepPolicy, KeepPolicyError};
pub use clock::{Clock, ClockInDoubt, ClockWatch, Force};
pub use offline::{CompactBackupError, compact_backup, compact_copy, plan_compaction};
use plan::Plan;

use crate::backup::Backup;
use crate::backup::shared_lock::SharedLock;
use crate::segment::PrunedFile;
use crate::segment::version::Version;
use crate::storage::read_error::ReadError;
use crate::storage::{Access, StorageError, remove_if_present};
use format::names;
use format::units::{Seq, Timestamp};

/// The reason why nothing, or not everything, was dropped. Kept history is never affected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// The policy is invalid.
    #[error(transparent)]
    Policy(#[from] KeepPolicyError),
    /// The clock that decides may be wrong.
    #[error(transparent)]
    Clock(#[from] ClockInDoubt),
    /// The backup cannot be read, or is damaged.
    #[error("nothing is dropped from a backup that cannot be read as a whole; `backupfs verify` says what is wrong")]
    Read(#[source] ReadError),
    /// A file cannot be written or removed.
    #[error("the backup is not compacted to the end; nothing that is to be kept is lost by that")]
    Write(#[source] StorageError),
    /// The written file does not read back correctly.
    #[error(
        "what is to be kept of old versions does not read back as it should ({what}). Nothing is dropped, and nothing is lost. \
         Check the disk and the memory of this machine; if they are sound, report this"
    )]
    Differs {
        /// Description of the difference.
        what: String,
    },
    /// A snapshot is being taken, which may build on dropped segments.
    #[error("a gap is being healed right now; nothing is dropped. Try again in a minute")]
    Healing,
}

impl From<StorageError> for CompactError {
    /// The failed call decides: writing includes reads, and reading includes writes.
    fn from(error: StorageError) -> Self {
        if error.is_of_a_change() { Self::Write(error) } else { Self::Read(error.into()) }
    }
}

impl From<ReadError> for CompactError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Storage(error) => error.into(),
            error => Self::Read(error),
        }
    }
}

/// The share of the disk's time that a compaction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Small steps with pauses, beside a recorder.
    Gentle,
    /// The compaction takes all of it.
    Full,
}

/// The pace of a compaction, and its consideration for mounts.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Share of the disk's time that it takes.
    pub pace: Pace,
    /// Time for which files of dropped segments are left, so that a mount can open those that it uses.
    pub grace: Duration,
}

impl Manner {
    /// The manner beside a recorder.
    pub const GENTLE: Self = Self { pace: Pace::Gentle, grace: Duration::from_secs(2) };

    /// The manner for a backup without a recorder; it may be mounted.
    pub const FULL: Self = Self { pace: Pace::Full, grace: Duration::from_secs(2) };

    /// The manner for a copy: those who read it hold no files open.
    pub const AT_ONCE: Self = Self { pace: Pace::Full, grace: Duration::ZERO };
}

/// The stage of a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Finds the needed blocks of dropped segments.
    Looking,
    /// Writes them.
    Writing,
    /// Reads them back.
    Checking,
    /// Removes files.
    Removing,
}

impl Stage {
    /// Name of the phase in a status, and before a progress bar.
    pub fn name(self) -> &'static str {
        match self {
            Self::Looking => "looking",
            Self::Writing => "writing",
            Self::Checking => "checking",
            Self::Removing => "removing",
        }
    }

    /// The stage with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Looking, Self::Writing, Self::Checking, Self::Removing].into_iter().find(|stage| stage.name() == name)
    }
}

/// Progress of a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactProgress {
    /// Current stage.
    pub stage: Stage,
    /// Number of bytes done in this stage.
    pub done_bytes: u64,
    /// Total number of bytes; 0 when unknown.
    pub total_bytes: u64,
}

/// Result of a compaction, or of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compaction {
    /// Number of versions dropped.
    pub dropped_versions: u64,
    /// Number of segments whose files are removed.
    pub dropped_segments: u64,
    /// Number of versions kept.
    pub kept_versions: u64,
    /// The oldest kept version; `None` for an empty backup.
    pub oldest_kept: Option<Version>,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Length of the file `pruned` in bytes.
    pub pruned_bytes: u64,
    /// Reason to doubt the deciding clock; `None` when there is none, or nothing is dropped.
    pub clock_in_doubt: Option<ClockInDoubt>,
}

/// A compaction in JSON, for `backup-compact` and `backupfs compact`. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionFields {
    /// Whether it was only a plan.
    pub dry_run: bool,
    /// Number of versions dropped.
    pub dropped_versions: u64,
    /// Number of segments whose files are removed.
    pub dropped_segments: u64,
    /// Number of versions kept.
    pub kept_versions: u64,
    /// The oldest kept version.
    pub oldest_version: Option<u32>,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Length of the file `pruned` in bytes.
    #[serde(rename = "remains_bytes")]
    pub pruned_bytes: u64,
    /// Reason why `force` is needed; `None` when it is not.
    #[serde(default)]
    pub clock_in_doubt: Option<String>,
}

impl From<&Compaction> for CompactionFields {
    /// The fields of a completed compaction.
    fn from(compaction: &Compaction) -> Self {
        let &Compaction { dropped_versions, dropped_segments, kept_versions, freed_bytes, pruned_bytes, .. } =
            compaction;
        let oldest_version = compaction.oldest_kept.as_ref().map(|oldest| oldest.data_version.get());
        let clock_in_doubt = compaction.clock_in_doubt.map(|doubt| doubt.to_string());
        Self {
            dry_run: false,
            dropped_versions,
            dropped_segments,
            kept_versions,
            oldest_version,
            freed_bytes,
            pruned_bytes,
            clock_in_doubt,
        }
    }
}

/// The outcome of a compaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompactOutcome {
    /// Everything outside of the policy was dropped.
    Done(Compaction),
    /// The compaction was stopped: either nothing has changed, or the next run removes the rest.
    Interrupted,
}

/// The state before any change.
struct Prepared {
    plan: Plan,
    needed: Vec<reach::Needed>,
    compaction: Compaction,
}

fn prepare(
    backup: &Arc<Backup>,
    policy: &KeepPolicy,
    now: Timestamp,
    clock: Clock<'_>,
    watch: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Option<Prepared>, CompactError> {
    let plan = Plan::make(backup, policy, now)?;
    let clock_in_doubt = plan.check_clock(now, clock)?.err();
    let needed = if !plan.drops_anything() {
        Vec::new()
    } else {
        let Some(needed) = reach::needed(backup.segments(), &plan, watch)? else { return Ok(None) };
        needed
    };
    let pruned_before = backup.segments().pruned().map_or(0, |pruned| pruned.len_bytes());
    let pruned_bytes = if !plan.drops_anything() { pruned_before } else { write::expected_bytes(&plan, &needed) };
    let snapshots = if !plan.drops_anything() { 0 } else { snapshots_freed(backup, &plan)? };
    let freed = plan.bytes.saturating_add(snapshots).saturating_add(pruned_before);
    let compaction = Compaction {
        dropped_versions: plan.versions,
        dropped_segments: plan.drops.len() as u64,
        kept_versions: plan.history.version_count().saturating_sub(plan.versions),
        oldest_kept: plan.oldest.clone(),
        freed_bytes: freed.saturating_sub(pruned_bytes),
        pruned_bytes,
        clock_in_doubt,
    };
    Ok(Some(Prepared { plan, needed, compaction }))
}

/// Length of the full snapshots that are no longer needed after the plan.
fn snapshots_freed(backup: &Backup, plan: &Plan) -> Result<u64, ReadError> {
    let is_dropped = |seq: &Seq| plan.ranges.iter().any(|range| range.seqs().contains(seq));
    let names = backup.directory().list()?;
    let mut seqs: Vec<Seq> = names.iter().filter_map(|name| names::parse_snapshot(name)).filter(is_dropped).collect();
    for &first in plan.kept.iter().rev().chain(plan.needed.keys()).chain(&plan.bases) {
        if seqs.is_empty() {
            break;
        }
        let named = backup.segments().footer(first)?.snapshot;
        seqs.retain(|&seq| named.is_none_or(|id| id.seq != seq));
    }
    seqs.iter()
        .try_fold(0, |all, &seq| Ok(all + backup.directory().open(&names::snapshot(seq), Access::Read)?.read_len()?))
}

impl Backup {
    /// Whether a compaction by this policy would drop enough to justify writing the file `pruned` again. Reads the footers of
    /// all segments, once, and versions of some.
    ///
    /// # Errors
    /// The same as for [`compact`](Self::compact).
    pub fn is_compaction_due(
        self: &Arc<Self>,
        policy: &KeepPolicy,
        now: Timestamp,
        clock: Clock<'_>,
    ) -> Result<bool, CompactError> {
        let plan = Plan::make(self, policy, now)?;
        // Also when nothing is due: the clock is watched from the beginning.
        let in_doubt = plan.check_clock(now, clock)?;
        let pruned = self.segments().pruned().map_or(0, |pruned| pruned.len_bytes());
        let is_due = !plan.drops.is_empty() && plan.bytes >= pruned / 2;
        if is_due {
            in_doubt?;
        }
        Ok(is_due)
    }

    /// Drops the history outside of the policy. `lock` is that of the backup, which the caller has; `watch` is called repeatedly,
    /// and can break at any time.
    ///
    /// # Errors
    /// When the backup cannot be read completely, the clock may be wrong, or a file cannot be written. Then either nothing has
    /// changed, or only files are left that the next compaction, or recorder, removes.
    pub fn compact(
        self: &Arc<Self>,
        policy: &KeepPolicy,
        (now, clock): (Timestamp, Clock<'_>),
        manner: Manner,
        lock: &SharedLock,
        watch: &mut dyn FnMut(CompactProgress) -> ControlFlow<()>,
    ) -> Result<CompactOutcome, CompactError> {
        self.segments().look_what_is_dropped()?;
        let mut looking = || watch(CompactProgress { stage: Stage::Looking, done_bytes: 0, total_bytes: 0 });
        let Some(prepared) = prepare(self, policy, now, clock, &mut looking)? else {
            return Ok(CompactOutcome::Interrupted);
        };
        if let Some(in_doubt) = prepared.compaction.clock_in_doubt {
            return Err(in_doubt.into());
        }
        if prepared.plan.drops_anything() && self.write_pruned(&prepared, manner, lock, watch)?.is_break() {
            return Ok(CompactOutcome::Interrupted);
        }
        // Also files that an interrupted compaction has left.
        let total_bytes = prepared.plan.bytes;
        let mut removing = || watch(CompactProgress { stage: Stage::Removing, done_bytes: 0, total_bytes });
        if prepared.plan.drops_anything() && wait(manner.grace, &mut removing).is_break() {
            return Ok(CompactOutcome::Interrupted);
        }
        let mut gently = || {
            if manner.pace == Pace::Gentle {
                thread::sleep(PAUSE_BETWEEN_REMOVALS);
            }
            removing()
        };
        let flow = remove_dropped(self, &prepared.plan.kept, &mut gently)?;
        Ok(if flow.is_break() { CompactOutcome::Interrupted } else { CompactOutcome::Done(prepared.compaction) })
    }

    /// Writes the file `pruned` and renames it: from then on the history is shorter.
    fn write_pruned(
        &self,
        prepared: &Prepared,
        manner: Manner,
        lock: &SharedLock,
        watch: &mut dyn FnMut(CompactProgress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, CompactError> {
        let Prepared { plan, needed, compaction } = prepared;
        let total_bytes = compaction.pruned_bytes;
        let mut write = || {
            let mut writing = |done_bytes| watch(CompactProgress { stage: Stage::Writing, done_bytes, total_bytes });
            if write::write(self, plan, needed, manner.pace, &mut writing)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let mut checking = || watch(CompactProgress { stage: Stage::Checking, done_bytes: 0, total_bytes });
            if write::read_back(self, plan, &mut checking)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            // The parity of the file before must not be taken for that of this one, which gets its own when it has its name.
            let parity = names::parity(names::PRUNED);
            if self.directory().list()?.contains(&parity) {
                self.directory().remove(&parity)?;
                self.directory().sync()?;
            }
            // The base of a snapshot in progress is only in its record, which does not exist yet. The rename is made durable
            // before any file is removed.
            let named = lock.unless_healing(|| self.directory().rename(&write::temporary_name(), names::PRUNED));
            match named {
                Some(named) => Ok(ControlFlow::Continue(named?)),
                None => Err(CompactError::Healing),
            }
        };
        let written = write();
        if !matches!(written, Ok(ControlFlow::Continue(()))) {
            // Frees the space: the disk may be full.
            if let Err(error) = remove_if_present(&**self.directory(), &write::temporary_name()) {
                log::warn!("{error}: {}", error.source);
            }
        }
        self.segments().look_what_is_dropped()?;
        written
    }

    /// Totals of everything dropped so far; `None` when nothing was.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_dropped(&self) -> Result<Option<DroppedSoFar>, ReadError> {
        match PrunedFile::open_named(self.directory(), self.manifest().uuid, names::PRUNED) {
            Ok(pruned) => Ok(Some(DroppedSoFar {
                at: pruned.created(),
                versions: pruned.versions(),
                segments: pruned.ranges().iter().map(|range| u64::from(range.segments)).sum(),
                pruned_bytes: pruned.len_bytes(),
            })),
            Err(ReadError::Storage(error)) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Totals of everything that was dropped from a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DroppedSoFar {
    /// Time at which a compaction last dropped something.
    pub at: Timestamp,
    /// Number of dropped versions.
    pub versions: u64,
    /// Number of dropped segments.
    pub segments: u64,
    /// Length of the file `pruned` in bytes.
    pub pruned_bytes: u64,
}

/// Pause between removals of files: during a removal the file system may block syncs.
const PAUSE_BETWEEN_REMOVALS: Duration = Duration::from_millis(50);

/// Interval of checking for a stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn wait(grace: Duration, watch: &mut dyn FnMut() -> ControlFlow<()>) -> ControlFlow<()> {
    let until = Instant::now() + grace;
    loop {
        watch()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return ControlFlow::Continue(());
        }
        thread::sleep(left.min(LOOK_EVERY));
    }
}
