//! Making a history: a node is pretended that goes on as in the trace, and every change is recorded as a recorder does.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use common::{
    BackupLock, BackupWriter, DataVersion, DbWrite, LogLimits, OnGap, OnUnreachable, ParityShare, Timestamp,
    create_backup,
};
use format_fuzz::seeded::Seeded;
use recorder::sealing::Sealing;
use recorder::status::Status;
use tempfile::TempDir;

use super::disguise::Disguise;
use super::laps::{Change, Laps};
use super::measured::settle;
use super::node_database::NodeDatabase;
use super::padding::Padding;
use super::place::{Cost, HistoryDir, Made};
use super::process::ProcessorTime;
use super::rehearsal::Rehearsal;
use super::sizes::snapshot_bytes;
use crate::node::memory;

/// Average time between two changes, in microseconds.
const MICROS_PER_CHANGE: u64 = 7_000_000;

/// Time without visible progress of a sealer after which it is not waited for any longer.
const SEALER_STALLS_AFTER: Duration = Duration::from_secs(5);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Finished logs at which the node waits for the sealer: one in a hurry would fill the disk with them.
const LOGS_BEHIND_MAX: usize = 64;

/// Changes between two looks at how many there are.
const CHANGES_BETWEEN_LOOKS: u32 = 10_000;

/// The history to make.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Changes, each a version.
    pub changes: u32,
    /// Megabytes of the database before them.
    pub database_mb: u32,
    /// Treatment of the logs.
    pub logs: Logs,
    /// Parity of sealed files, if not the default.
    pub parity: Option<ParityShare>,
}

/// The treatment of the logs of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logs {
    /// Finished logs are sealed.
    Sealed,
    /// They are left to the next recorder.
    Left,
}

/// Makes a history in an empty directory.
pub fn make(wanted: Wanted, trace: &str, rehearsal: &Rehearsal, dir: &HistoryDir) -> anyhow::Result<Made> {
    dir.create()?;
    let laps = &rehearsal.laps;
    let filling = Instant::now();
    let aside = aside(dir)?;
    let working = aside.path().join("lightningd.sqlite3");
    fs::copy(rehearsal.start(), &working)?;
    let database = NodeDatabase::open(&working)?;
    let padding = Padding::read(laps, &rehearsal.start(), &rehearsal.end())?;
    let laps_before = padding.fill(&database, u64::from(wanted.database_mb) * 1_000_000)?;
    drop(padding);
    fs::copy(&working, dir.database())?;
    let padding_s = filling.elapsed().as_secs_f64();

    let url = dir.url()?;
    let created = create_backup(&url, Some(&dir.database()), &mut |_| ControlFlow::Continue(()))?;
    let (backup_uuid, on_unreachable) = (Some(created.uuid), OnUnreachable::Stop);
    let lock = BackupLock {
        backend_url: url,
        backup_uuid,
        database: None,
        on_gap: OnGap::Stop,
        on_unreachable,
        compact: None,
        offsite: Vec::new(),
        parity: wanted.parity,
        scrub: None,
    };
    lock.create(&dir.lightning_dir())?;
    let span = i64::try_from(u64::from(wanted.changes) * MICROS_PER_CHANGE)?;
    let mut made = Made {
        trace: trace.to_owned(),
        laps_before,
        first_version: laps.version_before(laps_before * laps.len())?.get(),
        changes: 0,
        first_micros: (Timestamp::now().as_micros() - span).max(0),
        database_bytes_before: database.size()?,
        database_bytes: 0,
        sql_bytes: 0,
        statements: 0,
        snapshot_bytes: snapshot_bytes(&dir.backup())?,
        cost: Cost { padding_s, ..Cost::default() },
    };

    // The recorder has to see what the node has committed, or it takes its changes for unverified, and does not seal them.
    fs::remove_file(dir.database())?;
    symlink(&working, dir.database())?;
    // The disk is as idle then as that of a node.
    settle(&dir.lightning_dir())?;
    let mut recording = BackupWriter::open(&dir.lightning_dir(), LogLimits::default())?;
    let backup = Arc::new(recording.backup());
    let seal =
        || Sealing::spawn(backup, LogLimits::default(), None, Arc::new(Status::default()), recording.share_lock());
    let sealing = (wanted.logs == Logs::Sealed).then(seal).transpose()?;
    let (started, before, mut waited) = (Instant::now(), ProcessorTime::now()?, Duration::ZERO);
    let mut node = Node::resume(laps, database, &mut made)?;
    for number in 0..wanted.changes {
        node.next(|data_version, received_at, change| {
            let write = DbWrite { data_version, statements: &change.borrowed(), received_at };
            recording.record(&write)?;
            if let (Some(sealing), Some(newest)) = (&sealing, recording.newest()) {
                sealing.wake(newest.seq);
            }
            Ok(())
        })?;
        if sealing.is_some() && number % CHANGES_BETWEEN_LOOKS == CHANGES_BETWEEN_LOOKS - 1 {
            let waiting = Instant::now();
            wait_until_sealed(&dir.backup(), LOGS_BEHIND_MAX)?;
            waited += waiting.elapsed();
        }
        if number % 100_000 == 99_999 {
            eprintln!("  {} changes recorded, {:.0} s", number + 1, started.elapsed().as_secs_f64());
        }
    }
    node.note_size()?;
    let recording_s = (started.elapsed() - waited).as_secs_f64();
    let after = ProcessorTime::now()?;
    let waiting = Instant::now();
    if wanted.logs == Logs::Sealed {
        wait_until_sealed(&dir.backup(), 1)?;
    }
    let waited_at_end = waiting.elapsed();
    drop(sealing);
    recording.note_commit()?;
    fs::remove_file(dir.database())?;
    // On the same file system nothing is copied, which for a moment would take the room of two.
    if fs::rename(&working, dir.database()).is_err() {
        fs::copy(&working, dir.database())?;
    }
    drop(recording);
    let used = ProcessorTime::now()?;
    let recording_cpu_s = after.thread - before.thread;
    made.cost = Cost {
        changes: made.changes,
        recording_s,
        recording_cpu_s,
        other_threads_cpu_s: (used.process - before.process - (used.thread - before.thread)).max(0.0),
        waited_for_sealing_s: (waited + waited_at_end).as_secs_f64(),
        ..made.cost
    };
    dir.set_made(&made)?;
    Ok(made)
}

