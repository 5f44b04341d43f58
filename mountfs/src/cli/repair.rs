//! `backupfs repair`.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use anyhow::anyhow;
use clap::Args;
use common::repair::{MendedFile, Repaired, UnmendedFile, remove_kept, repair_backup};
use common::verify::{Depth, Scope, verify};
use common::{BackupUrl, counted};
use serde_json::json;

use super::Failure;
use super::progress::Bar;
use super::read_url::{ReadArgs, ReadUrl};
use super::signals::interrupted_by_signal;
use super::verify::{heard, write_json};

/// Write damaged files of a backup anew.
///
/// Every sealed file has parity: blocks from which damaged ones are made again, byte for byte. Reading does that in memory; this command
/// writes the mended file in place of the damaged one. What parity cannot mend it takes from another copy of the same backup, if --from
/// names one: a directory, or an off-site copy. Only bytes that have their checksum are taken.
///
/// The damaged file is kept as damaged-NAME until a verification finds nothing wrong; this command verifies all checksums at its end.
/// No recorder may write to the backup meanwhile: a recorder mends by itself what it finds damaged. It can be interrupted at any time.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 nothing is damaged any more, 1 something is, 2 it could not be done.

--json prints one object; its fields are in docs/json.md. Fields are only ever added.

Examples:
  backupfs repair /var/backup/node.bkp
  backupfs repair --from sftp://nas/srv/node /var/backup/node.bkp")]
pub struct RepairArgs {
    /// The backup
    pub url: BackupUrl,
    /// Another copy of the same backup
    #[arg(long, value_name = "OTHER_COPY")]
    pub from: Option<ReadUrl>,
    /// What opens an off-site copy.
    #[command(flatten)]
    pub read: ReadArgs,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Repairs a backup.
///
/// # Errors
/// Exit code 1 when something is still damaged, 2 when it could not be done.
pub fn run(args: &RepairArgs) -> Result<(), Failure> {
    let interrupted = interrupted_by_signal()?;
    let other = args.from.as_ref().map(|from| args.read.open_uncached(from)).transpose()?;
    let mut bar = Bar::new("checking");
    let repaired = repair_backup(&args.url, other.as_ref().map(|other| &other.source), &mut |done, total| {
        bar.set(done, total);
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish();
    let repaired = repaired?;
    if interrupted.load(Ordering::Relaxed) {
        return Err(Failure::Failed(anyhow!("interrupted; what was mended stays. Run it again to continue")));
    }
    let scope = Scope { depth: Depth::Quick, ..Scope::default() };
    let is_clean = verify(&args.url, scope, &|_, _| {})?.is_clean();
    let removed = if is_clean { remove_kept(&args.url)? } else { 0 };
    let mut out = io::stdout().lock();
    heard(if args.json {
        write_json(&mut out, &to_json(&repaired, is_clean))
    } else {
        write_text(&mut out, &repaired, removed)
    })?;
    if is_clean {
        return Ok(());
    }
    let what_else = match args.from {
        None => "Another copy of this backup may have what is missing: `backupfs repair --from OTHER_COPY`",
        Some(_) => "This copy does not have what is missing, or does not fit",
    };
    Err(Failure::No(anyhow!("the backup is still damaged; `backupfs verify` says what that costs. {what_else}")))
}

fn to_json(repaired: &Repaired, is_clean: bool) -> serde_json::Value {
    let mended =
        |MendedFile { name, blocks, kept_as }: &MendedFile| json!({"file": name, "blocks": blocks, "kept_as": kept_as});
    let unmended = |UnmendedFile { name, offset, blocks }: &UnmendedFile| json!({"file": name, "offset": offset, "blocks": blocks});
    json!({
        "mended": repaired.mended.iter().map(mended).collect::<Vec<_>>(),
        "unmended": repaired.unmended.iter().map(unmended).collect::<Vec<_>>(),
        "parity_made": repaired.parity,
        "clean": is_clean,
    })
}

fn write_text(out: &mut dyn Write, repaired: &Repaired, removed: u64) -> io::Result<()> {
    let Repaired { mended, unmended, parity } = repaired;
    for MendedFile { name, blocks, .. } in mended {
        writeln!(out, "{name}: mended {}", counted(*blocks, "block"))?;
    }
    for UnmendedFile { name, offset, blocks } in unmended {
        writeln!(out, "{name}: {} cannot be mended, the first at byte {offset}", counted(*blocks, "block"))?;
    }
    if *parity > 0 {
        writeln!(out, "{} made again", counted(*parity, "parity file"))?;
    }
    if mended.is_empty() && unmended.is_empty() && *parity == 0 {
        writeln!(out, "no sealed file differs from its parity")?;
    }
    if removed > 0 {
        writeln!(out, "all checksums are right; {} removed", counted(removed, "damaged file"))?;
    }
    Ok(())
}
