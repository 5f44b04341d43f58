//! A real mount whose backup is replaced by another one. No read may ever return a mixture of both.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::Node;
use common::BackupUrl;
use mountfs::fuse::kernel_attr::Access;
use mountfs::mount::kernel_mount::connect;
use mountfs::mount::mounted::{Mount, MountSettings, first_answer};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::geteuid;

/// Longest wait for what must happen.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The version with which the histories begin to differ, and the newest one.
const FORK: u32 = 5;
const NEWEST: u32 = 12;

/// Every byte of every version.
type Contents = BTreeMap<u32, Vec<u8>>;

fn statements(version: u32, filler: char) -> Vec<String> {
    let row = filler.to_string().repeat(300);
    if version == 2 {
        return vec![format!(
            "INSERT INTO rows SELECT i, '{row}' FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE \
             i < 12000) SELECT i FROM n)"
        )];
    }
    // Two of them fill a log, so that most versions are sealed.
    let padding = "x".repeat(5 << 19);
    vec![format!("UPDATE rows SET at = '{filler}{version}' || at WHERE version % 4 = {} -- {padding}\n", version % 4)]
}

fn write(node: &mut Node, versions: impl Iterator<Item = u32>, filler: char) {
    for version in versions {
        node.write(version, &statements(version, filler), &format!("2026-11-22T00:{version:02}:00.000001Z"));
    }
    node.seal();
}

fn contents(node: &Node, newest: u32) -> Contents {
    let (fs, _) = node.tree();
    let read = |version: u32| {
        let names = ["versions", &version.to_string(), "lightningd.sqlite3"].map(str::to_owned);
        let inode = names.iter().fold(1, |inode, name| fs.lookup(inode, OsStr::new(name)).unwrap().attr.inode);
        let handle = fs.open(inode).unwrap().0;
        fs.read(handle, 0, u32::MAX, &mut Vec::new()).unwrap().to_vec()
    };
    (2..=newest).map(|version| (version, read(version))).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A backup, and another one or another copy of it to be put in its place.
struct Two {
    node: Node,
    first: Contents,
    other: PathBuf,
    second: Contents,
}

impl Two {
    /// The other one went its own way from [`FORK`] on.
    fn diverged() -> Self {
        let mut node = Node::with_versions(1);
        write(&mut node, 2..FORK, 'a');
        let other = node.path().join("other.bkp");
        copy(&node.backup_path(), &other);
        write(&mut node, FORK..=NEWEST, 'b');
        let first = contents(&node, NEWEST);
        // The other one, in the place of the first for as long as it is written.
        let aside = node.path().join("aside.bkp");
        fs::rename(node.backup_path(), &aside).unwrap();
        fs::rename(&other, node.backup_path()).unwrap();
        node.reopen();
        write(&mut node, FORK..=NEWEST, 'c');
        let second = contents(&node, NEWEST);
        node.close();
        fs::rename(node.backup_path(), &other).unwrap();
        fs::rename(&aside, node.backup_path()).unwrap();
        Self { node, first, other, second }
    }

    /// The other one is a copy from before the newest changes.
    fn older() -> Self {
        let mut node = Node::with_versions(1);
        write(&mut node, 2..FORK + 2, 'a');
        let other = node.path().join("other.bkp");
        copy(&node.backup_path(), &other);
        write(&mut node, FORK + 2..=NEWEST, 'b');
        let first = contents(&node, NEWEST);
        node.close();
        let second = first.range(..FORK + 2).map(|(&version, bytes)| (version, bytes.clone())).collect();
        Self { node, first, other, second }
    }

    fn swap(&self, how: How) {
        let (place, aside) = (self.node.backup_path(), self.node.path().join("aside.bkp"));
        let files = || fs::read_dir(&self.other).unwrap().map(|entry| entry.unwrap().file_name());
        match how {
            How::Directory => {
                fs::rename(&place, aside).unwrap();
                fs::rename(&self.other, &place).unwrap();
                return;
            }
            How::FileByFile => {
                for name in files() {
                    let new = self.node.path().join("new");
                    fs::copy(self.other.join(&name), &new).unwrap();
                    fs::rename(new, place.join(&name)).unwrap();
                }
            }
            How::InPlace => {
                for name in files() {
                    fs::copy(self.other.join(&name), place.join(&name)).unwrap();
                }
            }
        }
        let new: Vec<_> = files().collect();
        for entry in fs::read_dir(&place).unwrap() {
            let name = entry.unwrap().file_name();
            if !new.contains(&name) {
                fs::remove_file(place.join(name)).unwrap();
            }
        }
    }
}

/// How another copy gets to the place of a backup.
#[derive(Debug, Clone, Copy)]
enum How {
    /// `mv`.
    Directory,
    /// `rsync --delete`.
    FileByFile,
    /// `cp`, over the files that are there.
    InPlace,
}

/// A mount in this process, of which all is kept by the real kernel.
struct Mounted {
    mount: Option<Mount>,
    path: PathBuf,
}

impl Mounted {
    /// `None` where nothing can be mounted.
    fn start(node: &Node) -> Option<Self> {
        if File::options().read(true).write(true).open("/dev/fuse").is_err() {
            eprintln!("SKIPPED: /dev/fuse cannot be opened here");
            return None;
        }
        let url: BackupUrl = node.backup_path().to_str().unwrap().parse().unwrap();
        let path = node.mountpoint();
        let settings = MountSettings { access: Access::Owner, cache_mib: MountSettings::CACHE_MIB };
        Some(Self { mount: Some(Mount::start(&url, &path, settings).unwrap()), path })
    }

    fn join(&self, below: &str) -> PathBuf {
        self.path.join(below)
    }

    fn database(&self, version: u32) -> PathBuf {
        self.join(&format!("versions/{version}/lightningd.sqlite3"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.mount.take());
    }
}

#[track_caller]
fn in_time(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < TIMEOUT, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Does the same for each case, at once: most of the time they wait for a disk or for the mount.
fn at_once<C: Copy + Send, const N: usize>(cases: [C; N], test: impl Fn(C) + Sync) {
    let test = &test;
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || test(case));
        }
    });
}

