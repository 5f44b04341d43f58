//! `backupfs restore`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::anyhow;
use common::{Backup, DataVersion, History, TimelineEntry, Version};

use super::progress::Bar;
use super::signals::signals_to_end;
use super::{Failure, RestoreArgs, behind};
use crate::fs_error::chain;
use crate::restore::{Destination, Progress, RestoreError, restore};
use crate::{note, say};

/// Restores the newest version, or another one if that was confirmed.
///
/// # Errors
/// Exit code 1 when the version is not there or the backup is damaged, 2 for everything else.
pub fn run(args: &RestoreArgs) -> Result<(), Failure> {
    let backup = Arc::new(Backup::open(&args.url)?);
    let destination = Destination::check(&args.dest, backup.path())?;
    let (history, problem) = backup.read_history();
    if let Err(problem) = problem {
        // The newest version that can be read may not be the newest that was recorded: that is for a human to decide.
        let readable = match history.newest() {
            Some(newest) => format!("what comes after version {} cannot be read", newest.data_version),
            None => "no version can be read".to_owned(),
        };
        let error = anyhow!(
            "the backup is damaged, and {readable}; restore from another copy of the backup if there is one: {}",
            chain(&problem)
        );
        if args.version.is_none() || !args.accept_stale_state {
            return Err(Failure::No(error));
        }
        note!("warning: {error}");
    }
    let sight = backup.spool_sight_beside(destination.directory());
    match behind::stale(&sight) {
        Some(stale) if !args.accept_stale_state => {
            return Err(Failure::Failed(anyhow!(
                "{stale}. To restore what is here only to look at it, add --accept-stale-state"
            )));
        }
        Some(stale) => note!("warning: {stale}."),
        None => behind::warn(&sight),
    }
    let version = &choose(&history, args)?;
    let temporary = Arc::new(Mutex::new(None));
    remove_on_signal(Arc::clone(&temporary))?;
    let mut bar = Bar::new("restoring");
    let mut total = 0;
    let restored = restore(&backup, &history, version, &destination, &mut |progress| match progress {
        Progress::Started { temporary: path, total_bytes } => {
            *temporary.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.to_owned());
            total = total_bytes;
        }
        Progress::Copied(done) => bar.set(done, total),
        Progress::Checking => bar.finish(),
    });
    bar.finish();
    let restored = restored.map_err(failure)?;
    say!("restored version {} to {} ({} bytes)", restored.data_version, restored.path.display(), restored.bytes);
    if Some(restored.data_version) != history.newest().map(|newest| newest.data_version) {
        return Ok(());
    }
    note!(
        "Before you start lightningd:\n\
         - make sure that the old node cannot run any more, on any machine\n\
         - copy hsm_secret to the same directory: it is not in the backup, and without it the funds are lost"
    );
    Ok(())
}

fn failure(error: RestoreError) -> Failure {
    if error.is_damage() { Failure::no(error) } else { error.into() }
}

fn choose(history: &History, args: &RestoreArgs) -> Result<Version, Failure> {
    let newest = history.newest().ok_or_else(|| Failure::no(anyhow!("{} has no version yet", args.url)))?;
    let Some(wanted) = args.version else { return Ok(newest.clone()) };
    let version = history.version(wanted).map_err(Failure::no)?;
    let version = version.ok_or_else(|| Failure::no(anyhow!(why_not_there(history, wanted))))?;
    if version.seq == newest.seq {
        return Ok(version);
    }
    let cost = format!(
        "version {wanted} is not the newest, which is {}: a node that is started on it can broadcast a revoked state, \
         and the peer then takes ALL funds of that channel",
        newest.data_version
    );
    if !args.accept_stale_state {
        return Err(Failure::Failed(anyhow!(
            "{cost}; leave --version out to restore the newest, or add --accept-stale-state to restore it only to look \
             at it"
        )));
    }
    note!("warning: {cost}. Look at it, but never start lightningd on it.");
    Ok(version)
}

/// Says of a version that is not there what became of it and which ones are near.
fn why_not_there(history: &History, wanted: DataVersion) -> String {
    let mut fate = "is not in the backup";
    let distance = |version: DataVersion| version.distance_from(wanted);
    let (mut before, mut after) = (None::<DataVersion>, None::<DataVersion>);
    let read = history.for_timeline(&mut |entry| {
        match entry {
            TimelineEntry::Rewound { data_version, .. } if data_version == wanted => {
                fate = "was rewound: lightningd never committed it";
            }
            TimelineEntry::Missing { first, last, .. }
                if wanted.distance_from(first) >= 0 && last.distance_from(wanted) >= 0 =>
            {
                fate = "was never recorded: lightningd ran without the backup then";
            }
            TimelineEntry::Recorded(Version { data_version, .. }) if distance(data_version) < 0 => {
                before = before.into_iter().chain([data_version]).max_by_key(|&version| distance(version));
            }
            TimelineEntry::Recorded(Version { data_version, .. }) => {
                after = after.into_iter().chain([data_version]).min_by_key(|&version| distance(version));
            }
            TimelineEntry::Rewound { .. } | TimelineEntry::Missing { .. } => {}
        }
        ControlFlow::Continue(())
    });
    let nearest = match (before, after) {
        (Some(before), Some(after)) => format!("{before} and {after}"),
        (Some(one), None) | (None, Some(one)) => one.to_string(),
        (None, None) => "none".to_owned(),
    };
    let damage = read.err().map(|error| format!("; of other versions nothing is known: {}", chain(&error)));
    format!("version {wanted} {fate}; nearest available: {nearest}{}", damage.unwrap_or_default())
}

/// Leaves no temporary file behind when the operator loses patience.
fn remove_on_signal(temporary: Arc<Mutex<Option<PathBuf>>>) -> anyhow::Result<()> {
    let mut signals = signals_to_end()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_none() {
            return;
        }
        if let Some(path) = temporary.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It has its final name already if the signal came at the very end.
            let _: std::io::Result<()> = std::fs::remove_file(path);
        }
        note!("backupfs: interrupted; no partial file was left behind");
        std::process::exit(2);
    })?;
    Ok(())
}
