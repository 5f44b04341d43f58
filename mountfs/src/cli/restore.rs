//! `backupfs restore`.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::anyhow;
use clap::Args;
use common::preflight::key_file::{KeyFileError, NodeKeys};
use common::preflight::report::{Report, Verdict};
use common::preflight::revocations::{ChannelEvidence, Standing};
use common::preflight::{BackupQuestion, Contents, Question, preflight};
use common::{
    Backup, BackupLock, DataVersion, History, LockStatus, Owner, ReadError, RecordedBy, TimelineEntry, Timestamp,
    Version,
};
use format::units::Hex;
use offsite::copy::statements::Statements;

use super::attach::attach_command;
use super::keys::EvidenceArgs;
use super::preflight_report::write_text;
use super::progress::Bar;
use super::read_url::{CopyArgs, Opened, ReadUrl};
use super::signals::signals_to_end;
use super::time_arg::Bound;
use super::{Failure, chosen_version, copy_statements};
use crate::mount::behind;
use crate::note;
use crate::restore::lightning_dir::{DATABASE_NAME, HSM_SECRET};
use crate::restore::{
    Checks, Damaged, Destination, Existing, MadeDirectories, Progress, Proof, RestoreError, Restored, restore,
};
use crate::say;
use common::with_causes;

/// Write the newest version of the database to a file.
///
/// The file gets its name when it is complete and has passed SQLite's quick_check. Existing files are not overwritten. The command
/// refuses while `lightningd` runs in that directory. If root runs this, the file belongs to the owner of the directory.
#[derive(Debug, Args)]
#[command(after_help = "\
TIME is in UTC, or with an offset: 2026-11-20, '2026-11-20 14:05', 2026-11-20T14:05:07Z. A day or a minute means its end.

Examples:
  backupfs restore /var/backup/node.bkp ~/.lightning/bitcoin
  backupfs restore --create /var/backup/node.bkp ~/.lightning/bitcoin
  backupfs restore --verify --backup-existing /var/backup/node.bkp ~/.lightning/bitcoin
  backupfs restore --at '2026-11-20 14:05' --accept-stale-state /var/backup/node.bkp /tmp/look.sqlite3

The old node must not run any more, and hsm_secret has to be copied by hand. If the directory has hsm_secret and emergency.recover, or the options name them, a version that they show to be revoked is refused.")]
pub struct RestoreArgs {
    /// The backup
    pub url: ReadUrl,
    /// The node's directory (of the network), which gets a lightningd.sqlite3; or a new file, with an extension
    pub dest: PathBuf,
    /// Create the directory if it does not exist
    #[arg(long)]
    pub create: bool,
    /// Another version than the newest: only to look at it, never to run a node on it
    #[arg(long, value_name = "N")]
    pub version: Option<DataVersion>,
    /// The newest version at that time: like any old version only to look at it
    #[arg(long, value_name = "TIME", value_parser = Bound::at, conflicts_with = "version")]
    pub at: Option<i64>,
    /// Confirms that a node started on an old version can lose all its funds
    #[arg(long)]
    pub accept_stale_state: bool,
    /// Read the file back from the disk and compare it with the backup before it gets its name
    #[arg(long)]
    pub verify: bool,
    /// Rename an existing database, with its journal, to DEST.replaced-TIME
    #[arg(long)]
    pub backup_existing: bool,
    /// Restore a version even if it fails SQLite's quick_check, and print the findings
    #[arg(long)]
    pub accept_damaged: bool,
    /// Paths of the keys and of emergency.recover.
    #[command(flatten)]
    pub evidence: EvidenceArgs,
    /// What opens an off-site copy.
    #[command(flatten)]
    pub copy: CopyArgs,
}