/// Reads half of every version, has `swap` done, reads the rest, and all again by name.
fn expect_no_mixture(node: &Node, first: &Contents, second: &Contents, swap: impl FnOnce(), lists: bool, what: &str) {
    let Some(mounted) = Mounted::start(node) else { return };
    let listed = || fs::read_dir(mounted.join("versions")).unwrap().count();
    listed();
    let open: Vec<_> = first
        .iter()
        .map(|(version, bytes)| {
            let file = File::open(mounted.database(*version)).unwrap();
            let mut half = vec![0; bytes.len() / 2];
            file.read_exact_at(&mut half, 0).unwrap();
            assert!(half == bytes[..half.len()], "{what}: version {version} before anything happened");
            assert_eq!(mounted.join(&format!("versions/{version}")).metadata().unwrap().nlink(), 2);
            (file, *version, bytes)
        })
        .collect();

    swap();
    if lists {
        // It may fail while it is looked what is there now.
        let _ = fs::read_dir(mounted.join("versions")).map(Iterator::count);
    }
    // At once, before the mount has noticed, and until it has.
    let since = Instant::now();
    let mut refused = 0;
    // On a busy machine the mount may notice later.
    while since.elapsed() < Duration::from_millis(600) || (refused == 0 && since.elapsed() < TIMEOUT) {
        for (file, version, bytes) in &open {
            let mut page = vec![0; 256 << 10];
            let mut offset = bytes.len() / 2;
            while offset < bytes.len() {
                match file.read_at(&mut page, offset as u64) {
                    Ok(read) => {
                        let same = read > 0 && page[..read] == bytes[offset..offset + read];
                        assert!(same, "{what}: version {version} is a mixture from {offset} on ({read} bytes)");
                        offset += read;
                    }
                    Err(_) => {
                        refused += 1;
                        break;
                    }
                }
            }
        }
        for version in first.keys() {
            if let Ok(bytes) = fs::read(mounted.database(*version)) {
                let known = [first.get(version), second.get(version)];
                let is_known = known.into_iter().flatten().any(|known| *known == bytes);
                assert!(is_known, "{what}: version {version} read by name is neither what it was nor what it is now");
            }
        }
    }
    in_time("what is open is refused", || open.iter().all(|(file, _, _)| file.read_at(&mut [0; 16], 0).is_err()));
    assert!(refused > 0, "{what}");
    let newest = *second.keys().max().unwrap();
    let target = PathBuf::from(format!("versions/{newest}"));
    in_time("latest leads to the newest", || fs::read_link(mounted.join("latest")).is_ok_and(|to| to == target));
    for version in first.keys() {
        match second.get(version) {
            Some(bytes) => {
                let file = mounted.database(*version);
                assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64, "{what}: {version}");
                assert!(fs::read(file).unwrap() == *bytes, "{what}: version {version} afterwards");
            }
            None => assert!(!mounted.join(&format!("versions/{version}")).exists(), "{what}: {version} is there"),
        }
    }
}

