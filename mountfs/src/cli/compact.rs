//! `backupfs compact`.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use clap::Args;
use common::compact::{
    Clock, CompactBackupError, CompactOutcome, CompactionFields, Force, Stage, compact_backup, plan_compaction,
};
use common::{BackupUrl, Timestamp, counted};
use serde_json::json;

use super::Failure;
use super::compact_beside::{compact_beside, recording_node};
use super::keep_args::KeepArgs;
use super::progress::Bar;
use super::signals::interrupted_by_signal;
use super::verify::{heard, write_json};
use crate::note;
use crate::say;

/// Drop old versions that a policy does not keep.
///
/// Keeps all versions within the span of --keep-within. Further back it keeps the newest version of each hour, day or week (in
/// UTC) within the spans of --keep-hourly, --keep-daily and --keep-weekly. Spans count back from the newest version, which is
/// always kept. Versions that are kept do not change by a byte. The command can be interrupted at any time.
///
/// With a wrong clock it keeps more, never less. So it refuses when the newest versions were recorded more than a day after
/// those before them, until they span a day. If the node was off and its clock is right, use --force.
///
/// While a node records to the backup, this command asks its recorder to do it, through the node's socket, and waits; the node
/// does not wait. The recorder also does it by itself if `backup.lock` has a policy, and upon
/// `lightning-cli -k backup-compact keep_within=90d`.
#[derive(Debug, Args)]
#[command(after_help = "\
SPAN is a number with a unit: 12h, 90d, 8w, 1y (365 days).

Exit codes: 0 done, 1 the backup is damaged, 2 it could not be done, or the policy keeps nothing; nothing is changed then.

--json prints one object: dry_run, dropped_versions, dropped_segments, kept_versions, oldest_version, freed_bytes, remains_bytes (what is left of all segments that were ever dropped), clock_in_doubt (why it needs --force, or null). Fields are only ever added.

Examples:
  backupfs compact --keep-within 90d --dry-run /var/backup/node.bkp
  backupfs compact --keep-within 30d --keep-hourly 90d --keep-daily 1y /var/backup/node.bkp")]
pub struct CompactArgs {
    /// What is kept.
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Only show what would be dropped, and how much space that would free
    #[arg(long)]
    pub dry_run: bool,
    /// Trust the clock although it has leapt: the node was off for more than a day
    #[arg(long)]
    pub force: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// The backup
    pub url: BackupUrl,
}

/// Drops what the policy does not keep, or with `--dry-run` shows what that would be.
///
/// # Errors
/// Exit code 1 when the backup is damaged, 2 when it cannot be compacted now, or the policy keeps nothing.
pub fn run(args: &CompactArgs) -> Result<(), Failure> {
    let policy = args.keep.policy();
    let interrupted = interrupted_by_signal()?;
    let goes_on = || match interrupted.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let outcome = if args.dry_run {
        plan_compaction(&args.url, &policy, &mut || goes_on())
            .map(|planned| planned.map_or(CompactOutcome::Interrupted, CompactOutcome::Done))
    } else {
        let mut bars = Bars::default();
        let (force, clock) = if args.force { (Force::Yes, Clock::Trusted) } else { (Force::No, Clock::Unwatched) };
        let outcome = compact_backup(&args.url, &policy, clock, &mut |progress| {
            bars.show(progress.stage, progress.done_bytes, progress.total_bytes);
            goes_on()
        });
        if let Err(CompactBackupError::Locked { .. }) = outcome
            && let Some(lightning_dir) = recording_node(args.url.path())
        {
            let fields = compact_beside(&lightning_dir, &policy, force, &interrupted, &mut bars);
            bars.finish();
            return print_result(&fields?, None, args);
        }
        bars.finish();
        outcome
    };
    let outcome = outcome.map_err(|error| if error.is_damage() { Failure::no(error) } else { error.into() })?;
    let CompactOutcome::Done(compaction) = outcome else {
        return Err(Failure::Failed(anyhow::anyhow!(
            "interrupted; the versions that are kept are unchanged. Run it again to continue"
        )));
    };
    let recorded_at = compaction.oldest_kept.as_ref().map(|oldest| oldest.recorded_at);
    print_result(&CompactionFields { dry_run: args.dry_run, ..CompactionFields::from(&compaction) }, recorded_at, args)
}

/// The progress bar of the current stage; stages that take no time have none.
#[derive(Default)]
pub(super) struct Bars(Option<(Stage, Bar)>);

impl Bars {
    pub(super) fn show(&mut self, stage: Stage, done_bytes: u64, total_bytes: u64) {
        if self.0.as_ref().is_none_or(|(of, _)| *of != stage) {
            self.finish();
            self.0 = Some((stage, Bar::new(stage.name())));
        }
        if let Some((_, bar)) = &mut self.0 {
            bar.set(done_bytes, total_bytes);
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some((_, mut bar)) = self.0.take() {
            bar.finish();
        }
    }
}

fn print_result(
    compaction: &CompactionFields,
    oldest_recorded_at: Option<Timestamp>,
    args: &CompactArgs,
) -> Result<(), Failure> {
    if args.json {
        return heard(write_json(&mut io::stdout().lock(), &json!(compaction)));
    }
    let CompactionFields { dropped_versions, freed_bytes, kept_versions, .. } = compaction;
    let (dropped, kept) = (counted(*dropped_versions, "version"), counted(*kept_versions, "version"));
    let kept = match (compaction.oldest_version, oldest_recorded_at) {
        (Some(oldest), Some(at)) => format!("{kept}, the oldest is {oldest}, recorded {at}"),
        (Some(oldest), None) => format!("{kept}, the oldest is {oldest}"),
        (None, _) => kept.to_string(),
    };
    match (dropped_versions, compaction.dry_run) {
        (0, _) => say!("nothing to drop: all of it is kept ({kept})"),
        (_, true) => {
            say!("would drop {dropped} and free {freed_bytes} bytes; nothing is changed");
            say!("would keep {kept}");
            if let Some(doubt) = compaction.clock_in_doubt.as_ref().filter(|_| !args.force) {
                note!("warning: the command would refuse to do it: {doubt}");
            }
        }
        (_, false) => {
            say!("dropped {dropped} and freed {freed_bytes} bytes");
            say!("kept {kept}");
        }
    }
    Ok(())
}
