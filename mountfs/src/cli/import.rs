//! `backupfs import`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context as _, bail};
use clap::Args;
use common::python_plugin::{Imported, OnDamage, PythonFile, Repairs, TornBy, import_backup};
use common::{
    BackupLock, BackupUrl, DataVersion, OnGap, OnUnreachable, Owner, PythonLock, counted, quick_check, sqlite_reason,
};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Failure;
use super::attach::{attach_command, restore_command};
use super::init::{database_is_damaged, on_same_file_system, say_owner, say_what_comes_next, without_detours};
use super::node_database::NodeDatabase;
use super::progress::Bar;
use super::signals::interrupted_by_signal;
use crate::note;
use crate::restore::lightning_dir::{DATABASE_NAME, LightningDir, expect_one_network};
use crate::say;

/// Convert a file of the Python plugin `backup` to a backup, with all its versions.
///
/// Every change is replayed on the way. Changes that were never committed, and that the plugin failed to take back, are left
/// out; the space that lightningd forgot before WHERE until 2020 is inserted. An incomplete record at the end is left out. If
/// header and records disagree, it reports what may be missing. If a change does not replay, or a record in the middle is
/// damaged, nothing is made, except with --until-damage. The file is only read; its plugin may be writing to it.
///
/// With --lightning-dir the node is connected to the new backup. Stop it first; its database must not be older than the file.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        backupfs import --lightning-dir ~/.lightning/bitcoin /mnt/usb/file.bkp /mnt/usb/node.bkp\n  \
                        backupfs import file:///mnt/usb/file.bkp file:///tmp/look.bkp\n  \
                        backupfs import --until-damage /mnt/usb/damaged.bkp /tmp/rescued.bkp")]
pub struct ImportArgs {
    /// The node's directory (of the network), to go on recording into the backup
    #[arg(long, value_name = "DIR")]
    pub lightning_dir: Option<PathBuf>,
    /// Import the part before the damage, or before a change that does not replay; never run a node on that
    #[arg(long)]
    pub until_damage: bool,
    /// The file of the Python plugin; also as file:///path
    #[arg(value_parser = file_path)]
    pub file: PathBuf,
    /// The new backup: a directory that does not exist yet or is empty
    pub url: BackupUrl,
}

/// Parses a path, bare or as the Python plugin writes it: `file://` and the path, without percent-encoding.
pub(super) fn file_path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("file://").unwrap_or(text) {
        "" => Err("names no file".to_owned()),
        path if path.contains("://") || path.starts_with("socket:") => Err("write the path of a file".to_owned()),
        path => Ok(path.into()),
    }
}

