//! `backupfs import`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context as _, bail};
use common::python_plugin::{BytesDone, Imported, PythonFile, PythonLock, Repairs, import_backup, import_backup_for};
use common::{BackupLock, OnGap, OnUnreachable, Owner};

use super::attach::{attach_command, restore_command};
use super::init::{on_same_file_system, say_owner, say_what_comes_next, without_detours};
use super::node_database::NodeDatabase;
use super::progress::Bar;
use super::signals::interrupted_by_signal;
use super::{Failure, ImportArgs};
use crate::lightning_dir::{DATABASE_NAME, LightningDir, expect_one_network};
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
    let progress = &mut |bytes: BytesDone| {
        bar.set(bytes.done, bytes.total);
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let imported = match &node {
        Some(node) => import_backup_for(&node.lightning_dir, file, &args.url, progress),
        None => import_backup(file, &args.url, progress),
    };
    bar.finish();
    let imported = imported?;
    say!(
        "imported {} changes of {}: versions {} to {} are in {}, and every change has been replayed",
        imported.changes,
        args.file.display(),
        imported.first,
        imported.newest,
        args.url
    );
    tell_repairs(&imported.repairs);
    note!("note: the file does not say when a version was recorded, so all have the time at which it was last written");
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
        say!("left out {more} more records of that kind");
    }
    if repairs.spaces > 0 {
        say!("put the space before WHERE that lightningd left out until 2020 into {} statements", repairs.spaces);
    }
    if let Some((offset, bytes)) = repairs.torn {
        say!(
            "left out the last {bytes} bytes (from byte {offset}): a record that the plugin did not finish, so that \
             lightningd did not commit it"
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

impl Node {
    /// Looks at the node before anything is made.
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
        // One behind: it died before COMMIT, which the recorder puts right.
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
        let restore = restore_command(&args.url, &self.lightning_dir);
        self.database.say_how_it_stands(imported.newest, &restore);
        say_owner(&args.url, &self.lightning_dir);
        say_what_comes_next(&self.lightning_dir);
        on_same_file_system(&args.url, &self.lightning_dir);
        Ok(())
    }
}
