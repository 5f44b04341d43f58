//! Round trips beside both floors, while the sealer keeps up and while it is busy.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::feed::Feed;
use super::floor::Floor;
use super::piped_floor::PipedFloor;
use super::{call, start};
use crate::scale::laps::Laps;
use crate::scale::making::{Logs, Wanted};
use crate::scale::place::{HistoryDir, Made};
use crate::stats::{Samples, Summary};

/// Calls encoded at once, so that many follow each other back to back.
const CHUNK: usize = 500;

/// Changes of a backlog: some seconds of sealing.
const BACKLOG: u32 = 10_000;

/// Changes recorded before the sealer that keeps up begins.
const BEGINNING: u32 = 10;

/// The sealer's work meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sealer {
    /// What is being recorded, as it comes.
    KeepsUp,
    /// A backlog of finished logs as well, all the time.
    Busy,
}

impl Sealer {
    /// The history that the recorder begins with.
    pub fn history(self) -> Wanted {
        let (changes, logs) = match self {
            Self::KeepsUp => (BEGINNING, Logs::Sealed),
            Self::Busy => (BACKLOG, Logs::Left),
        };
        Wanted { changes, database_mb: 0, logs, parity: None }
    }
}

/// The measurements.
#[derive(Serialize)]
pub struct LoadReport {
    sealer: Sealer,
    /// Samples over the sum of all round trips.
    pub writes_per_s: f64,
    /// Writes per second of the floor.
    pub floor_per_s: f64,
    /// Writes per second of the floor behind pipes.
    pub piped_floor_per_s: f64,
    /// Writes by size: all of them first.
    pub classes: Vec<ClassReport>,
}

impl LoadReport {
    /// Writes of this class, if there were any.
    pub fn class(&self, name: &str) -> Option<&ClassReport> {
        self.classes.iter().find(|class| class.class == name)
    }
}

/// All writes.
pub const ALL: &str = "all";
/// Writes of ordinary size.
pub const MEDIAN: &str = "median ± 10 %";
/// Writes that are larger than 99 of 100 others.
pub const LARGE: &str = "24 kB ± 4 kB";

/// Writes of similar size.
#[derive(Serialize)]
pub struct ClassReport {
    pub class: &'static str,
    pub least_bytes: usize,
    pub most_bytes: usize,
    pub round_trip: Summary,
    pub floor: Summary,
    /// The floor, written by another process over pipes.
    pub piped_floor: Summary,
    pub ratio_p50: f64,
    pub ratio_p99: f64,
    pub ratio_max: f64,
}

/// One write, measured in all three ways.
#[derive(Clone, Copy)]
struct Measured {
    record_bytes: usize,
    round_trip: Duration,
    floor: Duration,
    piped_floor: Duration,
}

/// Records up to `writes` changes after those of a history, with both floors in between. Where the sealer is to be busy, no
/// more than while it is.
pub fn measure(
    sealer: Sealer,
    dir: &HistoryDir,
    made: &Made,
    laps: &Laps,
    writes: usize,
) -> anyhow::Result<LoadReport> {
    let mut feed = Feed::after(made, laps);
    let mut floor = Floor::create(&dir.lightning_dir().join("floor"))?;
    let mut piped_floor = PipedFloor::start(&dir.lightning_dir().join("piped-floor"))?;
    let mut recorder = start(&dir.lightning_dir())?;
    // The first one opens the backup.
    for first in feed.calls(1)? {
        call(&mut recorder, &first)?;
    }
    let mut measured: Vec<Measured> = Vec::with_capacity(writes);
    while measured.len() < writes && (sealer == Sealer::KeepsUp || is_backlog_left(&dir.backup())?) {
        for write in feed.calls(CHUNK.min(writes - measured.len()))? {
            let [mut round_trip, mut below, mut piped] = [Duration::ZERO; 3];
            // Which of them comes first changes with every write.
            for turn in 0..3 {
                match (measured.len() + turn) % 3 {
                    0 => round_trip = call(&mut recorder, &write)?,
                    1 => below = floor.append(&write.message, write.record_bytes)?,
                    _ => piped = piped_floor.append(&write.message, write.record_bytes)?,
                }
            }
            measured.push(Measured { record_bytes: write.record_bytes, round_trip, floor: below, piped_floor: piped });
        }
    }
    let newest = feed.calls(1)?;
    for last in &newest {
        call(&mut recorder, last)?;
    }
    piped_floor.end()?;
    let status = recorder.end_input()?;
    ensure!(status.success(), "the recorder ended with {status}");
    let backup = std::sync::Arc::new(common::Backup::open(&dir.url()?)?);
    let (history, read) = backup.read_history();
    read?;
    let found = history.newest().map(|newest| newest.data_version);
    ensure!(found == newest.last().map(|last| last.data_version), "the backup ends with version {found:?}");
    report(sealer, &measured).context("nothing was measured: the sealer had caught up before the first write")
}

/// Whether there are finished logs beside the one that is being written.
fn is_backlog_left(backup: &Path) -> anyhow::Result<bool> {
    let mut logs = 0;
    for entry in fs::read_dir(backup)? {
        logs += usize::from(entry?.file_name().as_encoded_bytes().starts_with(b"log-"));
    }
    Ok(logs > 2)
}

fn report(sealer: Sealer, measured: &[Measured]) -> Option<LoadReport> {
    let mut sizes: Vec<usize> = measured.iter().map(|write| write.record_bytes).collect();
    sizes.sort_unstable();
    let median = *sizes.get(sizes.len() / 2)?;
    let classes = [(ALL, 0, usize::MAX), (MEDIAN, median - median / 10, median + median / 10), (LARGE, 20_000, 28_000)];
    let classes = classes
        .into_iter()
        .filter_map(|(class, least, most)| {
            let of_class = measured.iter().filter(|write| (least..=most).contains(&write.record_bytes));
            class_report(class, &of_class.copied().collect::<Vec<_>>())
        })
        .collect();
    let per_s = |time: fn(&Measured) -> Duration| {
        measured.len() as f64 / measured.iter().map(time).sum::<Duration>().as_secs_f64()
    };
    Some(LoadReport {
        sealer,
        writes_per_s: per_s(|write| write.round_trip),
        floor_per_s: per_s(|write| write.floor),
        piped_floor_per_s: per_s(|write| write.piped_floor),
        classes,
    })
}

/// `None` when there were no writes of this size.
fn class_report(class: &'static str, measured: &[Measured]) -> Option<ClassReport> {
    let samples = |time: fn(&Measured) -> Duration| Samples::new(measured.iter().map(time).collect());
    let round_trip = samples(|write| write.round_trip)?.summary();
    let floor = samples(|write| write.floor)?.summary();
    let piped_floor = samples(|write| write.piped_floor)?.summary();
    Some(ClassReport {
        class,
        least_bytes: measured.iter().map(|write| write.record_bytes).min()?,
        most_bytes: measured.iter().map(|write| write.record_bytes).max()?,
        ratio_p50: round_trip.p50_us / floor.p50_us,
        ratio_p99: round_trip.p99_us / floor.p99_us,
        ratio_max: round_trip.max_us / floor.max_us,
        round_trip,
        floor,
        piped_floor,
    })
}