/// Converts a file of the Python plugin to a backup, and connects a node to it if one is named.
///
/// # Errors
/// Exit code 2; nothing was created then.
pub fn run(args: &ImportArgs) -> Result<(), Failure> {
    let file = PythonFile::open(&args.file)?;
    let node = args.lightning_dir.as_deref().map(|given| Node::find(given, &file)).transpose()?;
    let interrupted = interrupted_by_signal()?;
    let mut bar = Bar::new("importing");
    let on_damage = if args.until_damage { OnDamage::StopBefore } else { OnDamage::Refuse };
    let accept = |imported: &Imported| node.as_ref().map_or(Ok(()), |node| node.accepts(imported, args));
    let lightning_dir = node.as_ref().map(|node| &*node.lightning_dir);
    let imported = import_backup(lightning_dir, file, &args.url, on_damage, &accept, &mut |bytes| {
        bar.set(bytes.done, bytes.total);
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish();
    let imported = imported?;
    if let Some(rescue) = &imported.rescue {
        note!(
            "RESCUE: {} is damaged at byte {} ({}); {} ends before that, with version {}, and has a RESCUED.txt about it. What came \
             after it is missing: never run a node on this version",
            args.file.display(),
            rescue.offset,
            rescue.why,
            args.url,
            imported.newest
        );
    }
    say!(
        "imported {} of {}: versions {} to {} are in {}, and every change has been replayed",
        counted(imported.changes, "change"),
        args.file.display(),
        imported.first,
        imported.newest,
        args.url
    );
    report_repairs(&imported);
    note!("note: the file has no times of its versions, so all have the time at which the file was last written");
    if let Some(found) = &imported.damage {
        note!(
            "warning: the copy of the database that {} begins with is DAMAGED: the node's database was so when the plugin \
             copied it. SQLite's quick_check says: {found}. `backupfs restore` needs --accept-damaged for what was imported",
            args.file.display()
        );
    }
    match &node {
        Some(node) => node.connect(args, &imported)?,
        None => {
            if let Some(owner) = Owner::given(args.url.path()) {
                say!("it belongs to {owner}");
            }
            note!("note: no node records into it yet; `{}` connects one", attach_command("DIR", &args.url));
        }
    }
    Ok(())
}

/// Reports what was left out and changed, and why.
fn report_repairs(imported: &Imported) {
    let repairs = &imported.repairs;
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
        say!("left out {} of the same kind", counted(more, "more record"));
    }
    if repairs.spaces > 0 {
        say!(
            "put the space before WHERE that lightningd left out until 2020 into {}",
            counted(repairs.spaces, "statement")
        );
    }
    if let Some((offset, bytes, by)) = repairs.torn {
        let what = match by {
            TornBy::Short { .. } => "a record that is not whole",
            TornBy::Zeros => "zeros, as a power cut leaves",
        };
        say!("left out the last {} (from byte {offset}): {what}", counted(bytes, "byte"));
    }
    if imported.rescue.is_none() {
        report_disagreements(imported.newest, repairs);
    }
}

/// Reports in what header and records disagree, and what may be missing.
fn report_disagreements(newest: DataVersion, repairs: &Repairs) {
    match repairs.header_version {
        Some(header) if header.distance_from(newest) > 0 => note!(
            "warning: the header of the file says that version {header} is the newest, but its whole records end with version \
             {newest}: what is between them is missing. Look for another copy; never run a node on version {newest}"
        ),
        Some(header) if header.next() == newest => say!(
            "version {newest} is not in the header of the file: the plugin was killed before lightningd got its answer, which \
             may not have committed it, or the file was copied while the plugin was writing"
        ),
        Some(header) => note!(
            "warning: the header of the file says that version {header} is the newest, and its records go on to version \
             {newest}: it was copied while the plugin was writing. All that is whole was imported; newer versions may be missing"
        ),
        None => {}
    }
    if let Some((said, records)) = repairs.counted {
        note!("warning: the header of the file counts {said} records, and there are {records}: some may be missing");
    }
}

/// The node to connect to the new backup.
struct Node {
    lightning_dir: PathBuf,
    database: NodeDatabase,
}

impl Node {
    /// Checks the node before anything is made.
    fn find(given: &Path, file: &PythonFile) -> anyhow::Result<Self> {
        let node = LightningDir::find(given)?;
        let lightning_dir = node.path().to_owned();
        let lock = BackupLock::path(&lightning_dir);
        let is_theirs = lock.ends_with(BackupLock::FILE_NAME) && PythonLock::find(&lightning_dir).is_some();
        if lock.symlink_metadata().is_ok() && !is_theirs {
            bail!(
                "{} exists: the node has a backup already; move that file away, or leave --lightning-dir out to import \
                 without connecting the node",
                lock.display()
            );
        }
        expect_one_network(&lightning_dir)?;
        node.expect_stopped(node.usual_database().as_deref())?;
        let database = NodeDatabase::look(&lightning_dir.join(DATABASE_NAME))?;
        let newest = file.header().version;
        // One version behind: it died before COMMIT, and the recorder rewinds that version.
        if let NodeDatabase::At { version, .. } = database
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

    /// Whether the node may be connected to what was imported: its database must not be older, and where something of the
    /// file is missing it must be there, and newer.
    fn accepts(&self, imported: &Imported, args: &ImportArgs) -> Result<(), String> {
        let (newest, known) = (imported.newest, imported.newest_known());
        let is_all = imported.rescue.is_none() && known == newest;
        let out = "leave --lightning-dir out to import without connecting the node";
        match self.database {
            // One version behind: it died before COMMIT, and the recorder rewinds that version.
            NodeDatabase::At { version, .. } if version.distance_from(known) < -1 => Err(format!(
                "the database of this node is at version {version}, but {} holds version {known}: this node was put on an old \
                 state; do not run it. {out}, and restore the newest version",
                args.file.display()
            )),
            _ if is_all => Ok(()),
            NodeDatabase::At { version, .. } if version.distance_from(newest) > 0 => Ok(()),
            _ => Err(format!(
                "versions after {newest} are missing from {}, and the node's database does not prove that it is newer: nothing \
                 would stop it from running on an old state. {out}, and look for another copy of the file or of the database",
                args.file.display()
            )),
        }
    }

    /// SQLite's finding about the node's own database, if there is one and the database can be read.
    fn look_for_damage(&self) -> Option<String> {
        let NodeDatabase::At { .. } = self.database else { return None };
        let path = self.lightning_dir.join("lightningd.sqlite3");
        let look = || quick_check(&Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?, 1);
        match look() {
            Ok(found) => found.into_iter().next(),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => Some(sqlite_reason(&error)),
            Err(error) => {
                note!("warning: whether {} is sound is not known: {}", path.display(), sqlite_reason(&error));
                None
            }
        }
    }

    /// Writes `backup.lock`, and prints what happens next.
    fn connect(&self, args: &ImportArgs, imported: &Imported) -> anyhow::Result<()> {
        let lock = BackupLock {
            backend_url: without_detours(&args.url),
            backup_uuid: Some(imported.uuid),
            database: None,
            on_gap: OnGap::Heal,
            on_unreachable: OnUnreachable::default(),
            compact: None,
            offsite: Vec::new(),
            parity: None,
            scrub: None,
        };
        lock.create(&self.lightning_dir).with_context(|| {
            let attach = attach_command(&self.lightning_dir.display().to_string(), &args.url);
            format!("{} is made, but the node is not connected to it; when that is mended: `{attach}`", args.url)
        })?;
        say!("wrote {}", BackupLock::path(&self.lightning_dir).display());
        if let Some(theirs) = PythonLock::find(&self.lightning_dir) {
            say!(
                "the backup.lock of the Python plugin stays as it is ({}); both plugins can run side by side until you take \
                 that one out of the node's config",
                theirs.backend_url
            );
        }
        if let Some(found) = self.look_for_damage() {
            note!("{}", database_is_damaged(&found));
        }
        let restore = restore_command(&args.url, &self.lightning_dir);
        self.database.say_how_it_stands(imported.newest, &restore);
        say_owner(&args.url, &self.lightning_dir);
        say_what_comes_next(&self.lightning_dir);
        on_same_file_system(&args.url, &self.lightning_dir);
        Ok(())
    }
}
