//! Compaction: history that the policy does not keep is dropped while the recorder goes on.
//!
//! | file | what |
//! | --- | --- |
//! | `policy` | what is to be kept: pure |
//! | `clock` | whether the clock can be believed that decides it |
//! | `plan` | which segments go |
//! | `reach` | which of their pieces are needed by what is kept |
//! | `write` | those pieces written to the file `remains`, and read back |
//! | `removal` | the files of what was dropped removed, also after a crash |
//! | `offline` | of a backup that nobody records to |
//!
//! No file that is kept is changed, and no page is computed anew: a kept segment finds the pieces that it leads to in
//! `remains` instead of in the segment that they were in, byte for byte. The rename of that file is the moment at which the
//! history becomes shorter.

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
pub use offline::{CompactBackupError, compact_backup, plan_compaction};
use plan::Plan;

use crate::backup::Backup;
use crate::backup::shared_lock::SharedLock;
use crate::segment::Remains;
use crate::segment::version::Version;
use crate::storage::read_error::ReadError;
use crate::storage::{Access, StorageError, remove_if_present};
use format::names;
use format::units::{Seq, Timestamp};

/// Why nothing, or not all, was dropped. Nothing that is kept is touched by any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// The policy is none.
    #[error(transparent)]
    Policy(#[from] KeepPolicyError),
    /// History would be dropped by a clock that may be wrong.
    #[error(transparent)]
    Clock(#[from] ClockInDoubt),
    /// The backup cannot be read, or is damaged.
    #[error("nothing is dropped from a backup that cannot be read as a whole; `backupfs verify` says what is wrong")]
    Read(#[source] ReadError),
    /// Something cannot be written or removed.
    #[error("the backup is not compacted to the end; nothing that is to be kept is lost by that")]
    Write(#[source] StorageError),
    /// What was written does not read back as it should.
    #[error(
        "what is to be kept of old versions does not read back as it should ({what}). Nothing is dropped, and nothing is lost. \
         Check the disk and the memory of this machine; if they are sound, report this"
    )]
    Differs {
        /// What is wrong.
        what: String,
    },
    /// A snapshot is being taken, which may build on what would be dropped.
    #[error("a gap is being healed right now; nothing is dropped. Try again in a minute")]
    Healing,
}

impl From<StorageError> for CompactError {
    /// The call that failed decides: what is written is read, too, and the other way round.
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

/// How much of the disk a compaction leaves to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Most of it, and the rest in small steps: a recorder is at work.
    Gentle,
    /// Nothing.
    Full,
}

/// How a compaction is done.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// How fast.
    pub pace: Pace,
    /// How long after segments were dropped their files are left, so that a mount can take hold of those that it has open.
    pub grace: Duration,
}

impl Manner {
    /// Beside a recorder.
    pub const GENTLE: Self = Self { pace: Pace::Gentle, grace: Duration::from_secs(2) };

    /// Of a backup that nobody records to; it may be mounted.
    pub const FULL: Self = Self { pace: Pace::Full, grace: Duration::from_secs(2) };
}

/// What a compaction is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It finds out what is needed of what goes.
    Looking,
    /// It writes that.
    Writing,
    /// It reads it back.
    Checking,
    /// It removes files.
    Removing,
}

impl Stage {
    /// What it is called in a status, and before a bar.
    pub fn name(self) -> &'static str {
        match self {
            Self::Looking => "looking",
            Self::Writing => "writing",
            Self::Checking => "checking",
            Self::Removing => "removing",
        }
    }

    /// That which is called so.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Looking, Self::Writing, Self::Checking, Self::Removing].into_iter().find(|stage| stage.name() == name)
    }
}

/// How far a compaction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactProgress {
    /// What it is at.
    pub stage: Stage,
    /// Bytes done of those.
    pub done_bytes: u64,
    /// All of them; 0 when they are not known.
    pub total_bytes: u64,
}

/// What a compaction drops, or would drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compaction {
    /// Versions that go.
    pub dropped_versions: u64,
    /// Segments whose files go.
    pub dropped_segments: u64,
    /// Versions that stay.
    pub kept_versions: u64,
    /// The oldest version that stays; `None` when there is none at all.
    pub oldest_kept: Option<Version>,
    /// Bytes that the backup takes less.
    pub freed_bytes: u64,
    /// Bytes of what remains of everything that was ever dropped.
    pub remains_bytes: u64,
    /// Why the clock may be wrong that this was decided by; `None` when it is not doubted, or nothing is dropped.
    pub clock_in_doubt: Option<ClockInDoubt>,
}

/// A compaction in JSON: of `backup-compact` and of `backupfs compact`. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionFields {
    /// Whether it was only planned.
    pub dry_run: bool,
    /// Versions that go.
    pub dropped_versions: u64,
    /// Segments whose files go.
    pub dropped_segments: u64,
    /// Versions that stay.
    pub kept_versions: u64,
    /// The oldest of them.
    pub oldest_version: Option<u32>,
    /// Bytes that the backup takes less.
    pub freed_bytes: u64,
    /// Bytes of what remains of everything that was ever dropped.
    pub remains_bytes: u64,
    /// Why it needs `force`; `None` when it does not.
    #[serde(default)]
    pub clock_in_doubt: Option<String>,
}

impl From<&Compaction> for CompactionFields {
    /// Of one that was carried out.
    fn from(compaction: &Compaction) -> Self {
        let &Compaction { dropped_versions, dropped_segments, kept_versions, freed_bytes, remains_bytes, .. } =
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
            remains_bytes,
            clock_in_doubt,
        }
    }
}

