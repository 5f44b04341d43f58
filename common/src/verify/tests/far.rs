//! Versions opened in a directory that is far: what is read was asked for at once before.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::thread::{self, ThreadId};

use super::*;
use crate::backup::source::Source;
use crate::storage::{Access, Directory, RealDirectory, StorageError, StoredFile, Wanted};

/// What was asked for, and what was read although it was not.
#[derive(Debug, Default)]
pub(super) struct Reads {
    wanted: BTreeMap<String, Vec<Range<u64>>>,
    /// What each thread has read.
    by_thread: HashMap<ThreadId, Vec<(String, Range<u64>)>>,
    /// Times that something was asked for.
    rounds: usize,
    unexpected: Vec<(String, Range<u64>)>,
}

impl Reads {
    /// The number of reads that nothing was asked for before.
    pub(super) fn unexpected(&self) -> usize {
        self.unexpected.len()
    }
}

/// A directory that can only be read, and is far.
#[derive(Debug)]
struct FarDirectory {
    real: RealDirectory,
    reads: Arc<Mutex<Reads>>,
}

#[derive(Debug)]
struct FarFile {
    name: String,
    file: Box<dyn StoredFile>,
    reads: Arc<Mutex<Reads>>,
}

impl Directory for FarDirectory {
    fn path(&self) -> &Path {
        self.real.path()
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        let (file, reads) = (self.real.open(name, access)?, Arc::clone(&self.reads));
        Ok(Box::new(FarFile { name: name.to_owned(), file, reads }))
    }

    fn create(&self, _: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        unreachable!("it is only read")
    }

    fn rename(&self, _: &str, _: &str) -> Result<(), StorageError> {
        unreachable!("it is only read")
    }

    fn remove(&self, _: &str) -> Result<(), StorageError> {
        unreachable!("it is only read")
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.real.list()
    }

    fn sync(&self) -> Result<(), StorageError> {
        unreachable!("it is only read")
    }

    fn lock(&self, _: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        unreachable!("it is only read")
    }

    fn is_far(&self) -> bool {
        true
    }

    fn will_need(&self, wanted: &[Wanted]) {
        let mut reads = self.reads.lock().unwrap();
        reads.rounds += 1;
        for Wanted { name, range } in wanted {
            reads.wanted.entry(name.clone()).or_default().push(range.clone());
        }
    }
}

impl StoredFile for FarFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_len(&self) -> Result<u64, StorageError> {
        self.file.read_len()
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        self.file.check_in_place()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        let range = offset..offset + buf.len() as u64;
        let mut reads = self.reads.lock().unwrap();
        reads.by_thread.entry(thread::current().id()).or_default().push((self.name.clone(), range.clone()));
        let of_file = reads.wanted.get(&self.name).map(Vec::as_slice).unwrap_or_default();
        if !of_file.iter().any(|wanted| wanted.start <= range.start && range.end <= wanted.end) {
            reads.unexpected.push((self.name.clone(), range));
        }
        drop(reads);
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<(), StorageError> {
        unreachable!("it is only read")
    }

    fn sync(&self) -> Result<(), StorageError> {
        unreachable!("it is only read")
    }
}

fn far(path: &Path) -> (Arc<Backup>, Arc<Mutex<Reads>>) {
    let reads = Arc::new(Mutex::new(Reads::default()));
    let directory = FarDirectory { real: RealDirectory::new(path), reads: Arc::clone(&reads) };
    (Arc::new(Backup::open(Source::new("far".to_owned(), Arc::new(directory))).unwrap()), reads)
}

fn bytes(view: &View) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(view.size_bytes()).unwrap()];
    view.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Opens each version by a process that has read nothing before, and returns how many were replayed in a segment.
pub(super) fn open_each(path: &Path, look: &mut dyn FnMut(DataVersion, &Reads)) -> usize {
    let near = Arc::new(Backup::open(&format!("file://{}", path.display()).parse::<BackupUrl>().unwrap()).unwrap());
    let (history, _) = near.read_history();
    let mut versions = Vec::new();
    history
        .for_versions_after(None, &mut |version| {
            versions.push(version.clone());
            ControlFlow::Continue(())
        })
        .unwrap();
    let mut in_segments = 0;
    for version in versions.iter().filter(|version| history.is_sealed(version.seq)) {
        let (backup, reads) = far(path);
        let (history, read) = backup.read_history();
        read.unwrap();
        let plan = history.plan(version).unwrap();
        {
            let mut reads = reads.lock().unwrap();
            (reads.rounds, reads.unexpected) = (0, Vec::new());
        }
        let view = View::open(&backup, &plan).unwrap();
        {
            let reads = reads.lock().unwrap();
            in_segments += usize::from(reads.rounds > 0);
            look(version.data_version, &reads);
        }
        assert!(bytes(&view) == bytes(&View::open(&near, &plan).unwrap()), "version {}", version.data_version);
    }
    in_segments
}

#[test]
fn everything_that_a_sealed_version_reads_is_asked_for_at_once() {
    let node = sample();
    let in_segments = open_each(node.backup_path(), &mut |version, reads| {
        // Opening its segment and its snapshot may take some before.
        assert!(reads.rounds <= 3, "version {version}: {} rounds", reads.rounds);
        // Without any it is the version of a keyframe.
        assert!(reads.rounds == 0 || reads.unexpected.is_empty(), "version {version}: {:?}", reads.unexpected);
    });
    assert!(in_segments > 50, "{in_segments} versions");
}

#[test]
fn what_the_changes_behind_the_sealed_part_read_is_read_by_several_threads() {
    const ROWS: usize = 400;
    let mut node = Node::new("");
    let mut recording = node.record_within(LIMITS);
    node.execute(&mut recording, "CREATE TABLE wide (id INTEGER PRIMARY KEY, what BLOB)");
    let rows = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})");
    node.execute(&mut recording, &format!("{rows} INSERT INTO wide SELECT i, zeroblob(3000) FROM n"));
    drop(recording);
    recording = node.record_within(LIMITS);
    node.write(&mut recording, "the first of a log", Fate::Committed).unwrap();
    let mut sealer = Sealer::new(node.backup(), LIMITS).unwrap();
    sealer.advance(recording.newest().unwrap().seq, &mut |_| ControlFlow::Continue(())).unwrap();
    for row in (1..ROWS).step_by(8) {
        node.execute(&mut recording, &format!("UPDATE wide SET what = 'anew' WHERE id = {row}"));
    }
    drop(recording);

    let (backup, reads) = far(node.backup_path());
    let (history, read) = backup.read_history();
    read.unwrap();
    let plan = history.plan(history.newest().unwrap()).unwrap();
    *reads.lock().unwrap() = Reads::default();
    let view = View::open(&backup, &plan).unwrap();
    {
        let mut reads = reads.lock().unwrap();
        let own = reads.by_thread.remove(&thread::current().id()).unwrap_or_default();
        let of_others: Vec<_> = reads.by_thread.values().flatten().collect();
        let pages = ROWS / 8;
        assert!(of_others.len() > pages, "{} reads", of_others.len());
        let alone = own.iter().filter(|read| !of_others.contains(read) && reads.unexpected.contains(read)).count();
        assert!(alone < pages / 4, "{alone} reads, while each of {pages} rows is in another page");
        let most = reads.by_thread.values().map(Vec::len).max().unwrap_or(0);
        assert!(most < of_others.len() / 4, "{most} of {} reads one after the other", of_others.len());
    }
    assert!(bytes(&view) == std::fs::read(node.database()).unwrap());
}