/// Restores the newest version, or another one if that was confirmed.
///
/// # Errors
/// Exit code 1 when the backup is damaged, 2 for everything else.
pub fn run(args: &RestoreArgs) -> Result<(), Failure> {
    let beside = if args.dest.is_dir() { Some(args.dest.as_path()) } else { args.dest.parent() };
    let opened = args.copy.open(&args.url, &args.evidence.keys, beside)?;
    // Before the history is read: what they say is complete then has nothing after it.
    let statements = opened.copy.as_ref().map(|copy| copy.directory.statements()).transpose()?;
    let backup = Arc::new(Backup::open(&opened.source)?);
    let existing = if args.backup_existing { Existing::Replace } else { Existing::Refuse };
    let _made = args.create.then(|| MadeDirectories::make_for(&args.dest, backup.path())).transpose()?;
    let destination = Destination::check(&args.dest, backup.path(), existing)?;
    let (history, problem) = backup.read_history();
    if let Err(problem) = &problem {
        // The newest readable version may not be the newest recorded one: the operator has to decide.
        let readable = match history.newest() {
            Some(newest) => format!("what comes after version {} cannot be read", newest.data_version),
            None => "no version can be read".to_owned(),
        };
        let error = match problem {
            ReadError::NewestUnreadable { .. } => anyhow!("{problem}"),
            _ => anyhow!(
                "the backup is damaged, and {readable}; restore from another copy of the backup if there is one: {}",
                with_causes(problem)
            ),
        };
        if (args.version.is_none() && args.at.is_none()) || !args.accept_stale_state {
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
    let version = &choose(&history, problem.as_ref().err(), args)?;
    if let Some(statements) = &statements {
        note!("{}", copy_statements::text(statements));
    }
    // Asked before anything is written.
    let evidence = Evidence::find(&args.evidence, destination.directory())?;
    let unfinished = Arc::new(Mutex::new(Unfinished::Nothing));
    remove_on_signal(Arc::clone(&unfinished))?;
    let mut bar = Bar::new("restoring");
    let mut total = 0;
    let mut reading_back = Bar::new("reading back");
    let proof = if args.verify { Proof::ReadBack } else { Proof::QuickCheck };
    let damaged = if args.accept_damaged { Damaged::Accept } else { Damaged::Refuse };
    let mut report = None;
    let mut inspect = |database: &Path| {
        let found = report.insert(evidence.preflight(&backup, database, destination.directory()));
        expect_not_revoked(found, version.data_version, args)?;
        expect_shown_current(statements.as_ref(), found, version.data_version, args)
    };
    let checks = Checks { proof, damaged, inspect: &mut inspect };
    let restored = restore(&backup, &history, version, &destination, checks, &mut |progress| match progress {
        Progress::Started { temporary: path, total_bytes } => {
            *unfinished.lock().unwrap_or_else(PoisonError::into_inner) = Unfinished::Temporary(path.to_owned());
            total = total_bytes;
        }
        Progress::Copied(done) => bar.set(done, total),
        Progress::Checking => bar.finish(),
        // The pages are those of the file.
        Progress::Placing => *unfinished.lock().unwrap_or_else(PoisonError::into_inner) = Unfinished::Names,
        Progress::ReadBack { pages, total_pages } => reading_back.set(total / total_pages.max(1) * pages, total),
    });
    bar.finish();
    reading_back.finish();
    let restored = restored.map_err(failure)?;
    if let Some(aside) = &restored.renamed_to {
        say!("renamed what was there to {}", aside.display());
    }
    let proven = if args.verify { ", read back and compared" } else { "" };
    say!(
        "restored version {} to {} ({} bytes{proven})",
        restored.data_version,
        restored.path.display(),
        restored.bytes
    );
    if !restored.damage.is_empty() {
        note!("{}", about_damage(&restored));
    }
    if let Some(owner) = Owner::given(&restored.path) {
        say!("it belongs to {owner}, as {} does", destination.directory().display());
    }
    if let Some(report) = report {
        say_report(&Report { database: restored.path.clone(), ..report });
    }
    if Some(version.seq) == history.newest_recorded().map(|newest| newest.seq) {
        note!("{}", checklist(&backup, version, destination.directory()));
        if restored.path.ends_with(DATABASE_NAME) {
            note!("{}", going_on(&backup, args, &opened, destination.directory()));
        }
    }
    Ok(())
}

/// The evidence of the newest state of the node.
struct Evidence {
    keys: Result<NodeKeys, KeyFileError>,
    witnesses: Vec<PathBuf>,
}

impl Evidence {
    fn find(args: &EvidenceArgs, directory: &Path) -> anyhow::Result<Self> {
        Ok(Self { keys: args.keys.keys(directory)?, witnesses: args.witnesses(directory) })
    }

    /// Examines a database that was just written from the backup.
    fn preflight(&self, backup: &Arc<Backup>, database: &Path, directory: &Path) -> Report {
        let question = Question {
            database,
            keys: self.keys.as_ref().map_err(Clone::clone),
            witnesses: &self.witnesses,
            backup: BackupQuestion::Opened { backup, lightning_dir: directory, contents: Contents::JustWritten },
            // The destination is refused when one is found.
            running: None,
            now: Timestamp::now(),
        };
        preflight(&question, &mut |_, _| {})
    }
}

/// Refuses a revoked state, unless that was accepted. What could not be found out does not stand in the way.
fn expect_not_revoked(report: &Report, version: DataVersion, args: &RestoreArgs) -> Result<(), RestoreError> {
    let channel = |channel: &ChannelEvidence| match channel.standing {
        Standing::Behind { by } => format!("channel {} ({by} more)", Hex(&channel.channel_id)),
        _ => Hex(&channel.channel_id).to_string(),
    };
    let channels: Vec<String> = report.revoked().map(channel).collect();
    if channels.is_empty() || args.accept_stale_state {
        return Ok(());
    }
    Err(RestoreError::Revoked { version, channels })
}

/// Refuses the newest version of a copy that neither the copy nor a witness shows to be current, unless that was accepted.
fn expect_shown_current(
    statements: Option<&Statements>,
    report: &Report,
    version: DataVersion,
    args: &RestoreArgs,
) -> Result<(), RestoreError> {
    let by_witness = !report.witnesses.is_empty() && report.verdict() == Verdict::Current;
    match statements {
        Some(statements) if !statements.is_complete() && !by_witness && !args.accept_stale_state => {
            Err(RestoreError::NotShownCurrent { version, reason: copy_statements::doubt(statements) })
        }
        _ => Ok(()),
    }
}

/// Prints the table of `preflight`.
fn say_report(report: &Report) {
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _: io::Result<()> = write_text(&mut text, report);
    note!("\n{}", String::from_utf8_lossy(&text));
}

/// The warning about a damaged version that was restored, with SQLite's findings and what can be done.
fn about_damage(restored: &Restored) -> String {
    let path = restored.path.display();
    format!(
        "warning: version {} is DAMAGED. SQLite's quick_check says:\n  {}\nlightningd may fail on it, now or later. \
         Repair it before you use it, for example with `sqlite3 {path} .recover | sqlite3 repaired.sqlite3`",
        restored.data_version,
        restored.damage.join("\n  ")
    )
}

/// The conditions for starting a node on the restored database.
fn checklist(backup: &Backup, version: &Version, directory: &Path) -> String {
    let old_node = match backup.look_at_lock() {
        Ok(LockStatus::Held { .. }) => "IT IS RUNNING NOW: something records to this backup",
        Ok(LockStatus::NotSeen) | Err(_) => "two nodes on one set of channels lose money",
    };
    let secret = directory.join(HSM_SECRET);
    let secret = if secret.exists() {
        format!("{} is there; it must be that of this node", secret.display())
    } else {
        format!(
            "copy {HSM_SECRET} to {}: it is not in the backup, and without it the funds are lost",
            directory.display()
        )
    };
    format!(
        "Before you start lightningd:\n\
         - make sure that the old node cannot run any more, on any machine ({old_node})\n\
         - make sure that no copy of this backup has a newer version than {}, of {}\n\
         - {secret}",
        version.data_version, version.recorded_at
    )
}

/// The steps to go on recording.
fn going_on(backup: &Backup, args: &RestoreArgs, opened: &Opened, directory: &Path) -> String {
    let lock = BackupLock::read(directory).ok().filter(|lock| lock.backup_uuid == Some(backup.manifest().uuid));
    if lock.is_some_and(|lock| lock.backend_url.path().canonicalize().ok() == backup.path().canonicalize().ok()) {
        return format!(
            "- {} names this backup: the node goes on recording to it",
            BackupLock::path(directory).display()
        );
    }
    match &args.url {
        ReadUrl::Directory(url) if opened.copy.is_none() => {
            let attach = attach_command(&directory.display().to_string(), url);
            format!("- to go on recording to this backup: `{attach}`")
        }
        _ => copy_statements::going_on(directory),
    }
}

fn failure(error: RestoreError) -> Failure {
    if error.is_damage() { Failure::no(error) } else { error.into() }
}

fn choose(history: &History, problem: Option<&ReadError>, args: &RestoreArgs) -> Result<Version, Failure> {
    let readable = history.newest().ok_or_else(|| anyhow!("{} has no version yet", args.url))?;
    let newest = history.newest_recorded().ok_or_else(|| anyhow!("{} has no version yet", args.url))?;
    let version = match (args.version, args.at) {
        (None, None) => readable.clone(),
        (None, Some(micros)) => newest_at(history, micros)?,
        (Some(wanted), _) => chosen_version::find(history, problem, wanted)?,
    };
    if version.seq == newest.seq {
        return Ok(version);
    }
    let cost = format!(
        "version {}, of {}, is not the newest, which is {}: a node that is started on it can broadcast a revoked state, and \
         the peer then takes ALL funds of that channel",
        version.data_version, version.recorded_at, newest.data_version
    );
    if !args.accept_stale_state {
        return Err(Failure::Failed(anyhow!(
            "{cost}; leave --version and --at out to restore the newest, or add --accept-stale-state to restore it only to look \
             at it"
        )));
    }
    note!("warning: {cost}. Look at it, but never start lightningd on it.");
    Ok(version)
}

/// The newest version that had been recorded at a time. If the clock was wrong once, there may be two: one is returned, and a
/// warning names the other.
fn newest_at(history: &History, micros: i64) -> Result<Version, Failure> {
    if let Some(RecordedBy { newest, set_back }) = history.recorded_by(micros).map_err(Failure::no)? {
        if let Some((before, later)) = set_back {
            let other = before.map_or_else(
                || format!("no version before {} was recorded by then", later.data_version),
                |before| format!("the newest at that time was version {}: --version {0}", before.data_version),
            );
            note!(
                "warning: the clock was set back once: version {}, recorded at {}, comes before version {}, recorded at {}. \
                 --at takes the newest version with such a time, which is {2}. If the clock was behind when that was recorded, \
                 {other}. `backupfs versions` lists all of them, in the order in which they were recorded.",
                later.data_version,
                later.recorded_at,
                newest.data_version,
                newest.recorded_at
            );
        }
        return Ok(newest);
    }
    let oldest = history.oldest().map_err(Failure::no)?;
    let oldest = oldest.map_or_else(String::new, |oldest| {
        format!("; the oldest is version {}, of {}", oldest.data_version, oldest.recorded_at)
    });
    let when = Timestamp::from_micros(micros).map_or_else(|| "then".to_owned(), |when| format!("at {when}"));
    Err(Failure::Failed(anyhow!("nothing had been recorded {when}{oldest}")))
}

/// The message about a version that does not exist: the reason, and the nearest versions.
pub(super) fn why_not_there(history: &History, wanted: DataVersion) -> String {
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
            // The versions before it were handled above.
            TimelineEntry::Dropped { last, .. } if after.is_none() && distance(last) >= 0 => {
                fate = "was dropped by a compaction";
            }
            TimelineEntry::Unreadable { data_version, .. } if data_version == wanted => {
                fate = "was recorded and cannot be opened: it builds on a change that does not replay, or on versions that are missing";
            }
            TimelineEntry::Rewound { .. }
            | TimelineEntry::Unreadable { .. }
            | TimelineEntry::Replaced { .. }
            | TimelineEntry::Missing { .. }
            | TimelineEntry::Dropped { .. } => {}
        }
        ControlFlow::Continue(())
    });
    let nearest = match (before, after) {
        (Some(before), Some(after)) => format!("{before} and {after}"),
        (Some(one), None) | (None, Some(one)) => one.to_string(),
        (None, None) => "none".to_owned(),
    };
    let damage = read.err().map(|error| format!("; other versions cannot be read: {}", with_causes(&error)));
    format!("version {wanted} {fate}; nearest available: {nearest}{}", damage.unwrap_or_default())
}

/// The files that a signal must deal with.
enum Unfinished {
    Nothing,
    /// A temporary file, which must be removed.
    Temporary(PathBuf),
    /// Files are being renamed: ending now could leave neither the old database nor the new one under the name.
    Names,
}

/// Upon a signal, removes the temporary file and ends the process. A signal is ignored while files are being renamed.
fn remove_on_signal(unfinished: Arc<Mutex<Unfinished>>) -> anyhow::Result<()> {
    let mut signals = signals_to_end()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            // Locked to the end: nothing may be renamed any more.
            let unfinished = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
            match &*unfinished {
                Unfinished::Names => continue,
                Unfinished::Nothing => {}
                Unfinished::Temporary(path) => {
                    let _: std::io::Result<()> = std::fs::remove_file(path);
                }
            }
            note!("backupfs: interrupted; no partial file was left behind");
            std::process::exit(2);
        }
    })?;
    Ok(())
}