/// The mount has not noticed, and will not: each read is checked by itself.
#[test]
fn nothing_is_read_from_a_file_that_was_put_in_the_place_of_another() {
    at_once([How::Directory, How::FileByFile, How::InPlace], |how| {
        for reads_before in [false, true] {
            let two = Two::diverged();
            let (fs, _) = two.node.tree();
            fs.backup().recognise_segments().unwrap();
            let open = |version: u32| {
                let names = ["versions", &version.to_string(), "lightningd.sqlite3"].map(str::to_owned);
                let inode =
                    names.iter().try_fold(1, |inode, name| Ok(fs.lookup(inode, OsStr::new(name))?.attr.inode))?;
                fs.open(inode)
            };
            let handles: Vec<_> =
                two.first.keys().map(|&version| (version, reads_before.then(|| open(version).unwrap().0))).collect();
            two.swap(how);
            let mut stale = 0;
            for (version, handle) in handles {
                let handle = handle.map_or_else(|| open(version).map(|(handle, _)| handle), Ok);
                let bytes = handle.and_then(|handle| Ok(fs.read(handle, 0, u32::MAX, &mut Vec::new())?.to_vec()));
                match bytes {
                    Ok(bytes) => assert!(bytes == two.first[&version], "{how:?} {reads_before}: version {version}"),
                    Err(error) => stale += u32::from(error.is_stale()),
                }
            }
            let keeps_its_files = reads_before && matches!(how, How::Directory | How::FileByFile);
            assert!(keeps_its_files || stale > 0 && fs.was_replaced(), "{how:?} {reads_before}: {stale}");
        }
    });
}

#[test]
fn a_diverged_copy_in_the_place_of_the_backup_is_never_mixed_with_it() {
    let cases = [
        (How::Directory, false),
        (How::Directory, true),
        (How::FileByFile, false),
        (How::InPlace, false),
        (How::InPlace, true),
    ];
    at_once(cases, |(how, lists)| {
        let two = Two::diverged();
        assert!(two.first[&NEWEST] != two.second[&NEWEST] && two.node.segments().len() > 3);
        expect_no_mixture(&two.node, &two.first, &two.second, || two.swap(how), lists, &format!("{how:?} {lists}"));
    });
}

#[test]
fn an_older_copy_in_the_place_of_the_backup_is_never_mixed_with_it() {
    at_once([(How::Directory, false), (How::FileByFile, true), (How::InPlace, false)], |(how, lists)| {
        let two = Two::older();
        expect_no_mixture(&two.node, &two.first, &two.second, || two.swap(how), lists, &format!("{how:?} {lists}"));
    });
}

/// As the machine that records loses them, when power fails there and the mount is on another one.
#[test]
fn changes_that_are_lost_at_the_end_are_gone_in_the_mount() {
    let mut node = Node::with_versions(1);
    write(&mut node, 2..=NEWEST, 'a');
    let first = contents(&node, NEWEST);
    let log = node.newest_log();
    let before = fs::read(&log).unwrap();
    node.write(NEWEST + 1, &statements(2, 'z'), "2026-11-22T00:50:00.000001Z");
    let newest = contents(&node, NEWEST + 1);
    assert_eq!(node.newest_log(), log);
    node.close();
    expect_no_mixture(&node, &newest, &first, || fs::write(&log, before).unwrap(), false, "lost");
}

#[test]
fn another_backup_in_the_place_of_the_first_is_followed() {
    let node = Node::with_versions(7);
    let other = Node::with_versions(3);
    let Some(mounted) = Mounted::start(&node) else { return };
    assert_eq!(fs::read_link(mounted.join("latest")).unwrap(), Path::new("versions/7"));
    let size = mounted.database(7).metadata().unwrap().len();
    let open = File::open(mounted.database(7)).unwrap();
    // As `init --replace` does it, which takes a moment.
    fs::rename(node.backup_path(), node.path().join("node.bkp.replaced-20261122T140507Z")).unwrap();
    thread::sleep(Duration::from_millis(300));
    copy(&other.backup_path(), &node.path().join("new"));
    fs::rename(node.path().join("new"), node.backup_path()).unwrap();
    in_time("the other backup is followed", || {
        fs::read_link(mounted.join("latest")).is_ok_and(|to| to == Path::new("versions/3"))
    });
    assert!(size > 0 && !mounted.join("versions/7").exists());
    assert!(open.read_at(&mut [0; 16], 0).is_err());
    assert_eq!(fs::read_dir(mounted.join("versions")).unwrap().count(), 3);
    let copied = node.path().join("copied");
    fs::copy(mounted.database(3), &copied).unwrap();
    let rows: u32 = rusqlite::Connection::open(copied)
        .unwrap()
        .query_one("SELECT count(*) FROM rows", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 3);
}

/// The file system is there, and the thread that would answer is not.
#[test]
fn a_mount_that_is_not_served_fails_in_time() {
    if !geteuid().is_root() || File::options().read(true).write(true).open("/dev/fuse").is_err() {
        eprintln!("SKIPPED: only root can make a mount that is not served");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let connection = connect("unserved", place.path(), Access::Owner).unwrap();
    let since = Instant::now();
    let answer = first_answer(place.path(), Duration::from_millis(200));
    unmount(place.path(), UnmountFlags::DETACH).unwrap();
    drop(connection);
    assert_eq!(answer.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!(since.elapsed() < TIMEOUT);
}
