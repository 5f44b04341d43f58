//! Whole versions read: copied out, checked by `sqlite3`, restored; each beside the same with a plain file of the same
//! bytes, in turns.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tests::{binaries, compare};

use super::measured::{Subject, copy, settle, summary, timed, until_time_is_over, within};
use crate::stats::Summary;

/// Number of rounds, each with another version.
const ROUNDS: usize = 5;

/// A version through the mount for the first time, then again, and a plain file of the same bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct WholeRead {
    pub first: Summary,
    pub again: Summary,
    pub plain: Summary,
}

/// The measurements.
#[derive(Debug, Clone, Serialize)]
pub struct WholeReport {
    /// `cp` to the file system where the backup is.
    pub copy: WholeRead,
    /// `sqlite3 -readonly FILE 'pragma quick_check'`; `None` where the program is not there.
    pub quick_check: Option<WholeRead>,
    /// `backupfs restore` of the newest version.
    pub restore: Summary,
    /// `cp` and fsync of the file it restored.
    pub copy_and_fsync: Summary,
    /// Bytes of that file, which has the contents of the database that the node has.
    pub bytes: u64,
}

#[derive(Default)]
struct Samples {
    first: Vec<Duration>,
    again: Vec<Duration>,
    plain: Vec<Duration>,
}

impl Samples {
    fn summary(self) -> anyhow::Result<WholeRead> {
        Ok(WholeRead { first: summary(self.first)?, again: summary(self.again)?, plain: summary(self.plain)? })
    }
}

/// Measures it all; `None` where there is no room for the copies, of which there are two at any time.
pub fn measure(subject: &Subject) -> anyhow::Result<Option<WholeReport>> {
    let needed = 3 * fs::metadata(subject.dir.database())?.len();
    let system = rustix::fs::statvfs(subject.dir.backup())?;
    if system.f_bavail * system.f_frsize < needed {
        eprintln!("SKIPPED: whole versions need {} MB of room", needed / 1_000_000);
        return Ok(None);
    }
    let copy = copies(subject)?;
    let has_sqlite3 = Command::new("sqlite3").arg("-version").output().is_ok_and(|output| output.status.success());
    if !has_sqlite3 {
        eprintln!("SKIPPED: there is no sqlite3 here");
    }
    let quick_check = has_sqlite3.then(|| quick_checks(subject)).transpose()?;
    let (restore, copy_and_fsync, bytes) = restores(subject)?;
    let (restore, copy_and_fsync) = (summary(restore)?, summary(copy_and_fsync)?);
    Ok(Some(WholeReport { copy, quick_check, restore, copy_and_fsync, bytes }))
}

fn copies(subject: &Subject) -> anyhow::Result<WholeRead> {
    let scratch = subject.dir.scratch()?;
    let [from_mount, target] = ["from-mount", "target"].map(|name| within(&scratch, name));
    let mut samples = Samples::default();
    // Memory that was never in use takes a machine longer than the copy itself.
    for to in [&from_mount, &target] {
        copy(&subject.dir.database(), to)?;
    }
    until_time_is_over(subject.time_limit, subject.versions(ROUNDS, 4), |version| {
        // A mount for each: what the kernel caches of the others must not fill the memory.
        let (mounted, _) = subject.mount()?;
        let database = mounted.database(version);
        samples.first.push(copy(&database, &from_mount)?);
        samples.again.push(copy(&database, &target)?);
        samples.plain.push(copy(&from_mount, &target)?);
        let length = |path: &Path| fs::metadata(path).map(|metadata| metadata.len());
        ensure!(length(&target)? == length(&database)?, "a copy of version {version} is not whole");
        Ok(())
    })?;
    samples.summary()
}

fn quick_checks(subject: &Subject) -> anyhow::Result<WholeRead> {
    let (mounted, _) = subject.mount()?;
    let scratch = subject.dir.scratch()?;
    let plain = within(&scratch, "plain");
    let mut samples = Samples::default();
    until_time_is_over(subject.time_limit, subject.versions(ROUNDS, 5), |version| {
        let database = mounted.database(version);
        samples.first.push(quick_check(&database)?);
        samples.again.push(quick_check(&database)?);
        copy(&database, &plain)?;
        settle(scratch.path())?;
        samples.plain.push(quick_check(&plain)?);
        Ok(())
    })?;
    samples.summary()
}

fn quick_check(database: &Path) -> anyhow::Result<Duration> {
    let (took, said) = timed(Command::new("sqlite3").arg("-readonly").arg(database).arg("pragma quick_check"))?;
    ensure!(said == b"ok\n", "quick_check of {}: {}", database.display(), String::from_utf8_lossy(&said));
    Ok(took)
}

/// How long `restore`, and `cp` with fsync took, and how many bytes each wrote. What was restored must be what the node has.
fn restores(subject: &Subject) -> anyhow::Result<(Vec<Duration>, Vec<Duration>, u64)> {
    let scratch = subject.dir.scratch()?;
    let [restored, target] = ["restored.sqlite3", "target"].map(|name| within(&scratch, name));
    let (mut restores, mut copies) = (Vec::new(), Vec::new());
    until_time_is_over(subject.time_limit, 0..ROUNDS, |_| {
        if restored.exists() {
            fs::remove_file(&restored)?;
        }
        settle(scratch.path())?;
        let mut command = Command::new(binaries::backupfs());
        restores.push(timed(command.arg("restore").args([subject.dir.backup(), restored.clone()]))?.0);
        let copied = copy(&restored, &target)?;
        let syncing = Instant::now();
        File::open(&target)?.sync_all()?;
        copies.push(copied + syncing.elapsed());
        Ok(())
    })?;
    compare::same_contents(&subject.dir.database(), &restored, &[])
        .context("the restored newest version is not what the node has")?;
    Ok((restores, copies, fs::metadata(&restored)?.len()))
}
