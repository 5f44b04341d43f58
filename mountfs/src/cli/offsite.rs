//! `backupfs offsite`.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use common::feed::Feed;
use common::{
    Backup, BackupLock, Every, KeepSpan, OffsiteEntry, OffsiteSeal, OffsiteState, OffsiteStatus, with_causes,
};
use offsite::connect::{begin, describe, expect_copy, key_files, new_key, open_store};
use offsite::copy_error::CopyError;
use offsite::description::SealKind;
use offsite::keys::key_file::Wrapper;
use offsite::keys::unlock::{Unlock, newest_key, unlock};
use offsite::keys::words::words;
use offsite::store::StoreUrl;

use super::Failure;
use super::keys::KeyArgs;
use super::offsite_check::{self, CheckArgs};
use super::offsite_prune::{self, PruneArgs};
use super::offsite_wait::{self, WaitArgs};
use super::shipping_key::{recipients, seal_of, secret_of_node};
use super::verify::{heard, write_json};
use crate::mount::readme_text::shell_word;
use crate::note;
use crate::say;

/// Keep off-site copies of a backup: encrypted, shipped continuously.
///
/// A copy has every recorded version, within seconds. It is encrypted before it leaves this machine: the node's hsm_secret opens it,
/// and so do 24 words on paper. Copies can be on S3-compatible stores, SFTP servers and other disks.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backupfs offsite add --lightning-dir ~/.lightning/bitcoin sftp://nas/srv/node
  backupfs offsite list --lightning-dir ~/.lightning/bitcoin

docs/offsite.md has recipes for rented storage, a NAS and a second disk, and how to restore from a copy.")]
pub struct OffsiteArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: OffsiteCommand,
}

/// The commands for copies.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the help is that of the arguments")]
pub enum OffsiteCommand {
    Add(AddArgs),
    List(ListArgs),
    Remove(RemoveArgs),
    Sheet(SheetArgs),
    Check(CheckArgs),
    Prune(PruneArgs),
}

/// Begin a copy, or go on with one, and have the recorder ship to it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backupfs offsite add --lightning-dir ~/.lightning/bitcoin --credentials /etc/backupfs/b.cred \\
    's3://my-bucket/node?endpoint=https://s3.example.com&region=eu-1'
  backupfs offsite add --lightning-dir ~/.lightning/bitcoin --every segment sftp://nas/srv/node
  backupfs offsite add --lightning-dir ~/.lightning/bitcoin /mnt/usb/node.copy")]
pub struct AddArgs {
    /// The node's directory, that of the network: ~/.lightning/bitcoin
    #[arg(long, value_name = "DIR")]
    pub lightning_dir: PathBuf,
    /// Where the copy is: s3://BUCKET/PREFIX, sftp://HOST/PATH or file:///PATH
    pub url: String,
    /// How often changes are shipped: 10s, 5m, 1h; `segment`: only when they are sealed
    #[arg(long, default_value_t = Every::default())]
    pub every: Every,
    /// A recipient of age (age1…) who alone can open the copy; the node itself cannot. May be given several times
    #[arg(long, value_name = "RECIPIENT")]
    pub recipient: Vec<String>,
    /// A file with access_key=… and secret_key=… of the bucket, that the recorder can read
    #[arg(long, value_name = "FILE")]
    pub credentials: Option<PathBuf>,
    /// The proxy that the bucket is reached through: socks5://HOST:PORT or http://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
    /// How often a restore of the newest version is rehearsed: 7d, 30d. Without it, only `backupfs offsite check` does it
    #[arg(long, value_name = "SPAN", conflicts_with = "recipient")]
    pub rehearse: Option<KeepSpan>,
    /// Answers to the node that wait for the copy.
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Do not encrypt the copy: its readers, the store among them, see channels, payments and peers
    #[arg(long, value_name = "none", value_parser = ["none"], conflicts_with = "recipient")]
    pub seal: Option<String>,
    /// The keys of the node.
    #[command(flatten)]
    pub keys: KeyArgs,
}

/// List the copies of a node, and how they stand.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The node's directory, that of the network: ~/.lightning/bitcoin
    #[arg(long, value_name = "DIR")]
    pub lightning_dir: PathBuf,
    /// One JSON array
    #[arg(long)]
    pub json: bool,
}

/// Stop shipping to a copy. The copy stays as it is.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The node's directory, that of the network: ~/.lightning/bitcoin
    #[arg(long, value_name = "DIR")]
    pub lightning_dir: PathBuf,
    /// The copy, as `backupfs offsite list` shows it
    pub url: String,
}

/// Print what to keep in a drawer: where the copy is, and the 24 words that open it.
///
/// The sheet and read access to the store are enough to read the whole history of the node. One without the other is of no use.
#[derive(Debug, Args)]
pub struct SheetArgs {
    /// The node's directory, that of the network: ~/.lightning/bitcoin
    #[arg(long, value_name = "DIR")]
    pub lightning_dir: PathBuf,
    /// The copy, as `backupfs offsite list` shows it
    pub url: String,
    /// The keys of the node.
    #[command(flatten)]
    pub keys: KeyArgs,
}

