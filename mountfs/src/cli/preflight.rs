//! `backupfs preflight`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::Args;
use common::preflight::report::{Report, Verdict};
use common::preflight::{BackupQuestion, Contents, Question, preflight};
use common::{Backup, BackupLock, BackupLockError, Timestamp};

use super::Failure;
use super::init::has_only_theirs;
use super::keys::EvidenceArgs;
use super::preflight_report::{to_json, write_text};
use super::progress::Bar;
use super::read_url::{CopyArgs, ReadUrl};
use super::verify::{heard, write_json};
use crate::restore::lightning_dir::{DATABASE_NAME, expect_one_network};
use crate::restore::running_node::RunningNode;

/// The bytes that the progress bar counts for a page.
const PAGE_BYTES: u64 = 4096;

/// Say whether a database may be started, or is an old state.
///
/// lightningd keeps a file emergency.recover beside its database, which counts the revocations that each peer has sent. A database
/// with fewer of them is an old state: a node that is started on it can lose all funds of those channels. This compares them, and
/// everything else that can be found: the backup, HTLCs that have run out, whether hsm_secret fits, whether lightningd runs. It
/// changes nothing, and prints no secret.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --backup the backup that backup.lock names is compared, if there is one.

Exit codes: 0 nothing speaks against a start (deadlines are a warning), 1 do not start: it is an old state, 2 it could not be found out.

--json prints one object; its fields are in docs/json.md. Fields are only ever added.

Examples:
  backupfs preflight ~/.lightning/bitcoin
  backupfs preflight --backup /var/backup/node.bkp ~/.lightning/bitcoin
  backupfs preflight --hsm-secret ~/.lightning/bitcoin/hsm_secret --emergency-recover ~/.lightning/bitcoin/emergency.recover /tmp/look.sqlite3")]
pub struct PreflightArgs {
    /// The node's directory (of the network), or a database
    #[arg(value_name = "LIGHTNING_DIR|DATABASE")]
    pub node: PathBuf,
    /// The backup, if not the one that backup.lock names
    #[arg(long, value_name = "URL")]
    pub backup: Option<ReadUrl>,
    /// Where the keys and emergency.recover are.
    #[command(flatten)]
    pub evidence: EvidenceArgs,
    /// What opens an off-site copy.
    #[command(flatten)]
    pub copy: CopyArgs,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Gathers the evidence and prints it.
///
/// # Errors
/// Exit code 1 for an old state, 2 when it could not be found out.
pub fn run(args: &PreflightArgs) -> Result<(), Failure> {
    let Node { directory, database, lock } = Node::find(&args.node)?;
    let keys = args.evidence.keys.keys(&directory)?;
    let witnesses = args.evidence.witnesses(&directory);
    let url = args.backup.clone().or_else(|| lock.map(|lock| lock.backend_url.into()));
    let open = |url: &ReadUrl| {
        let opened = args.copy.open(url, &args.evidence.keys, Some(&directory))?;
        anyhow::Ok(Arc::new(Backup::open(&opened.source)?))
    };
    let backup = url.as_ref().map(|url| (url, open(url)));
    let backup = match &backup {
        None => BackupQuestion::None,
        Some((_, Ok(backup))) => {
            BackupQuestion::Opened { backup, lightning_dir: &directory, contents: Contents::Compare }
        }
        Some((url, Err(error))) => BackupQuestion::Unopened { path: url.place().into(), reason: format!("{error:#}") },
    };
    let question = Question {
        database: &database,
        keys: keys.as_ref().map_err(Clone::clone),
        witnesses: &witnesses,
        backup,
        running: running(&directory, &database),
        now: Timestamp::now(),
    };
    let mut bar = Bar::new("reading");
    let report = preflight(&question, &mut |done, total| bar.set(done * PAGE_BYTES, total * PAGE_BYTES));
    bar.finish();
    let mut out = io::stdout().lock();
    heard(if args.json { write_json(&mut out, &to_json(&report)) } else { write_text(&mut out, &report) })?;
    outcome(&report)
}

fn outcome(report: &Report) -> Result<(), Failure> {
    match report.verdict() {
        Verdict::Current => Ok(()),
        Verdict::Stale => Err(Failure::No(anyhow!("do not start lightningd on this database: it is an OLD STATE"))),
        Verdict::Unknown => Err(Failure::Failed(anyhow!("whether this database is current could not be found out"))),
    }
}

/// A lightningd that uses the directory or the database, in words.
fn running(directory: &Path, database: &Path) -> Option<String> {
    let directory = directory.canonicalize().ok()?;
    let found = RunningNode::find(&directory).ok().flatten();
    let found = found.or_else(|| RunningNode::with_open(database).filter(RunningNode::is_lightningd));
    found.map(|node| node.to_string())
}

/// The paths of a node, as they follow from what was named.
struct Node {
    directory: PathBuf,
    database: PathBuf,
    lock: Option<BackupLock>,
}

impl Node {
    fn find(named: &Path) -> anyhow::Result<Self> {
        let is_directory = named.is_dir();
        if is_directory {
            expect_one_network(named)?;
        } else {
            named.metadata().with_context(|| format!("there is no {}", named.display()))?;
        }
        let parent = || named.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = if is_directory { named } else { parent() };
        let lock = match BackupLock::read(directory) {
            _ if has_only_theirs(directory) => None,
            Ok(lock) => Some(lock),
            Err(BackupLockError::Missing { .. }) => None,
            Err(error) => {
                crate::note!("warning: {error}");
                None
            }
        };
        let database = if is_directory {
            let named_there = lock.as_ref().and_then(|lock| lock.database.clone());
            directory.join(named_there.unwrap_or_else(|| DATABASE_NAME.into()))
        } else {
            named.to_owned()
        };
        Ok(Self { directory: directory.to_owned(), database, lock })
    }
}
