//! How long the first 4 KiB of a version take, and what memory the mount has after many: beside a plain file.

use serde::Serialize;

use super::measured::{Subject, first_4k, summary, until_time_is_over};
use super::process::Memory;
use crate::stats::Summary;

/// Versions opened before the memory is looked at, unless time is over before.
const FOR_MEMORY: usize = 1000;

/// The measurements.
#[derive(Debug, Clone, Serialize)]
pub struct FirstReads {
    /// Versions never touched before, by lot from all of the history, in a fresh mount.
    pub first: Summary,
    /// Each of them right after that, once more.
    pub again: Summary,
    /// The node's own database, in between.
    pub plain: Summary,
    /// Samples of `first` in the order measured, in microseconds.
    pub samples_us: Vec<f64>,
}

/// Measures `samples` versions.
pub fn measure(subject: &Subject, samples: usize) -> anyhow::Result<FirstReads> {
    let (mounted, _) = subject.mount()?;
    let plain_file = subject.dir.database();
    let (mut first, mut again, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    until_time_is_over(subject.time_limit, subject.versions(samples, 2), |version| {
        let database = mounted.database(version);
        first.push(first_4k(&database)?);
        again.push(first_4k(&database)?);
        plain.push(first_4k(&plain_file)?);
        Ok(())
    })?;
    let samples_us = first.iter().copied().map(crate::stats::micros).collect();
    Ok(FirstReads { first: summary(first)?, again: summary(again)?, plain: summary(plain)?, samples_us })
}

/// Memory of a mount.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MountMemory {
    /// Memory when the mount has just answered.
    pub fresh: Memory,
    /// Number of versions that were opened then.
    pub opened: usize,
    /// Memory after that.
    pub after: Memory,
}

/// Opens many versions, reads of each the first 4 KiB, and looks at the memory.
pub fn memory(subject: &Subject) -> anyhow::Result<MountMemory> {
    let (mounted, _) = subject.mount()?;
    let fresh = Memory::of(mounted.pid())?;
    let mut opened = 0;
    until_time_is_over(subject.time_limit, subject.versions(FOR_MEMORY, 3), |version| {
        first_4k(&mounted.database(version))?;
        opened += 1;
        Ok(())
    })?;
    Ok(MountMemory { fresh, opened, after: Memory::of(mounted.pid())? })
}
