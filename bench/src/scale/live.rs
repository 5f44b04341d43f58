//! The newest version read while a real `backup-recorder` goes on recording.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use common::Timestamp;
use mountfs::demo::pretend_lightningd::{RecorderProcess, RecorderStderr};
use mountfs::demo::trace::TraceWrite;
use serde::Serialize;
use serde_json::json;
use tests::binaries;

use super::laps::Laps;
use super::making::Node;
use super::measured::{Subject, first_4k, summary, until_time_is_over};
use super::node_database::NodeDatabase;
use super::process::Memory;
use crate::db_write::Call;
use crate::record;
use crate::stats::Summary;

/// The longest wait for the recorder: it may read a whole history first.
const TIMEOUT: Duration = Duration::from_secs(900);

/// Pause between two changes: that of a busy node.
const PAUSE: Duration = Duration::from_millis(10);

/// Pause between two looks at where `latest` leads.
const LOOK: Duration = Duration::from_micros(100);

/// Number of times that the newest version is opened.
const SAMPLES: usize = 200;

/// The measurements.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LiveReport {
    /// `latest`, then the first 4 KiB of the version it leads to, never opened before.
    pub newest: Summary,
    /// Versions by lot from all of the history, in between.
    pub others: Summary,
    /// From the recorder's answer until `latest` leads to the new version.
    pub shown: Summary,
    /// Changes recorded meanwhile.
    pub changes: u64,
    /// Memory of the recorder at the end, and the most it had.
    pub recorder: Memory,
}

/// Measures it; the history grows.
pub fn measure(subject: &mut Subject, laps: &Laps) -> anyhow::Result<LiveReport> {
    let before = subject.made.changes;
    let others = subject.versions(SAMPLES, 6);
    let (mounted, _) = subject.mount()?;
    let (dir, time_limit) = (subject.dir.clone(), subject.time_limit);
    let mut recorder = start(&dir.lightning_dir(), &dir.lightning_dir().join("recorder.stderr"))?;
    let database = NodeDatabase::open(&dir.database())?;
    let node = Node::resume(laps, database, &mut subject.made)?;
    let is_over = AtomicBool::new(false);
    let measured = thread::scope(|scope| -> anyhow::Result<_> {
        let recording = scope.spawn(|| record(node, &mut recorder, &mounted.join("latest"), &is_over));
        let mut samples = (Vec::new(), Vec::new());
        let measured = until_time_is_over(time_limit, others, |other| {
            // The next change is recorded meanwhile, so that there is a version not seen before.
            thread::sleep(PAUSE * 3);
            let started = Instant::now();
            let newest = mounted.join(fs::read_link(mounted.join("latest"))?);
            first_4k(&newest.join("lightningd.sqlite3"))?;
            samples.0.push(started.elapsed());
            samples.1.push(first_4k(&mounted.database(other))?);
            ensure!(!recording.is_finished(), "the recording has ended");
            Ok(())
        });
        is_over.store(true, Ordering::Relaxed);
        let shown = recording.join().map_err(|_| anyhow::anyhow!("BUG: the recording thread panicked"))??;
        measured?;
        Ok((samples, shown))
    });
    let memory = Memory::of(recorder.pid());
    let ended = recorder.end_input();
    subject.dir.set_made(&subject.made)?;
    let ((newest, others), shown) = measured?;
    ensure!(ended?.success(), "the recorder did not end well");
    Ok(LiveReport {
        newest: summary(newest)?,
        others: summary(others)?,
        shown: summary(shown)?,
        changes: subject.made.changes - before,
        recorder: memory?,
    })
}

fn start(lightning_dir: &Path, stderr: &Path) -> anyhow::Result<RecorderProcess> {
    let to_file = RecorderStderr::AppendedTo(stderr.to_owned());
    let mut recorder = RecorderProcess::start(&binaries::backup_recorder(), lightning_dir, &to_file, &[], TIMEOUT)?;
    recorder.ask("getmanifest", &json!({"allow-deprecated-apis": false}))?;
    record::init(&mut recorder, lightning_dir)?;
    Ok(recorder)
}

/// Records until it is over; returns how long each new version took to be the one that `latest` leads to.
fn record(
    mut node: Node<'_>,
    recorder: &mut RecorderProcess,
    latest: &Path,
    is_over: &AtomicBool,
) -> anyhow::Result<Vec<Duration>> {
    let (mut number, mut shown) = (0, Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        node.next(|data_version, _, change| {
            let statements = change.statements().map(str::to_owned).collect();
            let call = Call::encode(&TraceWrite { at: Timestamp::now(), data_version, statements }, number)?;
            record::call(recorder, &call).with_context(|| format!("version {data_version}"))?;
            let answered = Instant::now();
            let name = data_version.to_string();
            while !fs::read_link(latest)?.ends_with(&name) {
                ensure!(answered.elapsed() < TIMEOUT, "version {name} is not shown");
                thread::sleep(LOOK);
            }
            shown.push(answered.elapsed());
            Ok(())
        })?;
        thread::sleep(PAUSE);
    }
    Ok(shown)
}
