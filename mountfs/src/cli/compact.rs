//! `backupfs compact`.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use common::compact::{
    CompactOutcome, Compaction, CompactionFields, KeepPolicy, Stage, compact_backup, plan_compaction,
};
use serde_json::json;

use super::progress::Bar;
use super::signals::interrupted_by_signal;
use super::verify::{heard, write_json};
use super::{CompactArgs, Failure};
use crate::say;

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
        let outcome = compact_backup(&args.url, &policy, &mut |progress| {
            bars.show(progress.stage, progress.done_bytes, progress.total_bytes);
            goes_on()
        });
        bars.finish();
        outcome
    };
    let outcome = outcome.map_err(|error| if error.is_damage() { Failure::no(error) } else { error.into() })?;
    let CompactOutcome::Done(compaction) = outcome else {
        return Err(Failure::Failed(anyhow::anyhow!(
            "interrupted; what is kept is as it was, and the next time goes on from there"
        )));
    };
    if args.json {
        let json = json!(CompactionFields { dry_run: args.dry_run, ..CompactionFields::from(&compaction) });
        return heard(write_json(&mut io::stdout().lock(), &json));
    }
    tell(&compaction, args.dry_run);
    Ok(())
}

/// The bar of the stage that it is at; none of those that take no time.
#[derive(Default)]
struct Bars(Option<(Stage, Bar)>);

impl Bars {
    fn show(&mut self, stage: Stage, done_bytes: u64, total_bytes: u64) {
        if self.0.as_ref().is_none_or(|(of, _)| *of != stage) {
            self.finish();
            let name = match stage {
                Stage::Looking => "looking",
                Stage::Writing => "writing",
                Stage::Checking => "checking",
                Stage::Removing => "removing",
            };
            self.0 = Some((stage, Bar::new(name)));
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

fn tell(compaction: &Compaction, dry_run: bool) {
    let kept = match &compaction.oldest_kept {
        Some(oldest) => format!(
            "{} versions, the oldest is {}, recorded {}",
            compaction.kept_versions, oldest.data_version, oldest.recorded_at
        ),
        None => format!("{} versions", compaction.kept_versions),
    };
    let Compaction { dropped_versions, dropped_segments, freed_bytes, .. } = compaction;
    match (dropped_segments, dry_run) {
        (0, _) => say!("nothing to drop: all of it is kept ({kept})"),
        (_, true) => {
            say!("would drop {dropped_versions} versions and free {freed_bytes} bytes; nothing is changed");
            say!("would keep {kept}");
        }
        (_, false) => {
            say!("dropped {dropped_versions} versions and freed {freed_bytes} bytes");
            say!("kept {kept}");
        }
    }
}
