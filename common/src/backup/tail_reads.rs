//! The pages that the changes behind the sealed part read, read by several threads at once in a directory that is far.
//!
//! No read set says which pages these are: a replay knows the next one only when it has the one before, and waits for each. So
//! several threads execute a part of the statements each, on the database before the changes, and what they have written is
//! dropped. Rows that an earlier part would have made are missing then, and statements fail; but they look for them in nearly the
//! same pages. The replay that counts comes afterwards, and finds those pages already read.

use std::thread;
use std::time::{Duration, Instant};

use crate::backup::Backup;
use crate::backup::recorded_changes::RecordedChanges;
use crate::history::PlannedChange;
use crate::log::RecordAddress;
use crate::pages::OverlayPages;
use crate::replay::{Bounds, ForeignKeys, Replay};
use crate::storage::read_error::ReadError;

/// Maximum number of threads. Each waits nearly all the time.
const THREADS_MAX: usize = 16;

/// Maximum memory in bytes: of the pages that one thread writes, and of the growth of the process during one statement.
const MEMORY_MAX: u64 = 16 << 20;

/// Maximum length of the statements that are executed, in bytes.
const TEXT_MAX: usize = 32 << 20;

/// Time after which no thread begins another statement.
const TIME_MAX: Duration = Duration::from_secs(5);

impl Backup {
    /// Reads most of the pages that a replay of these changes onto `pages` will read, if the directory is far.
    ///
    /// Nothing depends on it: what fails here fails again where it counts, and is reported there.
    pub(crate) fn read_for_tail(&self, pages: &OverlayPages, foreign_keys: ForeignKeys, changes: &[PlannedChange]) {
        let in_logs = changes.partition_point(|change| matches!(change.address, RecordAddress::Segment { .. }));
        let tail = changes.get(in_logs..).unwrap_or_default();
        if tail.is_empty() || !self.directory.is_far() {
            return;
        }
        let deadline = Instant::now() + TIME_MAX;
        let texts = match self.texts(tail) {
            Ok(texts) => texts,
            Err(error) => return log::debug!("the pages that the newest changes read are not read at once: {error}"),
        };
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for part in texts.chunks(texts.len().div_ceil(THREADS_MAX).max(1)) {
                let pages = pages.clone();
                let work = move || execute(pages, foreign_keys, part, deadline);
                // Without the thread its pages are read later.
                threads.extend(thread::Builder::new().name("tail-reads".to_owned()).spawn_scoped(scope, work));
            }
            for thread in threads {
                // A panic is reported by the replay that counts, if it panics, too.
                let _: thread::Result<()> = thread.join();
            }
        });
    }

    /// The statements of changes, in order: as many as there is room for.
    fn texts(&self, changes: &[PlannedChange]) -> Result<Vec<String>, ReadError> {
        let mut left = TEXT_MAX;
        let fitting = changes.iter().take_while(|change| match change.address {
            RecordAddress::Log { len, .. } => left.checked_sub(len).inspect(|&now| left = now).is_some(),
            RecordAddress::Segment { .. } => false,
        });
        let changes = &changes[..fitting.count()];
        let mut texts = Vec::new();
        for run in changes.chunk_by(|a, b| a.address.file_seq() == b.address.file_seq()) {
            let mut recorded = RecordedChanges::open(self, &run[0].address)?;
            run.iter().try_for_each(|change| recorded.texts(&change.address, &mut texts))?;
        }
        Ok(texts)
    }
}

/// Executes statements until a page cannot be read, or it is too late.
fn execute(pages: OverlayPages, foreign_keys: ForeignKeys, statements: &[String], deadline: Instant) {
    let bounds = Bounds { memory_bytes: MEMORY_MAX, time: TIME_MAX, ..Bounds::default() };
    let Ok(replay) = Replay::start_within(bounds, pages, foreign_keys) else { return };
    replay.narrow();
    for statement in statements {
        if Instant::now() >= deadline || !replay.attempt(statement) {
            return;
        }
    }
}
