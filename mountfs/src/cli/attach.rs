//! `backupfs attach`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{anyhow, bail};
use clap::Args;
use common::PythonLock;
use common::{
    Backup, BackupLock, BackupLockError, BackupUrl, History, LockStatus, OnGap, OnUnreachable, Owner, ReadError,
};
use format::version_rules::{Bump, Decision, decide};

use super::Failure;
use super::init::{
    elsewhere, find_database, has_only_theirs, on_same_file_system, say_what_comes_next, without_detours,
};
use super::node_database::NodeDatabase;
use crate::mount::behind;
use crate::mount::readme_text::shell_word;
use crate::note;
use crate::restore::lightning_dir::{DATABASE_NAME, LightningDir, expect_one_network};
use crate::say;
use common::with_causes;

/// Connect a node to an existing backup.
///
/// Use it for a node that was restored, on this machine or another one, and for a backup that was moved. It writes `backup.lock`
/// into the lightning-dir; if that names this backup already, it is updated, and its other settings stay. The backup must
/// belong to the node whose database is there, and the database must not be an old state. The backup is not changed. Stop the
/// node first.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backupfs restore /mnt/usb/node.bkp ~/.lightning/bitcoin\n  \
                        backupfs attach --lightning-dir ~/.lightning/bitcoin /mnt/usb/node.bkp")]
pub struct AttachArgs {
    /// The node's directory, that of the network: ~/.lightning/bitcoin
    #[arg(long, value_name = "DIR")]
    pub lightning_dir: PathBuf,
    /// The database, if it is not lightningd.sqlite3 in the lightning-dir
    #[arg(long, value_name = "PATH")]
    pub database: Option<PathBuf>,
    /// The backup
    pub url: BackupUrl,
}

/// Connects a node to an existing backup.
///
/// # Errors
/// Exit code 1 when the backup is damaged, 2 for everything else; nothing was changed then.
pub fn run(args: &AttachArgs) -> Result<(), Failure> {
    let node = LightningDir::find(&args.lightning_dir)?;
    if args.database.is_none() {
        expect_one_network(node.path()).map_err(anyhow::Error::from)?;
    }
    let backup = Arc::new(Backup::open(&args.url)?);
    let before = settings_before(node.path(), &backup)?;
    let given = args.database.as_deref().map(find_database).transpose()?;
    let database = given.or_else(|| before.as_ref().and_then(|before| before.database.clone()));
    let path = node.path().join(database.as_deref().unwrap_or(Path::new(DATABASE_NAME)));
    node.expect_stopped(Some(&path))?;
    expect_not_recorded_to(&backup, &args.url)?;
    let (history, problem) = backup.read_history();
    if let Err(problem @ ReadError::NewestUnreadable { .. }) = &problem {
        note!("note: {problem}");
    } else if let Err(problem) = problem {
        return Err(Failure::no(anyhow!(
            "the backup is damaged, and no node can go on recording to it: {}. `backupfs verify {}` shows what is lost; \
             `backupfs init --replace` begins a new one",
            with_causes(&problem),
            args.url
        )));
    }
    let found = NodeDatabase::look(&path)?;
    expect_its_node(found, &path, &backup, &history, &args.url)?;

    let lock = BackupLock {
        backend_url: without_detours(&args.url),
        backup_uuid: Some(backup.manifest().uuid),
        database,
        on_gap: before.as_ref().map_or_else(OnGap::default, |before| before.on_gap),
        compact: before.as_ref().and_then(|before| before.compact),
        offsite: before.as_ref().map(|before| before.offsite.clone()).unwrap_or_default(),
        on_unreachable: before.as_ref().map_or_else(OnUnreachable::default, |before| before.on_unreachable.clone()),
        parity: before.as_ref().and_then(|before| before.parity),
        scrub: before.as_ref().and_then(|before| before.scrub),
    };
    if before.as_ref() == Some(&lock) {
        say!("{} names this backup already", BackupLock::path(node.path()).display());
    } else {
        write(&lock, before.is_some(), node.path())?;
    }
    if found == NodeDatabase::Absent && node.has_its_database_elsewhere() {
        note!("{}", elsewhere(node.path(), "--database"));
    }
    match history.newest_recorded() {
        Some(newest) => found.say_how_it_stands(newest.data_version, &restore_command(&args.url, node.path())),
        None => say!("the backup is empty: it begins with the next write of the node"),
    }
    behind::warn(&backup.spool_sight_beside(node.path()));
    warn_of_other_owner(backup.path(), node.path());
    say_what_comes_next(node.path());
    on_same_file_system(&args.url, node.path());
    Ok(())
}

