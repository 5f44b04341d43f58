//! `backupfs offsite prune`.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, anyhow};
use clap::Args;
use common::compact::{Clock, CompactionFields};
use common::counted;
use offsite::connect::{expect_copy, key_files, open_store};
use offsite::keys::unlock::newest_key;
use offsite::prune::{CopyToPrune, PruneOutcome, plan_pruning, prune};
use offsite::store::StoreUrl;
use serde_json::json;

use super::Failure;
use super::compact::Bars;
use super::keep_args::KeepArgs;
use super::read_url::ReadArgs;
use super::signals::interrupted_by_signal;
use super::verify::{heard, write_json};
use crate::note;
use crate::say;

/// Remove old versions, which a policy does not keep, from an off-site copy.
///
/// Run it on another machine than the node, with credentials that may delete: the node's need not. Spans count back from the newest
/// version of the copy, or from now by the clock of this machine if that is earlier; the newest version is always kept. What is kept
/// does not change by a byte. Changes that are in no segment yet are never removed, however old they are. Stop mounts of the copy
/// before, or mount it again afterwards. The command can be interrupted at any time.
#[derive(Debug, Args)]
#[command(after_help = "\
SPAN is a number with a unit: 12h, 90d, 8w, 1y (365 days).

Exit codes: 0 done, 1 the copy is damaged, 2 it could not be done, or the policy keeps nothing.

Example:
  backupfs offsite prune --keep-within 90d --keep-daily 1y --credentials admin.cred --words words.txt \\
    's3://my-bucket/node?endpoint=https://s3.example.com'")]
pub struct PruneArgs {
    /// The copy: s3://BUCKET/PREFIX, sftp://HOST/PATH or file:///PATH
    pub url: StoreUrl,
    /// What is kept.
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Only show what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Trust the clock of the node although it has leapt: the node was off for more than a day
    #[arg(long)]
    pub force: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// What opens the copy.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// Prunes a copy.
///
/// # Errors
/// Exit code 1 when the copy is damaged, 2 when it cannot be pruned now, or the policy keeps nothing.
pub(super) fn run(args: &PruneArgs) -> Result<(), Failure> {
    let policy = args.keep.policy();
    let copy = open(args)?;
    let interrupted = interrupted_by_signal()?;
    let goes_on = || match interrupted.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let outcome = if args.dry_run {
        plan_pruning(&copy, &policy, &mut || goes_on()).map(|planned| {
            planned.map_or(PruneOutcome::Interrupted, |compaction| PruneOutcome::Done { compaction, objects: 0 })
        })
    } else {
        let mut bars = Bars::default();
        let clock = if args.force { Clock::Trusted } else { Clock::Unwatched };
        let outcome = prune(&copy, &policy, clock, &mut |progress| {
            bars.show(progress.stage, progress.done_bytes, progress.total_bytes);
            goes_on()
        });
        bars.finish();
        outcome
    };
    let PruneOutcome::Done { compaction, objects } =
        outcome.map_err(|error| if error.is_damage() { Failure::no(error) } else { error.into() })?
    else {
        return Err(Failure::Failed(anyhow!("interrupted; what is kept is unchanged. Run it again to continue")));
    };
    let doubt = compaction.clock_in_doubt.map(|doubt| doubt.to_string()).filter(|_| args.dry_run && !args.force);
    let fields = CompactionFields { dry_run: args.dry_run, ..CompactionFields::from(&compaction) };
    if args.json {
        let mut json = json!(fields);
        json["removed_objects"] = objects.into();
        return heard(write_json(&mut io::stdout().lock(), &json));
    }
    let (dropped, kept) = (counted(fields.dropped_versions, "version"), counted(fields.kept_versions, "version"));
    if args.dry_run {
        say!("would drop {dropped} and keep {kept}; nothing is changed");
        if let Some(doubt) = doubt {
            note!("warning: the command would refuse to do it: {doubt}");
        }
    } else {
        say!("dropped {dropped}, kept {kept}, removed {}", counted(objects, "object"));
        if matches!(args.url, StoreUrl::S3(_)) && objects > 0 {
            say!(
                "a bucket with versioning or object lock keeps removed objects as old versions: its lifecycle rules end them"
            );
        }
    }
    Ok(())
}

fn open(args: &PruneArgs) -> anyhow::Result<CopyToPrune> {
    let copy = &args.read.copy;
    let store = open_store(&args.url, copy.credentials.as_deref(), copy.proxy.as_deref())?;
    let description = expect_copy(&*store)?;
    let keys = copy.unlock(&*store, &description, &args.read.keys, None)?;
    let keys = match keys {
        None => None,
        Some(ring) => {
            let key = newest_key(&key_files(&*store)?, &ring).context("the copy has no key")?;
            Some((ring, key))
        }
    };
    Ok(CopyToPrune { store: Arc::clone(&store), keys })
}
