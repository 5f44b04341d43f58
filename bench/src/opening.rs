//! How long a version takes to open and to read, through `common` alone and through a real mount.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use common::{Backup, ReplayPlan, Views};
use serde::Serialize;
use tests::mounted::Mounted;

use crate::stats::{Samples, Summary};

/// Number of bytes that a program reads of a database first.
const FIRST: usize = 4096;

/// Bytes asked for at once where everything is read.
const CHUNK: usize = 1 << 20;

/// Everything is measured at least so often …
const ROUNDS_MIN: usize = 3;

/// … and again until it has taken this long …
const ENOUGH: Duration = Duration::from_secs(2);

/// … or has been measured so often.
const ROUNDS_MAX: usize = 5;

/// Times of reads, from the opening on.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Reads {
    /// Time until the first 4 KiB are read.
    pub first_4k: Summary,
    /// Time until the whole file is read, the first 4 KiB included.
    pub whole: Summary,
}

/// Through a mount that has not shown this version before.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MountReads {
    /// Time from the command to the mount that answers.
    pub mounted: Summary,
    /// The first time.
    pub first: Reads,
    /// Times of the same version, opened and read again.
    pub again: Reads,
}

/// Samples of one opening.
#[derive(Default)]
struct Collected {
    first_4k: Vec<Duration>,
    whole: Vec<Duration>,
}

impl Collected {
    fn add(&mut self, (first_4k, whole): (Duration, Duration)) {
        self.first_4k.push(first_4k);
        self.whole.push(whole);
    }

    fn reads(self) -> anyhow::Result<Reads> {
        Ok(Reads { first_4k: summary(self.first_4k)?, whole: summary(self.whole)? })
    }
}

fn summary(samples: Vec<Duration>) -> anyhow::Result<Summary> {
    Ok(Samples::new(samples).context("BUG: nothing was measured")?.summary())
}

/// Calls `round` as often as there is time for.
fn repeat(mut round: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let started = Instant::now();
    for rounds in 1..=ROUNDS_MAX {
        round()?;
        if rounds >= ROUNDS_MIN && started.elapsed() > ENOUGH {
            break;
        }
    }
    Ok(())
}

/// Opens without reading anything: all of it is replay. The cache of views is new each time.
pub fn replay(backup: &Arc<Backup>, plan: &ReplayPlan) -> anyhow::Result<Summary> {
    let mut samples = Vec::new();
    repeat(|| {
        let views = Views::new(Arc::clone(backup), 0);
        let started = Instant::now();
        views.open(plan)?;
        samples.push(started.elapsed());
        Ok(())
    })?;
    summary(samples)
}

/// Opens and reads through `common`, with a new cache of views each time. Returns the bytes of the file as well.
pub fn in_process(backup: &Arc<Backup>, plan: &ReplayPlan) -> anyhow::Result<(Reads, Vec<u8>)> {
    let mut collected = Collected::default();
    let mut bytes = Vec::new();
    repeat(|| {
        let views = Views::new(Arc::clone(backup), 0);
        let mut first = [0; FIRST];
        let started = Instant::now();
        let view = views.open(plan)?;
        let mut offset = view.read_at(0, &mut first)?;
        let first_4k = started.elapsed();
        bytes.resize(usize::try_from(view.size_bytes())?, 0);
        bytes[..offset].copy_from_slice(&first[..offset]);
        let going_on = Instant::now();
        while offset < bytes.len() {
            let end = bytes.len().min(offset + CHUNK);
            offset += view.read_at(offset as u64, &mut bytes[offset..end])?;
        }
        collected.add((first_4k, first_4k + going_on.elapsed()));
        Ok(())
    })?;
    Ok((collected.reads()?, bytes))
}

/// Opens and reads through a new mount each time; what is read must be `expected`.
pub fn through_mount(
    backup: &Backup,
    data_version: common::DataVersion,
    expected: &[u8],
) -> anyhow::Result<MountReads> {
    let mut mounts = Vec::new();
    let [mut first, mut again] = [Collected::default(), Collected::default()];
    let mut buffer = vec![0; expected.len().max(FIRST)];
    repeat(|| {
        let started = Instant::now();
        let mounted = Mounted::start(backup.path());
        mounts.push(started.elapsed());
        let database = mounted.database(data_version);
        first.add(read(&database, expected, &mut buffer)?);
        again.add(read(&database, expected, &mut buffer)?);
        Ok(())
    })?;
    Ok(MountReads { mounted: summary(mounts)?, first: first.reads()?, again: again.reads()? })
}

/// Opens a file, reads its first 4 KiB, then all that follows.
fn read(path: &Path, expected: &[u8], buffer: &mut [u8]) -> anyhow::Result<(Duration, Duration)> {
    let failed = || format!("cannot read {}", path.display());
    let started = Instant::now();
    let mut file = File::open(path).with_context(failed)?;
    let mut length = file.read(&mut buffer[..FIRST]).with_context(failed)?;
    let first_4k = started.elapsed();
    loop {
        let end = buffer.len().min(length + CHUNK);
        match file.read(&mut buffer[length..end]).with_context(failed)? {
            0 => break,
            more => length += more,
        }
    }
    let whole = started.elapsed();
    let at_end = file.stream_position()? == file.metadata()?.len();
    ensure!(at_end && buffer[..length] == *expected, "{} is not the version that was recorded", path.display());
    Ok((first_4k, whole))
}
