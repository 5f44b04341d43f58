//! `backupfs offsite check`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use common::verify::{Depth, Report, Scope, verify};
use common::{Backup, BackupLock, OffsiteEntry, Source, counted, with_causes};
use offsite::connect::{expect_copy, key_files, open_store};
use offsite::copy::CopyDirectory;
use offsite::copy::chunks::Chunks;
use offsite::copy::contents::UseOfCatalogs;
use offsite::description::{Description, SealKind};
use offsite::keys::key_ring::KeyRing;
use offsite::keys::unlock::{Unlock, unlock};
use offsite::store::{Store, StoreUrl};
use serde_json::{Value, json};

use super::Failure;
use super::keys::KeyArgs;
use super::progress::Bar;
use super::read_url::CopyArgs;
use super::rehearsals::{ReadCopy, RehearsalFailure, rehearse_and_note};
use super::shipping_key::secret_of_node;
use super::verify::{heard, write_json};
use crate::restore::rehearsal::Rehearsed;

/// Rehearse a restore from the off-site copies of a node.
///
/// Checks that the objects of a copy form one chain. Then it restores the newest version from there to a temporary file, has SQLite
/// check all of it, and compares it with the same version of the backup. Nothing is changed, and the file is removed again. The date
/// of the last success is in `backup-status` and in `backupfs offsite list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 every copy can be restored and is equal to the backup, 1 one cannot or is not, 2 one could not be checked.

Example:
  backupfs offsite check --lightning-dir ~/.lightning/bitcoin

With `offsite add --rehearse 30d` the recorder does it by itself every 30 days.")]
pub struct CheckArgs {
    /// The node's directory, that of the network: ~/.lightning/bitcoin
    #[arg(long, value_name = "DIR")]
    pub lightning_dir: PathBuf,
    /// The copy, as `backupfs offsite list` shows it; without it all of them
    pub url: Option<String>,
    /// A file with the 24 words of the copy
    #[arg(long, value_name = "FILE")]
    pub words: Option<PathBuf>,
    /// A file with an identity of age (AGE-SECRET-KEY-1…), for a copy of a write-only node
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// One JSON array
    #[arg(long)]
    pub json: bool,
    /// The keys of the node.
    #[command(flatten)]
    pub keys: KeyArgs,
}

/// What was found out about a copy.
struct Checked {
    url: String,
    /// Whether its objects form one chain; `None` when that was not found out.
    chain: Option<Report>,
    rehearsed: Result<Rehearsed, RehearsalFailure>,
}

impl Checked {
    fn is_good(&self) -> bool {
        self.rehearsed.is_ok() && self.chain.as_ref().is_some_and(Report::is_clean)
    }

    fn is_bad(&self) -> bool {
        let of_the_copy = match &self.rehearsed {
            Err(RehearsalFailure::Failed(error)) => error.is_of_the_copy(),
            _ => false,
        };
        of_the_copy || self.chain.as_ref().is_some_and(|chain| !chain.is_clean())
    }
}

/// Checks the copies of a node.
///
/// # Errors
/// Exit code 1 when a copy is not what it should be, 2 when one could not be checked.
pub(super) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let lock = BackupLock::read(&args.lightning_dir)?;
    let backup = Arc::new(Backup::open(&lock.backend_url)?);
    let entries = chosen(&lock.offsite, args.url.as_deref())?;
    let all: Vec<Checked> = entries.into_iter().map(|entry| check(args, entry, &backup)).collect();
    let mut out = io::stdout().lock();
    let written = if args.json {
        write_json(&mut out, &all.iter().map(to_json).collect::<Vec<_>>().into())
    } else {
        all.iter().try_for_each(|checked| write_text(&mut out, checked)).and_then(|()| out.flush())
    };
    heard(written)?;
    let count = |which: fn(&Checked) -> bool| all.iter().filter(|checked| which(checked)).count();
    match (count(Checked::is_bad), all.len() - count(Checked::is_good)) {
        (0, 0) => Ok(()),
        (0, unknown) => {
            Err(Failure::Failed(anyhow!("{unknown} of {} could not be checked", counted(all.len(), "copy"))))
        }
        (bad, _) => Err(Failure::No(anyhow!(
            "{bad} of {} must not be relied on: see above. `backupfs offsite add` with another URL begins a new copy; keep the \
             old one until then",
            counted(all.len(), "copy")
        ))),
    }
}

/// The copies that are asked for.
fn chosen<'a>(all: &'a [OffsiteEntry], url: Option<&str>) -> anyhow::Result<Vec<&'a OffsiteEntry>> {
    let named = url.map(|url| url.parse::<StoreUrl>().map_or_else(|_| url.to_owned(), |url| url.to_string()));
    let chosen: Vec<_> = all.iter().filter(|entry| named.as_ref().is_none_or(|named| entry.url == *named)).collect();
    match (chosen.is_empty(), named) {
        (true, Some(named)) => bail!("there is no copy {named}; `backupfs offsite list` shows those that there are"),
        (true, None) => bail!("there is no off-site copy; `backupfs offsite add` begins one"),
        (false, _) => Ok(chosen),
    }
}

