//! What all measures share: a real mount, versions drawn by lot, and how long one thing takes.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use common::DataVersion;
use format_fuzz::seeded::Seeded;
use rustix::fs::{sync, syncfs};
use serde::Serialize;
use tests::mounted::Mounted;

use super::place::{HistoryDir, Made};
use crate::stats::{Samples, Summary, micros};

/// Number of bytes that a program reads of a database first.
const FIRST: usize = 4096;

/// A mount may have millions of versions to read before it answers.
const TIMEOUT: Duration = Duration::from_secs(900);

/// A history to be measured.
pub struct Subject {
    /// Directory of the history.
    pub dir: HistoryDir,
    /// Description of the history.
    pub made: Made,
    /// No measure goes on for longer, once it has a sample.
    pub time_limit: Duration,
}

/// One figure and what it is compared with, both of this run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Compared {
    /// The figure.
    pub figure: Summary,
    /// Measurement that it is compared with.
    pub yardstick: Summary,
}

impl Subject {
    /// A fresh mount, and how long it took until a directory listing was answered.
    pub fn mount(&self) -> anyhow::Result<(Mounted, Duration)> {
        let scratch = self.dir.scratch()?;
        let started = Instant::now();
        let mounted = Mounted::start_within(&self.dir.backup(), scratch, TIMEOUT);
        let names = std::fs::read_dir(mounted.path())?.count();
        let took = started.elapsed();
        ensure!(names > 0, "the mount is empty");
        Ok((mounted, took))
    }

    /// Different versions from all of the history, by lot.
    pub fn versions(&self, count: usize, seed: u64) -> Vec<DataVersion> {
        let mut luck = Seeded::new(seed);
        let mut seen = HashSet::new();
        let count = count.min(usize::try_from(self.made.versions()).unwrap_or(usize::MAX));
        let mut drawn = Vec::with_capacity(count);
        while drawn.len() < count {
            let number = luck.below(self.made.versions());
            if seen.insert(number) {
                // Versions are numbers of 32 bits that wrap around.
                #[expect(clippy::cast_possible_truncation, reason = "they wrap around")]
                drawn.push(DataVersion::new(self.made.first_version.wrapping_add(number as u32)));
            }
        }
        drawn
    }
}

/// Calls `round` for each of `items` until the time is over, but at least once.
pub fn until_time_is_over<T>(
    limit: Duration,
    items: impl IntoIterator<Item = T>,
    mut round: impl FnMut(T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    for item in items {
        round(item)?;
        if started.elapsed() > limit {
            break;
        }
    }
    Ok(())
}

/// Opens a file and reads its first 4 KiB, which must be those of a database.
pub fn first_4k(path: &Path) -> anyhow::Result<Duration> {
    let failed = || format!("cannot read {}", path.display());
    let mut buffer = [0; FIRST];
    let started = Instant::now();
    let mut file = File::open(path).with_context(failed)?;
    file.read_exact(&mut buffer).with_context(failed)?;
    let took = started.elapsed();
    ensure!(buffer.starts_with(b"SQLite format 3\0"), "{} is no database", path.display());
    Ok(took)
}

/// Runs a command to its end, which must be a good one. Returns how long it took and what it said.
pub fn timed(command: &mut Command) -> anyhow::Result<(Duration, Vec<u8>)> {
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    let output = command.output().with_context(|| format!("{command:?} does not start"))?;
    let took = started.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok((took, output.stdout))
}

/// Lets what was written before reach the disk, so that it is not paid for by what is timed next.
pub fn settle(directory: &Path) -> anyhow::Result<()> {
    match File::open(directory) {
        Ok(directory) => syncfs(directory)?,
        Err(_) => sync(),
    }
    Ok(())
}

/// `cp from to`, `to` being new.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<Duration> {
    if to.exists() {
        std::fs::remove_file(to)?;
    }
    settle(to.parent().unwrap_or(to))?;
    Ok(timed(Command::new("cp").args([from, to]))?.0)
}

/// Samples in numbers.
pub fn summary(samples: Vec<Duration>) -> anyhow::Result<Summary> {
    Ok(Samples::new(samples).context("BUG: nothing was measured")?.summary())
}

/// A path below a scratch directory.
pub fn within(scratch: &tempfile::TempDir, name: &str) -> PathBuf {
    scratch.path().join(name)
}

/// Milliseconds of a duration.
pub fn millis(duration: Duration) -> f64 {
    micros(duration) / 1e3
}
