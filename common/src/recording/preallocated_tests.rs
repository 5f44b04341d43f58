//! Preallocation on a slow disk.

use std::fmt;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::storage::{Access, DeadlineDirectory, StoredFile};
use crate::testing::{Fate, Node, contents};
use format::names;

/// A real directory whose preallocated file is delayed until the test releases it.
#[derive(Debug)]
struct SlowPreallocation {
    real: RealDirectory,
    asked: Sender<()>,
    done: Arc<Mutex<Receiver<()>>>,
}

#[derive(Debug)]
struct SlowFile {
    file: Box<dyn StoredFile>,
    asked: Sender<()>,
    done: Arc<Mutex<Receiver<()>>>,
}

impl Directory for SlowPreallocation {
    fn path(&self) -> &Path {
        self.real.path()
    }

    fn open(&self, name: &str, access: Access) -> Result<Box<dyn StoredFile>, StorageError> {
        self.real.open(name, access)
    }

    fn create(&self, name: &str) -> Result<Box<dyn StoredFile>, StorageError> {
        let file = self.real.create(name)?;
        if name != names::PREALLOCATED {
            return Ok(file);
        }
        Ok(Box::new(SlowFile { file, asked: self.asked.clone(), done: Arc::clone(&self.done) }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.real.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.real.remove(name)
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.real.list()
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.real.sync()
    }

    fn lock(&self, name: &str) -> Result<Box<dyn fmt::Debug + Send + Sync>, StorageError> {
        self.real.lock(name)
    }
}

impl StoredFile for SlowFile {
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
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> Result<(), StorageError> {
        // The first one is that of the zeros; once the other end is dropped, none waits.
        let _sent = self.asked.send(());
        let _done = self.done.lock().unwrap().recv();
        self.file.sync()
    }
}

/// The directory of a backup, to be left behind after a second; when a sync of the preallocated file begins; and what lets it end.
fn slow(node: &Node) -> (Arc<dyn Directory>, Receiver<()>, Sender<()>) {
    let (asked, is_asked) = channel();
    let (done, is_done) = channel();
    let real = RealDirectory::new(node.backup_path());
    let slow = SlowPreallocation { real, asked, done: Arc::new(Mutex::new(is_done)) };
    let with_deadline = DeadlineDirectory::new(Arc::new(slow), Arc::default()).unwrap();
    with_deadline.set_timeout(Duration::from_secs(1));
    (Arc::new(with_deadline), is_asked, done)
}

/// A regression: an append waited for the preallocation, and on a slow disk that counted as a hang.
#[test]
fn no_append_waits_for_the_room_of_the_next_log() {
    let mut node = Node::new("");
    let (slow, is_asked, done) = slow(&node);
    let mut recording = node.record_in(slow);
    recording.preallocate_logs();
    is_asked.recv().unwrap();
    for position in 0..4 {
        // Two of them are in logs that begin meanwhile.
        let note = if position < 2 { "short".to_owned() } else { "long ".repeat(10_000) };
        node.write(&mut recording, &note, Fate::Committed).unwrap();
    }
    // A closed recording leaves the lock to the thread that may still write.
    drop(recording);
    let again = || {
        let directory = Arc::new(RealDirectory::new(node.backup_path()));
        BackupWriter::open_in(directory, &node.backup_lock, node.dir.path(), LogLimits::default())
    };
    assert!(matches!(again(), Err(OpenRecordingError::Locked { .. })), "its zeros may still arrive");
    drop(done);
    let until = Instant::now() + Duration::from_secs(10);
    while matches!(again(), Err(OpenRecordingError::Locked { .. })) {
        assert!(Instant::now() < until, "it is given back when the call has returned");
        thread::sleep(LOCK_RETRY_AFTER);
    }
    again().unwrap();
    assert_eq!(node.newest_contents(), (14, contents(&node.connection)));
}

/// A log that a thread without a deadline has preallocated is recorded to with a deadline.
#[test]
fn a_preallocated_file_that_hangs_when_it_is_recorded_to_is_left_behind() {
    let mut node = Node::new("");
    let (slow, is_asked, done) = slow(&node);
    let mut recording = node.record_in(slow);
    recording.preallocate_logs();
    is_asked.recv().unwrap();
    done.send(()).unwrap();
    while recording.log.preallocated().is_pending() {
        thread::sleep(LOCK_RETRY_AFTER);
    }
    node.write(&mut recording, &"long ".repeat(10_000), Fate::Committed).unwrap();
    thread::scope(|scope| {
        // It ends in any case.
        scope.spawn(move || {
            let _asked_or_refused = is_asked.recv_timeout(Duration::from_secs(5));
            thread::sleep(Duration::from_secs(3));
            drop(done);
        });
        let refused = node.write(&mut recording, &"long ".repeat(10_000), Fate::Committed);
        assert!(refused.is_err_and(|error| error.is_trouble() && error.is_hang()));
    });
}