fn check(args: &CheckArgs, entry: &OffsiteEntry, backup: &Arc<Backup>) -> Checked {
    let url = entry.url.clone();
    let copy = match open(args, entry, backup) {
        Ok(copy) => copy,
        Err(error) => {
            let rehearsed = Err(RehearsalFailure::NotOpened(with_causes(error.as_ref())));
            return Checked { url, chain: None, rehearsed };
        }
    };
    let mut bar = Bar::new("restoring");
    let rehearsed = rehearse_and_note(copy.clone(), &url, backup, &args.lightning_dir, &mut |done, total| {
        bar.set(done, total);
    });
    bar.finish();
    let scope = Scope { depth: Depth::Chain, from: None, to: None };
    let directory = CopyDirectory::open(Arc::new(Chunks::new(copy.store, copy.keys, None)), UseOfCatalogs::Ignored);
    let chain = directory
        .map_err(anyhow::Error::from)
        .and_then(|directory| Ok(verify(Source::new(url.clone(), Arc::new(directory)), scope, &|_, _| {})?));
    let chain = chain.inspect_err(|error| log::warn!("{url}: {}", with_causes(error.as_ref()))).ok();
    Checked { url, chain, rehearsed }
}

fn open(args: &CheckArgs, entry: &OffsiteEntry, backup: &Arc<Backup>) -> anyhow::Result<ReadCopy> {
    let url: StoreUrl = entry.url.parse()?;
    let store = open_store(&url, entry.credentials.as_deref(), entry.proxy.as_deref())?;
    let description = expect_copy(&*store)?;
    if description.backup != backup.manifest().uuid {
        bail!("it is the copy of another backup");
    }
    let keys = keys(args, entry, &*store, &description)?;
    Ok(ReadCopy { store, keys })
}

fn keys(
    args: &CheckArgs,
    entry: &OffsiteEntry,
    store: &dyn Store,
    description: &Description,
) -> anyhow::Result<Option<KeyRing>> {
    if description.seal == SealKind::Node && args.words.is_none() && args.identity.is_none() {
        let secret = secret_of_node(&args.keys, &args.lightning_dir)?;
        return Ok(Some(unlock(&key_files(store)?, &Unlock::Node(secret))?));
    }
    let copy = CopyArgs {
        words: args.words.clone(),
        identity: args.identity.clone(),
        unencrypted: entry.seal.is_some(),
        ..CopyArgs::default()
    };
    copy.unlock(store, description, &args.keys, None).context("the copy is not opened")
}

fn to_json(checked: &Checked) -> Value {
    let findings = |report: &Report| {
        let finding =
            |finding: &common::verify::Finding| json!({"file": finding.file, "text": finding.wrong.to_string()});
        report.findings.iter().map(finding).collect::<Value>()
    };
    let rehearsed = checked.rehearsed.as_ref().ok();
    json!({
        "url": checked.url,
        "ok": checked.is_good(),
        "data_version": rehearsed.map(|rehearsed| rehearsed.data_version.get()),
        "recorded_at": rehearsed.map(|rehearsed| rehearsed.recorded_at.to_string()),
        "bytes": rehearsed.map(|rehearsed| rehearsed.bytes),
        "behind": rehearsed.map(|rehearsed| rehearsed.behind),
        "seconds": rehearsed.map(|rehearsed| rehearsed.duration.as_secs_f64()),
        "versions": checked.chain.as_ref().map(|chain| chain.versions),
        "findings": checked.chain.as_ref().map(findings),
        "error": checked.rehearsed.as_ref().err().map(|error| with_causes(error)),
    })
}

fn write_text(out: &mut impl Write, checked: &Checked) -> io::Result<()> {
    writeln!(out, "{}", checked.url)?;
    match &checked.rehearsed {
        Ok(rehearsed) => {
            let Rehearsed { data_version, recorded_at, bytes, behind, duration } = rehearsed;
            writeln!(
                out,
                "  restored version {data_version}, recorded {recorded_at}: {bytes} bytes in {:.1} s, integrity_check ok, equal to the \
                 backup",
                duration.as_secs_f64()
            )?;
            if *behind > 0 {
                writeln!(out, "  the backup has {} more by now", counted(*behind, "version"))?;
            }
        }
        Err(error) => writeln!(out, "  NOT RESTORED: {}", with_causes(error))?,
    }
    match &checked.chain {
        Some(chain) if chain.is_clean() => writeln!(
            out,
            "  one chain: {}, {}, {} bytes",
            counted(chain.versions, "version"),
            counted(chain.files, "file"),
            chain.bytes
        )?,
        Some(chain) => {
            for finding in &chain.findings {
                writeln!(out, "  {}: {}", finding.file, finding.wrong)?;
            }
        }
        None => writeln!(out, "  whether its objects form one chain is not known")?,
    }
    Ok(())
}
