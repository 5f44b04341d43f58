//! Reading the database of a running node without holding it longer than the node tolerates.
//!
//! A reader holds SQLite's SHARED lock, and a COMMIT of `lightningd` waits for it: for 60 s, then `lightningd` aborts. A slow
//! disk, or a backup on a network that hangs, must not lead to that. So the file is first read into the page cache without any
//! lock, and a thread limits how long the lock is held.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::storage::regular_file::open_regular_file;

/// The time for which a database may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// There is no limit: no node runs on the database.
    AsLongAsItTakes,
    /// The database is held for this long at most, because a node may wait.
    AtMost(Duration),
}

impl Hold {
    /// The limit beside a running node: a quarter of the node's own limit.
    pub const BESIDE_A_NODE: Self = Self::AtMost(Duration::from_secs(15));
}

/// Whether the database is still held.
#[derive(Debug)]
pub(super) struct Held {
    let_go: AtomicBool,
    until: Option<Instant>,
}

impl Held {
    /// Whether it was released, or must be: further reads may belong to another transaction.
    pub(super) fn is_over(&self) -> bool {
        self.let_go.load(Ordering::Relaxed) || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// The file of a database, read into the page cache once.
#[derive(Debug)]
pub(super) struct DatabaseFile(Option<File>);

impl DatabaseFile {
    /// Reads the file. Errors are reported when it is opened as a database.
    pub(super) fn read_ahead(path: &Path) -> Self {
        let mut file = open_regular_file(path).ok();
        if let Some(file) = &mut file {
            let mut buffer = vec![0; 1 << 20];
            while file.read(&mut buffer).is_ok_and(|read| read > 0) {}
        }
        Self(file)
    }

    /// Runs `work`, which opens the database and closes it again.
    ///
    /// When the time is over, the locks of this process on the database are released from outside, even while `work` is stuck in
    /// a call: by the rules of POSIX, closing any descriptor of the file releases them all.
    pub(super) fn held<T>(&self, hold: Hold, work: impl FnOnce(&Held) -> T) -> T {
        let Hold::AtMost(at_most) = hold else {
            return work(&Held { let_go: AtomicBool::new(false), until: None });
        };
        let held = Held { let_go: AtomicBool::new(false), until: Some(Instant::now() + at_most) };
        thread::scope(|scope| {
            let (done, is_done) = channel::<()>();
            let held = &held;
            let another = self.0.as_ref().and_then(|file| file.try_clone().ok());
            let watch = move || {
                if is_done.recv_timeout(at_most) == Err(RecvTimeoutError::Timeout) {
                    held.let_go.store(true, Ordering::Relaxed);
                }
                drop(another);
            };
            if let Err(error) = thread::Builder::new().name("holding".to_owned()).spawn_scoped(scope, watch) {
                log::debug!("only looked at between two pages: cannot start a thread ({error})");
            }
            let outcome = work(held);
            drop(done);
            outcome
        })
    }
}