/// The command that connects a node to a backup.
pub(super) fn attach_command(lightning_dir: &str, url: &BackupUrl) -> String {
    format!("backupfs attach --lightning-dir {} {}", shell_word(lightning_dir), shell_word(&url.to_string()))
}

/// The command that restores a backup to a node.
pub(super) fn restore_command(url: &BackupUrl, lightning_dir: &Path) -> String {
    format!("backupfs restore {} {}", shell_word(&url.to_string()), shell_word(&lightning_dir.display().to_string()))
}

/// The existing `backup.lock`, which names this backup, maybe under an earlier URL; `None` where there is none.
fn settings_before(lightning_dir: &Path, backup: &Backup) -> anyhow::Result<Option<BackupLock>> {
    if has_only_theirs(lightning_dir) {
        return Ok(None);
    }
    let uuid = backup.manifest().uuid;
    match BackupLock::read(lightning_dir) {
        Err(BackupLockError::Missing { .. }) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(before) if before.backup_uuid.is_none_or(|named| named == uuid) => Ok(Some(before)),
        Ok(before) => bail!(
            "this node has another backup, at {}; if it is to go on recording to {} instead, move {} away and do it again",
            before.backend_url,
            backup.path().display(),
            BackupLock::path(lightning_dir).display()
        ),
    }
}

/// Checks that no node records to the backup: two nodes on the same channels lose money.
fn expect_not_recorded_to(backup: &Backup, url: &BackupUrl) -> anyhow::Result<()> {
    let Ok(LockStatus::Held { process }) = backup.look_at_lock() else { return Ok(()) };
    let who = process.map_or_else(|| "a process".to_owned(), |process| format!("process {process}"));
    bail!(
        "{who} records to {url} now: a second node on the same channels loses money. Stop the other one first, for good"
    )
}

/// Checks that the backup belongs to the node of this database, and that the database is no old state.
fn expect_its_node(
    found: NodeDatabase,
    path: &Path,
    backup: &Backup,
    history: &History,
    url: &BackupUrl,
) -> anyhow::Result<()> {
    let NodeDatabase::At { version, node_id } = found else { return Ok(()) };
    if let (Some(theirs), Some(ours)) = (backup.manifest().node_id, node_id)
        && theirs != ours
    {
        let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        bail!(
            "{} belongs to node {}, but {url} is the backup of node {}; check the paths",
            path.display(),
            hex(&ours),
            hex(&theirs)
        );
    }
    match decide(history.newest_for_rules(), version, Bump::Absent) {
        Decision::Append | Decision::Rewind | Decision::Heal { .. } => Ok(()),
        Decision::Refuse { newest, .. } => bail!(
            "{} is at version {version}, but {url} holds version {newest}: the database is an old state, which peers may punish. Do \
             not run it. Restore the newest version: `{} --backup-existing`",
            path.display(),
            restore_command(url, where_to_restore(path))
        ),
    }
}

/// The destination for `restore`: the directory, unless the database has another name there.
fn where_to_restore(database: &Path) -> &Path {
    match database.parent() {
        Some(directory) if database.file_name().is_some_and(|name| name == DATABASE_NAME) => directory,
        _ => database,
    }
}

fn write(lock: &BackupLock, is_there: bool, lightning_dir: &Path) -> anyhow::Result<()> {
    let kept: Option<PathBuf> = if is_there {
        lock.replace(lightning_dir)?
    } else {
        lock.create(lightning_dir)?;
        None
    };
    if let Some(kept) = kept {
        say!("kept the old backup.lock as {}", kept.display());
    }
    let written = BackupLock::path(lightning_dir);
    say!("wrote {}: the node records to {} from its next start on", written.display(), lock.backend_url);
    if let Some(owner) = Owner::given(&written) {
        say!("it belongs to {owner}, as {} does", lightning_dir.display());
    }
    if let Some(theirs) = PythonLock::find(lightning_dir) {
        say!("the backup.lock of the Python plugin stays as it is ({})", theirs.backend_url);
    }
    Ok(())
}

/// Warns when the backup belongs to another user than the node, which then cannot record to it.
fn warn_of_other_owner(backup: &Path, lightning_dir: &Path) {
    let (Ok(of_backup), Ok(of_node)) = (Owner::of(backup), Owner::of(lightning_dir)) else { return };
    if of_node.is_shut_out_by(of_backup) {
        note!(
            "warning: the backup belongs to {of_backup}, and {} to {of_node}, whose lightningd cannot record to it: `chown -R {} {}`",
            lightning_dir.display(),
            of_node.for_chown(),
            shell_word(&backup.display().to_string())
        );
    }
}
