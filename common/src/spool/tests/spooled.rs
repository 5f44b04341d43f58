//! A node whose recorder has a spool.

use super::*;

/// Logs of a few records.
pub(super) const SHORT: LogLimits = LogLimits { bytes: 1 << 14, statements: 12_000 };

/// A node whose recorder has a spool.
pub(super) struct Spooled {
    pub(super) node: Node,
    pub(super) root: PathBuf,
}

impl Spooled {
    pub(super) fn new() -> Self {
        let mut node = Node::new("");
        let root = node.dir.path().join("spool");
        node.backup_lock.on_unreachable = OnUnreachable::Spool { directory: root.clone(), wait: Duration::ZERO };
        Self { node, root }
    }

    pub(super) fn uuid(&self) -> uuid::Uuid {
        self.node.backup_lock.backup_uuid.unwrap()
    }

    pub(super) fn spool(&self) -> PathBuf {
        spool_path(&self.root, self.uuid())
    }

    pub(super) fn record(&self) -> BackupWriter {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let directory = Arc::new(RealDirectory::new(self.node.backup_path()));
            let lock = &self.node.backup_lock;
            match BackupWriter::open_in(directory, lock, self.node.dir.path(), SHORT) {
                // The thread of a drain releases the lock a moment later.
                Err(OpenRecordingError::Locked { .. }) if Instant::now() < until => {
                    thread::sleep(Duration::from_millis(1));
                }
                opened => return opened.unwrap(),
            }
        }
    }

    pub(super) fn write(&mut self, recording: &mut BackupWriter, note: &str) {
        self.node.write(recording, note, Fate::Committed).unwrap();
    }

    /// A recording that has lost its backup after version 11 and spools, and the directory that it spools to.
    pub(super) fn spooling(&mut self) -> (BackupWriter, Arc<FaultyDirectory>) {
        let backup = Arc::new(FaultyDirectory::new(self.node.backup_path()));
        let lock = &self.node.backup_lock;
        let mut recording = BackupWriter::open_in(Arc::clone(&backup) as _, lock, self.node.dir.path(), SHORT).unwrap();
        self.write(&mut recording, "before");
        backup.fail_nth(1);
        assert!(self.node.write(&mut recording, "fails", Fate::Committed).unwrap_err().is_trouble());
        let interrupted = recording.interrupt();
        let spool = spool_directory(&self.root, self.uuid()).unwrap();
        let spool = Arc::new(FaultyDirectory::new(spool.path()));
        (interrupted.spool_in(Arc::clone(&spool) as _).unwrap(), spool)
    }

    pub(super) fn spool_more(&mut self, recording: &mut BackupWriter, changes: usize) {
        for position in 0..changes {
            self.write(recording, &format!("spooled {position} {}", "long ".repeat(position % 3 * 700)));
        }
    }

    /// What an earlier run has left in the spool.
    pub(super) fn reopened(&self) -> Option<BackupWriter> {
        let lock = &self.node.backup_lock;
        BackupWriter::open_spool(lock, self.node.dir.path(), SHORT, &Arc::default()).unwrap()
    }

    #[track_caller]
    pub(super) fn expect_all_once(&self, what: &str) {
        let (history, read) = self.node.backup().read_history();
        read.unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut recorded = Vec::new();
        history
            .for_timeline(&mut |entry| {
                match entry {
                    TimelineEntry::Recorded(version) => recorded.push(version.data_version.get()),
                    other => panic!("{what}: {other:?}"),
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(recorded, (10..=self.node.version).collect::<Vec<_>>(), "{what}");
        assert_eq!(self.node.newest_contents(), (self.node.version, contents(&self.node.connection)), "{what}");
    }
}

pub(super) fn drain(recording: &mut BackupWriter) -> Result<(), DrainError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut drain = loop {
        match recording.drain_plan().expect("it spools").attach() {
            // A process that another test starts inherits the released lock until it executes its program.
            Err(DrainError::Open(OpenRecordingError::Locked { .. })) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            attached => break attached?,
        }
    };
    drain.advance(recording.end())?;
    recording.return_to_backup(drain).expect("the spool can be emptied");
    Ok(())
}

pub(super) fn files(directory: &Path) -> Vec<String> {
    let mut names = RealDirectory::new(directory).list().unwrap();
    names.sort();
    names
}
