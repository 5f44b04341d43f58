//! The beginning of a recorded trace in a backup, without any process: for what is asked of a backup afterwards.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::{
    Backup, BackupLock, BackupUrl, BackupWriter, DataVersion, DbWrite, LogLimits, OnGap, OnUnreachable, Sealer, Seq,
    create_backup,
};
use mountfs::demo::trace::{TraceEvent, TraceWrite};

use crate::home::Home;
use crate::reference::Reference;
use crate::traces::TraceFolder;

/// Statements in a log: so few that a short history has several segments.
const LOG_STATEMENTS: usize = 3000;

/// A backup, and what it was made of.
pub struct RecordedTrace {
    /// Where it is.
    pub home: Home,
    /// Every write in it, in order.
    pub writes: Vec<TraceWrite>,
}

impl RecordedTrace {
    /// Records up to `most` writes of the trace in `folder`, of which none may be lost or missing, and seals what is finished.
    pub fn record(folder: &TraceFolder, most: usize) -> Self {
        let home = Home::new();
        let has_start = folder.start_database(&home.database());
        let url: BackupUrl = home.backup().to_str().expect("a path in UTF-8").parse().expect("a URL");
        let database = home.database();
        let database = has_start.then_some(database.as_path());
        let created = create_backup(&url, database, &mut |_| ControlFlow::Continue(())).expect("a backup");
        let (backup_uuid, on_unreachable) = (Some(created.uuid), OnUnreachable::Stop);
        let lock = BackupLock {
            backend_url: url,
            backup_uuid,
            database: None,
            on_gap: OnGap::Stop,
            on_unreachable,
            compact: None,
            offsite: Vec::new(),
            parity: None,
            scrub: None,
        };
        lock.create(&home.lightning_dir()).expect("a backup.lock");
        let limits = LogLimits { statements: LOG_STATEMENTS, ..LogLimits::default() };
        let mut recording = BackupWriter::open(&home.lightning_dir(), limits).expect("a recording");
        let events = folder.events().map(|event| event.expect("an intact trace"));
        let writes = events.filter_map(|event| match event {
            TraceEvent::Write(write) => Some(write),
            _ => None,
        });
        let writes: Vec<TraceWrite> = writes.take(most).collect();
        for write in &writes {
            let statements: Vec<Cow<'_, str>> = write.statements.iter().map(|text| text.as_str().into()).collect();
            let write = DbWrite { data_version: write.data_version, statements: &statements, received_at: write.at };
            recording.record(&write).expect("a write is recorded");
        }
        drop(recording);
        let recorded = Self { home, writes };
        let mut sealer = Sealer::new(recorded.open(), limits).expect("a sealer");
        sealer.advance(Seq::new(u64::MAX).expect("not 0"), &mut |_| ControlFlow::Continue(())).expect("sealed");
        recorded
    }

    /// The backup, open.
    pub fn open(&self) -> Arc<Backup> {
        let url: BackupUrl = self.home.backup().to_str().expect("a path in UTF-8").parse().expect("a URL");
        Arc::new(Backup::open(&url).expect("a backup"))
    }

    /// Its versions, in order.
    pub fn versions(&self) -> Vec<DataVersion> {
        let mut versions: Vec<DataVersion> = self.writes.iter().map(|write| write.data_version).collect();
        versions.dedup();
        versions
    }

    /// Executes everything once more, on a plain database, and calls `at` after each version.
    pub fn replay(&self, folder: &TraceFolder, mut at: impl FnMut(DataVersion, &Path)) {
        let path = self.home.join("reference.sqlite3");
        folder.start_database(&path);
        let reference = Reference::open(&path);
        let mut writes = self.writes.iter().peekable();
        while let Some(write) = writes.next() {
            reference.apply(&write.statements);
            if writes.peek().is_none_or(|next| next.data_version != write.data_version) {
                at(write.data_version, &path);
            }
        }
    }
}
