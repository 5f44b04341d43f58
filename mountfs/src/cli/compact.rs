//! `backupfs compact`.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use common::KeepPolicy;
use common::compact::{
    Clock, CompactBackupError, CompactOutcome, CompactionFields, Force, Stage, compact_backup, plan_compaction,
};
use common::{Timestamp, counted};
use serde_json::json;

use super::compact_beside::{compact_beside, recording_node};
use super::progress::Bar;
use super::signals::interrupted_by_signal;
use super::verify::{heard, write_json};
use super::{CompactArgs, Failure};
use crate::{note, say};

/// Drops what the policy does not keep, or says what that would be.
///
/// # Errors
/// Exit code 1 when the backup is damaged, 2 when it cannot be compacted now, or the policy keeps nothing.
pub fn run(args: &CompactArgs) -> Result<(), Failure> {
    let policy = KeepPolicy {
        within: args.keep_within,
        hourly: args.keep_hourly,
        daily: args.keep_daily,
        weekly: args.keep_weekly,
    };
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
            return tell(&fields?, None, args);
        }
        bars.finish();
        outcome
    };
    let outcome = outcome.map_err(|error| if error.is_damage() { Failure::no(error) } else { error.into() })?;
    let CompactOutcome::Done(compaction) = outcome else {
        return Err(Failure::Failed(anyhow::anyhow!(
            "interrupted; what is kept is as it was, and the next time goes on from there"
        )));
    };
    let recorded_at = compaction.oldest_kept.as_ref().map(|oldest| oldest.recorded_at);
    tell(&CompactionFields { dry_run: args.dry_run, ..CompactionFields::from(&compaction) }, recorded_at, args)
}

/// The bar of the stage that it is at; none of those that take no time.
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

    fn finish(&mut self) {
        if let Some((_, mut bar)) = self.0.take() {
            bar.finish();
        }
    }
}

fn tell(
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
                note!("warning: it would be refused: {doubt}");
            }
        }
        (_, false) => {
            say!("dropped {dropped} and freed {freed_bytes} bytes");
            say!("kept {kept}");
        }
    }
    Ok(())
}
