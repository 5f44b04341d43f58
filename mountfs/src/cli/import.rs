//! `backupfs import`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context as _, bail};
use common::python_plugin::{Imported, PythonFile, PythonLock, Repairs, import_backup};
use common::{BackupLock, DataVersion, OnGap, OnUnreachable, counted, version_of_database};
use rusqlite::ffi::SQLITE_READONLY_ROLLBACK;
use rusqlite::{Connection, OpenFlags};

use super::init::{expect_one_network, look_around, say_what_comes_next, without_detours};
use super::progress::Bar;
use super::signals::interrupted_by_signal;
use super::{Failure, ImportArgs};
use crate::{note, say};

/// Makes a backup of a file of the Python plugin, and connects a node to it if one is named.
///
/// # Errors
/// Exit code 2; nothing was created then.
pub fn run(args: &ImportArgs) -> Result<(), Failure> {
    let file = PythonFile::open(&args.file)?;
    let node = args.lightning_dir.as_deref().map(|given| Node::find(given, &file)).transpose()?;
    let interrupted = interrupted_by_signal()?;
    let mut bar = Bar::new("importing");
    let imported = import_backup(file, &args.url, &mut |bytes| {
        bar.set(bytes.done, bytes.total);
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish();
    let imported = imported?;
    say!(
        "imported {} of {}: versions {} to {} are in {}, and every change has been replayed",
        counted(imported.changes, "change"),
        args.file.display(),
        imported.first,
        imported.newest,
        args.url
    );
    tell_repairs(&imported.repairs);
    note!("note: the file does not say when a version was recorded, so all have the time at which it was last written");
    match &node {
        Some(node) => node.connect(args, &imported)?,
        None => note!("note: no node records into it yet; that takes `--lightning-dir`"),
    }
    Ok(())
}

/// Says what was left out and changed, and why.
fn tell_repairs(repairs: &Repairs) {
    for left_out in &repairs.named {
        say!(
            "left out the first record of version {} (byte {}): lightningd died before it committed that, and made another \
             version {} afterwards",
            left_out.data_version,
            left_out.offset,
            left_out.data_version
        );
    }
    let more = repairs.never_committed.saturating_sub(repairs.named.len() as u64);
    if more > 0 {
        say!("left out {} of that kind", counted(more, "more record"));
    }
    if repairs.spaces > 0 {
        say!(
            "put the space before WHERE that lightningd left out until 2020 into {}",
            counted(repairs.spaces, "statement")
        );
    }
    if let Some((offset, bytes)) = repairs.torn {
        say!(
            "left out the last {} (from byte {offset}): a record that the plugin did not finish, so that \
             lightningd did not commit it",
            counted(bytes, "byte")
        );
    }
    if let Some(version) = repairs.not_noted {
        say!(
            "version {version} is not in the header of the file: the plugin was killed before lightningd got its answer, \
             which may not have committed it"
        );
    }
}

/// A node to be connected.
struct Node {
    lightning_dir: PathBuf,
    database: NodeDatabase,
}

/// How far the database of a node is.
#[derive(Debug, Clone, Copy)]
enum NodeDatabase {
    /// There is none yet.
    Absent,
    /// In the middle of a transaction, which lightningd rolls back when it starts: when a plugin refuses a write it dies so.
    LeftByCrash,
    /// At this version.
    At(DataVersion),
}

impl Node {
    /// Looks at the node before anything is made.
    fn find(given: &Path, file: &PythonFile) -> anyhow::Result<Self> {
        let not_there = || {
            format!(
                "{} is not a lightning-dir; name the node's directory, for example ~/.lightning/bitcoin",
                given.display()
            )
        };
        let lightning_dir = given.canonicalize().with_context(not_there)?;
        if !lightning_dir.is_dir() {
            bail!(not_there());
        }
        let lock = BackupLock::path(&lightning_dir);
        let is_theirs = lock.ends_with(BackupLock::FILE_NAME) && PythonLock::find(&lightning_dir).is_some();
        if lock.symlink_metadata().is_ok() && !is_theirs {
            bail!(
                "{} exists: the node has a backup already; move that file away, or leave --lightning-dir out to import \
                 without connecting the node",
                lock.display()
            );
        }
        let database = NodeDatabase::look(&lightning_dir.join("lightningd.sqlite3"))?;
        if matches!(database, NodeDatabase::Absent) {
            expect_one_network(given, &lightning_dir)?;
        }
        let newest = file.header().version;
        // One behind: it died before COMMIT, which the recorder puts right.
        if let NodeDatabase::At(version) = database
            && version.distance_from(newest) < -1
        {
            bail!(
                "the database of this node is at version {version}, but {} holds version {newest}: this node was put on an \
                 old state; do not run it. Leave --lightning-dir out to import, and restore the newest version",
                file.path().display()
            );
        }
        Ok(Self { lightning_dir, database })
    }

    /// Writes `backup.lock`, and says what happens next.
    fn connect(&self, args: &ImportArgs, imported: &Imported) -> anyhow::Result<()> {
        let lock = BackupLock {
            backend_url: without_detours(&args.url),
            backup_uuid: Some(imported.uuid),
            database: None,
            on_gap: OnGap::Heal,
            on_unreachable: OnUnreachable::default(),
            compact: None,
        };
        lock.create(&self.lightning_dir).with_context(|| {
            format!("{} is made, but the node is not connected to it; write backup.lock by hand", args.url)
        })?;
        say!("wrote {}", BackupLock::path(&self.lightning_dir).display());
        if let Some(theirs) = PythonLock::find(&self.lightning_dir) {
            say!(
                "the backup.lock of the Python plugin stays as it is ({}); both plugins can run side by side until you take \
                 that one out of the node's config",
                theirs.backend_url
            );
        }
        let newest = imported.newest;
        match self.database {
            NodeDatabase::At(version) => match version.distance_from(newest) {
                0 => say!(
                    "the node's database is at version {newest}, too; at its first start the recorder compares all of it \
                     with the backup"
                ),
                distance if distance > 0 => say!(
                    "the node's database is at version {version}: at its first start the recorder takes a snapshot of it; \
                     versions between {newest} and {version} are missing"
                ),
                _ => say!(
                    "the node's database is at version {version}: lightningd died before it committed version {newest}, \
                     which the recorder rewinds at its first start"
                ),
            },
            NodeDatabase::LeftByCrash => say!(
                "the node's database was left in the middle of a transaction, which lightningd rolls back when it starts; \
                 the recorder then compares it with the backup"
            ),
            NodeDatabase::Absent => {
                say!("there is no database in {} yet: restore it before you start", self.lightning_dir.display());
            }
        }
        say_what_comes_next(&self.lightning_dir);
        look_around(&args.url, &self.lightning_dir);
        Ok(())
    }
}

impl NodeDatabase {
    fn look(database: &Path) -> anyhow::Result<Self> {
        if !database.exists() {
            return Ok(Self::Absent);
        }
        let read = || version_of_database(&Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?);
        match read() {
            Ok(version) => Ok(Self::At(version)),
            Err(error) if error.sqlite_error().is_some_and(|error| error.extended_code == SQLITE_READONLY_ROLLBACK) => {
                Ok(Self::LeftByCrash)
            }
            Err(error) => {
                Err(error).with_context(|| format!("cannot read {}; stop the node first", database.display()))
            }
        }
    }
}
