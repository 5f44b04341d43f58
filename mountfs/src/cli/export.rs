//! `backupfs export`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::anyhow;
use clap::Args;
use common::python_plugin::{ExportError, export_backup};
use common::{Backup, DataVersion, Owner, counted};

use super::import::file_path;
use super::progress::Bar;
use super::read_url::{ReadArgs, ReadUrl};
use super::signals::interrupted_by_signal;
use super::{Failure, chosen_version};
use crate::mount::behind;
use crate::note;
use crate::say;
use common::with_causes;

/// Write a file that the Python plugin `backup` can restore and continue.
///
/// The file contains the versions up to the newest, as far back as none is missing: from the snapshot that the backup begins
/// with, or that closed the newest gap, or from the node's first change. Existing files are not overwritten.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backupfs export /var/backup/node.bkp /mnt/usb/file.bkp")]
pub struct ExportArgs {
    /// The backup
    pub url: ReadUrl,
    /// What opens an off-site copy.
    #[command(flatten)]
    pub read: ReadArgs,
    /// The new file; also as file:///path
    #[arg(value_parser = file_path)]
    pub file: PathBuf,
    /// Up to this version instead of the newest; only to look at it, never to run a node on it
    #[arg(long, value_name = "N")]
    pub version: Option<DataVersion>,
}

/// Writes a file that the Python plugin can restore.
///
/// # Errors
/// Exit code 1 when the backup is damaged, 2 for everything else.
pub fn run(args: &ExportArgs) -> Result<(), Failure> {
    let interrupted = interrupted_by_signal()?;
    let backup = Arc::new(Backup::open(&args.read.open(&args.url)?.source)?);
    let (history, problem) = backup.read_history();
    if args.version.is_none() {
        // The part that cannot be read may be newer.
        problem.as_ref().map_err(|problem| {
            Failure::no(anyhow!("the backup is damaged; name a version that can be read: {}", with_causes(problem)))
        })?;
        behind::warn(&backup.spool_sight());
    }
    let newest = history.newest().ok_or_else(|| anyhow!("{} has no version yet", args.url))?;
    let version = match args.version {
        None => newest.clone(),
        Some(wanted) => chosen_version::find(&history, problem.as_ref().err(), wanted)?,
    };
    let mut bar = Bar::new("exporting");
    let exported = export_backup(&backup, &history, &version, &args.file, &mut |bytes| {
        bar.set(bytes.done, bytes.total);
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish();
    let exported = exported.map_err(failure)?;
    say!(
        "wrote versions {} to {} to {} ({}, {} bytes)",
        exported.first,
        exported.newest,
        args.file.display(),
        counted(exported.records, "record"),
        exported.bytes
    );
    if let Some(owner) = Owner::given(&args.file) {
        say!("it belongs to {owner}");
    }
    if let Some(problem) = exported.unreadable {
        note!("warning: older versions are not in the file: {}", with_causes(&problem));
    }
    if version.seq != newest.seq {
        note!(
            "warning: version {} is not the newest, which is {}: never start a node on it, for it can broadcast a revoked \
             state, and the peer then takes ALL funds of that channel",
            version.data_version,
            newest.data_version
        );
    }
    Ok(())
}

fn failure(error: ExportError) -> Failure {
    if error.is_damage() { Failure::no(error) } else { error.into() }
}