/// Runs the command.
///
/// # Errors
/// Exit code 2.
pub fn run(args: &OffsiteArgs) -> Result<(), Failure> {
    match &args.command {
        OffsiteCommand::Add(args) => Ok(add(args)?),
        OffsiteCommand::List(args) => list(args),
        OffsiteCommand::Remove(args) => Ok(remove(args)?),
        OffsiteCommand::Sheet(args) => Ok(sheet(args)?),
        OffsiteCommand::Check(args) => offsite_check::run(args),
        OffsiteCommand::Prune(args) => offsite_prune::run(args),
    }
}

fn add(args: &AddArgs) -> anyhow::Result<()> {
    let mut lock = BackupLock::read(&args.lightning_dir)?;
    let backup = Backup::open(&lock.backend_url)?;
    let url: StoreUrl = args.url.parse()?;
    let entry = OffsiteEntry {
        url: url.to_string(),
        every: args.every,
        credentials: args.credentials.as_deref().map(std::path::absolute).transpose()?,
        recipients: args.recipient.clone(),
        seal: args.seal.is_some().then_some(OffsiteSeal::None),
        proxy: args.proxy.clone(),
        rehearse: args.rehearse,
        wait: args.wait.to_wait()?,
    };
    entry.check()?;
    if let StoreUrl::File(path) = &url
        && path.starts_with(lock.backend_url.path())
    {
        bail!("{} is inside the backup; name a directory on another disk", path.display());
    }
    let store = open_store(&url, entry.credentials.as_deref(), entry.proxy.as_deref())?;
    store.create_base()?;
    let seal = seal_of(&entry);
    let uuid = backup.manifest().uuid;
    let known = describe(&*store)?;
    match &known {
        Some(known) if known.backup != uuid => {
            let (found, expected) = (known.backup.to_string(), uuid.to_string());
            return Err(CopyError::OtherBackup { url: entry.url, found, expected }.into());
        }
        Some(known) if known.seal != seal => bail!(
            "the copy at {url} is encrypted in another way; add it as it was added first (with the same --recipient or --seal), or \
             give another URL"
        ),
        Some(_) => {}
        None => {
            let keys = match seal {
                SealKind::Node => {
                    let secret = secret_of_node(&args.keys, &args.lightning_dir)?;
                    Some(new_key(&[Wrapper::Node(&secret)])?.1)
                }
                // Each run makes a key.
                SealKind::WriteOnly => {
                    recipients(&entry.recipients)?;
                    None
                }
                SealKind::None => None,
            };
            begin(&*store, uuid, seal, keys.as_ref())?;
        }
    }
    lock.offsite.retain(|other| other.url != entry.url);
    lock.offsite.push(entry);
    lock.update(&args.lightning_dir)?;
    let dir = shell_word(&args.lightning_dir.display().to_string());
    match known {
        Some(_) => say!("the copy at {url} is there; it goes on"),
        None => say!("began a copy at {url}"),
    }
    say!(
        "the recorder ships to it from the next start of the node on; `backupfs ship --lightning-dir {dir} --once` does it now"
    );
    match seal {
        SealKind::Node => say!(
            "hsm_secret opens the copy. `backupfs offsite sheet --lightning-dir {dir} {}` prints 24 words that open it, too: keep \
             them on paper, away from the node",
            shell_word(&args.url)
        ),
        SealKind::WriteOnly => say!("only the identities of the recipients open the copy: this node does not"),
        SealKind::None => note!("warning: the copy is NOT ENCRYPTED: the store sees channels, payments and peers"),
    }
    Ok(())
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let lock = BackupLock::read(&args.lightning_dir)?;
    let all = OffsiteStatus::of_all(&args.lightning_dir, &lock.offsite, newest_record(&lock));
    let mut out = io::stdout().lock();
    if args.json {
        let entries: Vec<_> = lock.offsite.iter().zip(&all).map(|(entry, status)| to_json(entry, status)).collect();
        return heard(write_json(&mut out, &entries.into()));
    }
    let mut written = || -> io::Result<()> {
        if all.is_empty() {
            writeln!(out, "no off-site copies; `backupfs offsite add` begins one")?;
        }
        for (entry, status) in lock.offsite.iter().zip(&all) {
            writeln!(out, "{}\n  every {}: {}", entry.url, entry.every, in_words(status))?;
            if let Some(wait) = &status.wait {
                writeln!(out, "  {}", offsite_wait::in_words(wait))?;
            }
        }
        out.flush()
    };
    heard(written())
}