/// Where the database of the node is while the history is made: not on the disk that the backup is on, if possible, which
/// would be busy with it.
fn aside(dir: &HistoryDir) -> anyhow::Result<TempDir> {
    match memory() {
        Some(memory) => Ok(tempfile::Builder::new().prefix("backupfs-scale-").tempdir_in(memory)?),
        None => dir.scratch(),
    }
}

/// Waits until there are so many logs left, of which one is being written.
fn wait_until_sealed(backup: &Path, logs_left: usize) -> anyhow::Result<()> {
    let logs = || -> anyhow::Result<usize> {
        let mut count = 0;
        for entry in fs::read_dir(backup)? {
            count += usize::from(entry?.file_name().as_encoded_bytes().starts_with(b"log-"));
        }
        Ok(count)
    };
    let (mut left, mut since) = (logs()?, Instant::now());
    while left > logs_left && since.elapsed() < SEALER_STALLS_AFTER {
        thread::sleep(LOOK_AGAIN_AFTER);
        let now = logs()?;
        if now != left {
            (left, since) = (now, Instant::now());
        }
    }
    if left > logs_left {
        eprintln!("  {} finished logs are not sealed, and nothing seals them", left - 1);
    }
    Ok(())
}

/// The pretended node: goes on where a history ends.
pub struct Node<'a> {
    laps: &'a Laps,
    database: NodeDatabase,
    made: &'a mut Made,
    disguise: Disguise,
    change: Change,
}

impl<'a> Node<'a> {
    /// Goes on after the newest version.
    pub fn resume(laps: &'a Laps, database: NodeDatabase, made: &'a mut Made) -> anyhow::Result<Self> {
        let found: u32 =
            database
                .connection()
                .query_row("SELECT intval FROM vars WHERE name = 'data_version'", [], |row| row.get(0))?;
        let expected = laps.version_before(made.position(laps.len()))?;
        ensure!(
            expected.get() == found && expected == made.newest_version(),
            "the database is at version {found}, not {expected}"
        );
        let disguise = Disguise::of(made.position(laps.len()) / laps.len());
        Ok(Self { laps, database, made, disguise, change: Change::default() })
    }

    /// Makes the next change: before it is committed, `hook` gets it.
    pub fn next<T>(
        &mut self,
        hook: impl FnOnce(DataVersion, Timestamp, &Change) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let position = self.made.position(self.laps.len());
        let lap = position / self.laps.len();
        if lap != self.disguise.lap() {
            self.disguise = Disguise::of(lap);
        }
        let at = self.time()?;
        self.laps.write(position, at, &self.disguise, &mut self.change)?;
        let data_version = self.laps.version_before(position + 1)?;
        let change = &self.change;
        let done = self.database.change(change.statements(), || hook(data_version, at, change));
        let done = done.with_context(|| format!("version {data_version}: change {position} of the laps"))?;
        self.made.changes += 1;
        self.made.sql_bytes += change.len() as u64;
        self.made.statements += change.statements().len() as u64;
        Ok(done)
    }

    /// Notes how large the database is now.
    pub fn note_size(&mut self) -> anyhow::Result<()> {
        self.made.database_bytes = self.database.size()?;
        Ok(())
    }

    /// When the next change is made: some seconds after the one before.
    fn time(&self) -> anyhow::Result<Timestamp> {
        let number = self.made.changes;
        let late = Seeded::new(number).below(MICROS_PER_CHANGE - 1_000_000);
        let micros = self.made.first_micros + i64::try_from(number * MICROS_PER_CHANGE + late)?;
        Timestamp::from_micros(micros).context("times that late are not known")
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use ::tests::{binaries, compare};

    use super::super::measured::timed;
    use super::super::place::{Afterwards, Place};
    use super::*;
    use crate::sequence::{SHIPPED, Source};

    #[test]
    fn the_newest_version_of_a_made_history_is_the_database_of_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::create(dir.path(), Afterwards::Remove).unwrap();
        let rehearsal = Rehearsal::play(&Source::find(SHIPPED).unwrap(), place.path()).unwrap();
        let history = place.history("small");
        // More than a lap, so that the next one begins.
        let wanted = Wanted { changes: 1600, database_mb: 3, logs: Logs::Sealed, parity: None };
        let made = make(wanted, SHIPPED, &rehearsal, &history).unwrap();
        assert!(rehearsal.laps.len() < made.changes && made.changes == 1600, "{made:?}");
        assert!((2_900_000..3_500_000).contains(&made.database_bytes_before), "{made:?}");
        let noted = history.made().unwrap().unwrap();
        assert_eq!(noted.newest_version(), made.newest_version());
        let restored = place.path().join("restored.sqlite3");
        timed(Command::new(binaries::backupfs()).arg("restore").args([history.backup(), restored.clone()])).unwrap();
        compare::same_contents(&history.database(), &restored, &[]).unwrap();
        compare::sound(&restored).unwrap();
        assert_eq!(compare::data_version(&restored).unwrap(), made.newest_version().get());
    }
}