/// How a compaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompactOutcome {
    /// What the policy does not keep is gone.
    Done(Compaction),
    /// It was told to stop: either nothing has changed, or the rest goes the next time.
    Interrupted,
}

/// What was found out about a backup before anything is changed.
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
    let remains_before = backup.segments().remains().map_or(0, |remains| remains.len_bytes());
    let remains_bytes = if !plan.drops_anything() { remains_before } else { write::expected_bytes(&plan, &needed) };
    let snapshots = if !plan.drops_anything() { 0 } else { snapshots_freed(backup, &plan)? };
    let freed = plan.bytes.saturating_add(snapshots).saturating_add(remains_before);
    let compaction = Compaction {
        dropped_versions: plan.versions,
        dropped_segments: plan.drops.len() as u64,
        kept_versions: plan.history.version_count().saturating_sub(plan.versions),
        oldest_kept: plan.oldest.clone(),
        freed_bytes: freed.saturating_sub(remains_bytes),
        remains_bytes,
        clock_in_doubt,
    };
    Ok(Some(Prepared { plan, needed, compaction }))
}

/// Bytes of the full snapshots that nothing needs any more once the plan is carried out.
fn snapshots_freed(backup: &Backup, plan: &Plan) -> Result<u64, ReadError> {
    let is_dropped = |seq: &Seq| plan.gaps.iter().any(|gap| gap.seqs().contains(seq));
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
    /// Whether a compaction by this policy would drop so much that it is worth writing anew what remains of everything that
    /// was dropped before. Reads the footers of all segments, once, and what of their versions a rule may choose from.
    ///
    /// # Errors
    /// As [`compact`](Self::compact).
    pub fn is_compaction_due(
        self: &Arc<Self>,
        policy: &KeepPolicy,
        now: Timestamp,
        clock: Clock<'_>,
    ) -> Result<bool, CompactError> {
        let plan = Plan::make(self, policy, now)?;
        // Also when nothing is due: a clock is watched from the beginning on.
        let in_doubt = plan.check_clock(now, clock)?;
        let remains = self.segments().remains().map_or(0, |remains| remains.len_bytes());
        let is_due = !plan.drops.is_empty() && plan.bytes >= remains / 2;
        if is_due {
            in_doubt?;
        }
        Ok(is_due)
    }

    /// Drops what the policy does not keep. `lock` is that of the backup, which the caller has; `watch` is asked again and
    /// again, and can break at any time.
    ///
    /// # Errors
    /// When the backup cannot be read as a whole, the clock may be wrong, or something cannot be written. Either nothing has
    /// changed then, or only files are left that the next compaction, or recorder, removes.
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
        if prepared.plan.drops_anything() && self.write_remains(&prepared, manner, lock, watch)?.is_break() {
            return Ok(CompactOutcome::Interrupted);
        }
        // Also what a compaction that was cut short has left.
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

    /// Writes what remains, and gives it its name: from then on the history is shorter.
    fn write_remains(
        &self,
        prepared: &Prepared,
        manner: Manner,
        lock: &SharedLock,
        watch: &mut dyn FnMut(CompactProgress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, CompactError> {
        let Prepared { plan, needed, compaction } = prepared;
        let total_bytes = compaction.remains_bytes;
        let mut write = || {
            let mut writing = |done_bytes| watch(CompactProgress { stage: Stage::Writing, done_bytes, total_bytes });
            if write::write(self, plan, needed, manner.pace, &mut writing)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let mut checking = || watch(CompactProgress { stage: Stage::Checking, done_bytes: 0, total_bytes });
            if write::read_back(self, plan, &mut checking)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            // What a snapshot that is being taken builds on is told by its record only, which is not there yet. The name is
            // made durable before anything is removed.
            let named = lock.unless_healing(|| self.directory().rename(&write::temporary_name(), names::REMAINS));
            match named {
                Some(named) => Ok(ControlFlow::Continue(named?)),
                None => Err(CompactError::Healing),
            }
        };
        let written = write();
        if !matches!(written, Ok(ControlFlow::Continue(()))) {
            // The space is given back: the disk may be full.
            if let Err(error) = remove_if_present(&**self.directory(), &write::temporary_name()) {
                log::warn!("{error}: {}", error.source);
            }
        }
        self.segments().look_what_is_dropped()?;
        written
    }

    /// What remains of everything that was dropped: bytes of the file, versions and segments that are gone; `None` when nothing
    /// ever was.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_dropped(&self) -> Result<Option<DroppedSoFar>, ReadError> {
        match Remains::open_named(self.directory(), self.manifest().uuid, names::REMAINS) {
            Ok(remains) => Ok(Some(DroppedSoFar {
                at: remains.created(),
                versions: remains.versions(),
                segments: remains.gaps().iter().map(|gap| u64::from(gap.segments)).sum(),
                remains_bytes: remains.len_bytes(),
            })),
            Err(ReadError::Storage(error)) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What was dropped from a backup in all its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DroppedSoFar {
    /// When something was dropped last.
    pub at: Timestamp,
    /// Versions that are gone.
    pub versions: u64,
    /// Segments that are gone.
    pub segments: u64,
    /// Bytes of what remains of them.
    pub remains_bytes: u64,
}

/// Between the removals of two files: removing one takes the file system a moment in which nobody else can sync.
const PAUSE_BETWEEN_REMOVALS: Duration = Duration::from_millis(50);

/// How long it takes at most until a stop is noticed.
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
