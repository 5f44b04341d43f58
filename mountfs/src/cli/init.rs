//! `backupfs init`.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context as _, bail};
use clap::Args;
use common::{
    BackupLock, BackupLockError, BackupUrl, CreatedSnapshot, DamagedDatabase, OnGap, OnUnreachable, Owner, PagesDone,
    PythonLock, StaleDatabase, create_backup_for, replace_backup,
};

use super::Failure;
use super::progress::Bar;
use super::signals::interrupted_by_signal;
use crate::note;
use crate::restore::lightning_dir::{HSM_SECRET, LightningDir, expect_one_network};
use crate::say;

/// Create a backup of a node and connect the node to it.
///
/// Takes a snapshot of the database, if there is one already, and writes `backup.lock` into the lightning-dir, where the
/// plugin `backup-recorder` finds it. Stop the node first: it would go on without being recorded. If root runs this for the node
/// of another user, the backup belongs to the owner of the lightning-dir.
///
/// With --replace an existing backup, damaged or not, is renamed to URL.replaced-TIME. It can still be mounted, as far as it is
/// readable. The other settings in the node's `backup.lock` stay. A transaction that `lightningd` left open when it died, as
/// after a refused write, is rolled back first.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  backupfs init --lightning-dir ~/.lightning/bitcoin file:///var/backup/node.bkp")]
pub struct InitArgs {
    /// The node's directory (of the network): ~/.lightning/bitcoin
    #[arg(long, value_name = "DIR")]
    pub lightning_dir: PathBuf,
    /// The database, if it is not lightningd.sqlite3 in the lightning-dir
    #[arg(long, value_name = "PATH")]
    pub database: Option<PathBuf>,
    /// Rename the existing backup, and begin a new one
    #[arg(long)]
    pub replace: bool,
    /// With --replace: even if the database is damaged and the existing backup is not
    #[arg(long, requires = "replace")]
    pub accept_damaged_database: bool,
    /// With --replace: even if the existing backup has newer versions. Only after going back on purpose, as to the version before a
    /// failed upgrade: a node that is started on a revoked state can lose all its funds
    #[arg(long, requires = "replace")]
    pub accept_stale_state: bool,
    /// The new backup: a directory that does not exist yet or is empty, or with --replace a backup
    pub url: BackupUrl,
}

/// The name of the plugin, which is built and installed beside this program.
pub const RECORDER_NAME: &str = "backup-recorder";