/// Seq of the newest record of the backup; `None`, with a warning, when it cannot be read.
fn newest_record(lock: &BackupLock) -> Option<u64> {
    if lock.offsite.is_empty() {
        return None;
    }
    let read = Backup::open(&lock.backend_url)
        .map_err(anyhow::Error::from)
        .and_then(|backup| Ok(Feed::begin(Arc::new(backup))?.read_end()?.saturating_sub(1)));
    read.map_err(|error| log::warn!("how far the copies are behind is not known: {}", with_causes(error.as_ref()))).ok()
}

fn to_json(entry: &OffsiteEntry, status: &OffsiteStatus) -> serde_json::Value {
    let mut json = serde_json::to_value(status).unwrap_or_default();
    json["every"] = entry.every.to_string().into();
    json
}

fn in_words(status: &OffsiteStatus) -> String {
    let Some(through) = status.shipped_through else {
        return match &status.last_error {
            Some(error) => format!("nothing shipped yet: {error}"),
            None => "nothing shipped yet".to_owned(),
        };
    };
    let behind = match status.behind_changes {
        Some(0) => "which is everything".to_owned(),
        Some(behind) => format!("{behind} fewer than the backup has"),
        None => "and how much is missing is not known".to_owned(),
    };
    let state = match (status.state, &status.last_error) {
        (OffsiteState::Shipping, _) => "shipping".to_owned(),
        (OffsiteState::Stopped, None) => "stopped".to_owned(),
        (OffsiteState::Waiting, Some(error)) => format!("WAITING, it is tried again: {error}"),
        (OffsiteState::Refused, Some(error)) => format!("ENDED: {error}"),
        (_, error) => error.clone().unwrap_or_else(|| "not shipping".to_owned()),
    };
    let rehearsed = match (&status.last_verified, status.last_verified_version, &status.rehearsal_error) {
        (Some(at), Some(version), None) => format!("\n  a restore was rehearsed at {at}, of version {version}"),
        (Some(at), _, Some(error)) => {
            format!("\n  the last rehearsal of a restore has FAILED: {error}; the one at {at} had not")
        }
        (None, _, Some(error)) => format!("\n  the last rehearsal of a restore has FAILED: {error}"),
        (_, _, None) => "\n  a restore was never rehearsed: `backupfs offsite check` does it".to_owned(),
    };
    format!("{state} ({})\n  up to record {through}, {behind}{rehearsed}", status.updated)
}

fn remove(args: &RemoveArgs) -> anyhow::Result<()> {
    let mut lock = BackupLock::read(&args.lightning_dir)?;
    let named = args.url.parse::<StoreUrl>().map_or_else(|_| args.url.clone(), |url| url.to_string());
    let before = lock.offsite.len();
    lock.offsite.retain(|entry| entry.url != named);
    if lock.offsite.len() == before {
        bail!("there is no copy {named}; `backupfs offsite list` shows those that there are");
    }
    lock.update(&args.lightning_dir)?;
    OffsiteStatus::remove(&args.lightning_dir, &named);
    say!(
        "the recorder ships to {named} until the node stops, and not any more after that; what is there stays, and \
         becomes an OLD STATE"
    );
    Ok(())
}

fn sheet(args: &SheetArgs) -> anyhow::Result<()> {
    let lock = BackupLock::read(&args.lightning_dir)?;
    let url: StoreUrl = args.url.parse()?;
    let named = url.to_string();
    let entry = lock.offsite.iter().find(|entry| entry.url == named);
    let entry =
        entry.ok_or_else(|| anyhow!("there is no copy {named}; `backupfs offsite list` shows those that there are"))?;
    let store = open_store(&url, entry.credentials.as_deref(), entry.proxy.as_deref())?;
    let description = expect_copy(&*store)?;
    let key = match description.seal {
        SealKind::None => bail!("the copy is not encrypted: its URL is all that is needed"),
        SealKind::WriteOnly => bail!(
            "this node cannot open the copy, so it has no words for it: the identities of its recipients ({}) open it",
            entry.recipients.join(", ")
        ),
        SealKind::Node => {
            let files = key_files(&*store)?;
            let ring = unlock(&files, &Unlock::Node(secret_of_node(&args.keys, &args.lightning_dir)?))?;
            newest_key(&files, &ring).context("the copy has no key that this node can open")?
        }
    };
    let words = words(&key);
    let numbered: Vec<String> =
        words.split(' ').enumerate().map(|(at, word)| format!("{:2}. {word}", at + 1)).collect();
    let mut out = io::stdout().lock();
    writeln!(out, "Off-site copy of a Core Lightning node (backupfs)\n\n{named}\n")?;
    for row in numbered.chunks(4) {
        writeln!(out, "  {}", row.iter().map(|word| format!("{word:<14}")).collect::<String>().trim_end())?;
    }
    writeln!(
        out,
        "\nTo restore on a new machine, with credentials that can read the store:\n\n  backupfs restore --create {} \
         ~/.lightning/bitcoin\n\nThe words are asked for. hsm_secret is not in the copy: it must be kept elsewhere.",
        shell_word(&named)
    )?;
    Ok(())
}