/// Creates a backup and connects a node to it.
///
/// # Errors
/// Exit code 2; nothing was created then.
pub fn run(args: &InitArgs) -> Result<(), Failure> {
    let node = check_lightning_dir(args)?;
    let lightning_dir = node.path().to_owned();
    let before = args.replace.then(|| settings_before(&lightning_dir, &args.url)).transpose()?.flatten();
    let given = args.database.as_deref().map(find_database).transpose()?;
    let database = given.or_else(|| before.as_ref().and_then(|before| before.database.clone()));
    let source = match &database {
        Some(database) => Some(find_database(&lightning_dir.join(database))?),
        None => node.usual_database(),
    };
    node.expect_stopped(source.as_deref())?;
    if source.is_none() && node.has_its_database_elsewhere() {
        note!("{}", elsewhere(&lightning_dir, "--database"));
    }

    let interrupted = interrupted_by_signal()?;
    let mut bar = Bar::new("snapshot");
    let progress = &mut |pages: PagesDone| {
        let page_size = u64::from(pages.page_size.get());
        bar.set(u64::from(pages.done) * page_size, u64::from(pages.total) * page_size);
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let created = if args.replace {
        let damaged = if args.accept_damaged_database { DamagedDatabase::Accept } else { DamagedDatabase::Refuse };
        let stale = if args.accept_stale_state { StaleDatabase::Accept } else { StaleDatabase::Refuse };
        replace_backup(&args.url, &lightning_dir, source.as_deref(), damaged, stale, progress)
    } else {
        create_backup_for(&args.url, &lightning_dir, source.as_deref(), progress)
    };
    bar.finish();
    let created = created?;
    let before_copies: Vec<String> =
        before.iter().flat_map(|before| &before.offsite).map(|copy| copy.url.clone()).collect();
    let lock = BackupLock {
        backend_url: without_detours(&args.url),
        backup_uuid: Some(created.uuid),
        database,
        on_gap: before.as_ref().map_or_else(OnGap::default, |before| before.on_gap),
        compact: before.as_ref().and_then(|before| before.compact),
        // Those of another backup.
        offsite: Vec::new(),
        parity: before.as_ref().and_then(|before| before.parity),
        scrub: before.as_ref().and_then(|before| before.scrub),
        on_unreachable: before.map_or_else(OnUnreachable::default, |before| before.on_unreachable),
    };
    for copy in before_copies {
        note!(
            "the off-site copy {copy} is of the old backup, and is not shipped to any more: it becomes an OLD STATE. Give the new \
             backup copies of its own with `backupfs offsite add`"
        );
    }
    if let Some(aside) = &created.renamed_to {
        say!("renamed the old backup to {}; it can still be mounted, as far as it is readable", aside.display());
    }
    if let Some(spool) = &created.left_spool {
        say!("the changes in the spool {} may be in neither backup; they stay there", spool.display());
    }
    if args.replace {
        let again = "the node is not connected to the new backup; run the same command again when that is solved";
        if let Some(copy) = lock.replace(&lightning_dir).context(again)? {
            say!("kept the old backup.lock as {}", copy.display());
        }
    } else if let Err(error) = lock.create(&lightning_dir) {
        // A backup without a node would only block the next attempt.
        let removed = fs::remove_dir_all(args.url.path());
        let left = if removed.is_err() {
            format!("; {} has to be removed by hand", args.url.path().display())
        } else {
            String::new()
        };
        return Err(anyhow::Error::new(error)
            .context(format!("the node cannot be connected to the backup{left}"))
            .into());
    }
    report(args, &lightning_dir, source.as_deref());
    if let Some(snapshot) = &created.snapshot {
        warn_about_database(snapshot);
    }
    offer_import(args, &lightning_dir);
    Ok(())
}

/// Warns about damage of the copied database, and about what is not supported in it.
fn warn_about_database(snapshot: &CreatedSnapshot) {
    if let Some(found) = &snapshot.damage {
        note!("{}", database_is_damaged(found));
    }
    if let Some(table) = snapshot.virtual_tables.first() {
        let more = match snapshot.virtual_tables.len() {
            1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        note!(
            "warning: the database has the virtual table {table}{more}. Virtual tables (FTS5 and the like) are not supported: \
             a change that writes to one, also by a trigger, may not replay, and then versions from there on cannot be \
             restored. lightningd needs none: stop it, drop them with their triggers, and run `backupfs init --replace`"
        );
    }
}

/// The warning about a damaged database.
pub(super) fn database_is_damaged(found: &str) -> String {
    format!(
        "warning: the node's database is DAMAGED. SQLite's quick_check says: {found}. The backup holds it as it is, which is \
         better than no backup, and `backupfs restore` needs --accept-damaged for it. Stop lightningd and repair the \
         database, for instance with `sqlite3 lightningd.sqlite3 .recover | sqlite3 repaired.sqlite3`, and put the repaired \
         one in its place; then run `backupfs init --replace`"
    )
}

/// Explains what happens to the Python plugin's backup, if the node has one.
fn offer_import(args: &InitArgs, lightning_dir: &Path) {
    let Some(theirs) = PythonLock::find(lightning_dir) else { return };
    say!(
        "\nThis node has a backup of the Python plugin `backup`, too: {}. That, and its backup.lock, stay as they are, and \
         both plugins can run side by side.",
        theirs.backend_url
    );
    if let Some(file) = theirs.file {
        say!(
            "To have the versions in that file as well, stop the node, move {} and {} away, and make a backup of it \
             instead of this one:\n\n    backupfs import --lightning-dir {} {} {}",
            args.url.path().display(),
            BackupLock::path(lightning_dir).display(),
            args.lightning_dir.display(),
            file.display(),
            args.url
        );
    }
}

/// The warning about a node that has run, but has no database at the usual path.
pub(super) fn elsewhere(lightning_dir: &Path, how: &str) -> String {
    format!(
        "warning: {} is there, but no database: if `wallet=` in the node's config says that it is elsewhere, name it with {how}",
        lightning_dir.join(HSM_SECRET).display()
    )
}

/// The URL of an existing backup, without `..` and links, so that it is still valid from anywhere years later.
pub(super) fn without_detours(url: &BackupUrl) -> BackupUrl {
    let path = url.path().canonicalize().ok();
    path.and_then(|path| path.to_str()?.parse().ok()).unwrap_or_else(|| url.clone())
}

/// The existing `backup.lock`, whose settings are kept; `None` where there is none, or none that is usable.
fn settings_before(lightning_dir: &Path, url: &BackupUrl) -> anyhow::Result<Option<BackupLock>> {
    if has_only_theirs(lightning_dir) {
        return Ok(None);
    }
    let before = match BackupLock::read(lightning_dir) {
        Ok(before) => before,
        Err(BackupLockError::Missing { .. }) => return Ok(None),
        Err(error) => {
            note!("warning: {error}; its other settings are not kept");
            return Ok(None);
        }
    };
    let [theirs, ours] = [&before.backend_url, url].map(without_detours);
    if theirs != ours {
        bail!(
            "this node is backed up at {}, not at {url}; to begin a backup elsewhere move {} away",
            before.backend_url,
            BackupLock::path(lightning_dir).display()
        );
    }
    Ok(Some(before))
}

/// Whether the only `backup.lock` is the one of the Python plugin.
pub(super) fn has_only_theirs(lightning_dir: &Path) -> bool {
    BackupLock::path(lightning_dir).ends_with(BackupLock::FILE_NAME) && PythonLock::find(lightning_dir).is_some()
}

fn check_lightning_dir(args: &InitArgs) -> anyhow::Result<LightningDir> {
    let node = LightningDir::find(&args.lightning_dir)?;
    let lock = BackupLock::path(node.path());
    if !args.replace && lock.symlink_metadata().is_ok() && !has_only_theirs(node.path()) {
        bail!(
            "{} exists: the node has a backup already; `--replace` begins a new one in the same place, and keeps the old \
             one under another name",
            lock.display()
        );
    }
    if args.database.is_none() {
        expect_one_network(node.path())?;
    }
    Ok(node)
}

pub(super) fn find_database(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| {
        format!(
            "there is no database {}; leave --database out if the node has never run, or start it once without the \
             plugin",
            path.display()
        )
    })
}

fn report(args: &InitArgs, lightning_dir: &Path, source: Option<&Path>) {
    let lock = BackupLock::path(lightning_dir);
    match source {
        Some(database) => say!("created {} with a snapshot of {}", args.url, database.display()),
        None => say!("created {}, empty: it begins with the first write of the node", args.url),
    }
    say!("wrote {}", lock.display());
    say_owner(&args.url, lightning_dir);
    say_what_comes_next(lightning_dir);
    on_same_file_system(&args.url, lightning_dir);
}

/// Explains how the recorder is started, and what is in no backup.
pub(super) fn say_what_comes_next(lightning_dir: &Path) {
    let recorder = beside_this_program(RECORDER_NAME);
    say!(
        "\nPut this into the node's config ({}/config), if it is not there yet, and start the node:\n\n    important-plugin={}\n",
        lightning_dir.display(),
        recorder.display()
    );
    if !recorder.exists() {
        note!("warning: there is no {} yet; build it with `cargo build --release`", recorder.display());
    }
    say!(
        "Copy {} to a safe place by hand, once. It is never in the backup, and without it the backup cannot bring the \
         funds back.",
        lightning_dir.join(HSM_SECRET).display()
    );
}

/// Reports to which user root has given the backup, so that `lightningd` can record to it.
pub(super) fn say_owner(url: &BackupUrl, lightning_dir: &Path) {
    if let Some(owner) = Owner::given(url.path()) {
        say!("both belong to {owner}, as {} does", lightning_dir.display());
    }
}

/// Warns when backup and node are on the same file system.
pub(super) fn on_same_file_system(url: &BackupUrl, lightning_dir: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    if let (Ok(backup), Ok(node)) = (fs::metadata(url.path()), fs::metadata(lightning_dir))
        && backup.dev() == node.dev()
    {
        note!("warning: backup and node are on the same file system; if it fails, both are lost");
    }
}

/// The path of another program in the directory of this one.
pub fn beside_this_program(name: &str) -> PathBuf {
    let here = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    here.unwrap_or_default().join(name)
}
