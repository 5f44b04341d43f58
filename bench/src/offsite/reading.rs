//! A mount of the copy by a machine that has read nothing of it before: how long it takes, and what it asks the store for.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use format_fuzz::seeded::Seeded;
use serde::Serialize;
use tests::mounted::{Mounted, fuse_is_here};

use super::copied_node::CopiedNode;
use crate::scale::measured::{first_4k, settle, within};

/// Longer than any mount takes to answer.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(120);

/// The measurements.
#[derive(Debug, Clone, Serialize)]
pub struct ReadingReport {
    /// How long each answer of the store takes, in seconds.
    pub delay_s: f64,
    /// From the command to the first name in `versions/`.
    pub first_name: Asked,
    /// All names in `versions/`, as of `ls -U`.
    pub all_names: Asked,
    /// How many they are.
    pub names: usize,
    /// The first 4 KiB of a version, each by a new mount.
    pub cold: Vec<Asked>,
    /// The first 4 KiB of the version behind it, right after that.
    pub neighbours: Vec<Asked>,
    /// The first 4 KiB of the newest version, by a new mount.
    pub newest: Asked,
    /// All of that, right after.
    pub newest_whole: Asked,
}

/// How long something took, and what the store was asked for.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Asked {
    pub seconds: f64,
    pub requests: u64,
    pub bytes: u64,
}

/// Measures `samples` versions; nothing where nothing can be mounted.
pub fn measure(node: &CopiedNode<'_>, samples: u8, delay: Duration) -> anyhow::Result<Option<ReadingReport>> {
    if !fuse_is_here() {
        return Ok(None);
    }
    eprintln!("reading the copy through a mount");
    let (mounted, mut first_name) = mount(node)?;
    let directory = mounted.join("versions");
    let (looked, _) = asked(node, || Ok(fs::read_dir(&directory)?.next().context("the copy has no version")??))?;
    first_name.add(&looked);
    let (all_names, versions) = asked(node, || names(&directory))?;
    drop(mounted);
    let (mut cold, mut neighbours) = (Vec::new(), Vec::new());
    let mut luck = Seeded::new(17);
    for _ in 0..samples {
        let (mounted, _) = mount(node)?;
        // Not one of the newest, which may be in a log.
        let position = usize::try_from(luck.below(versions.len() as u64 * 9 / 10))?;
        for (at, samples) in [(position, &mut cold), (position + 1, &mut neighbours)] {
            let version = versions.get(at).context("BUG: there are more versions")?;
            samples.push(asked(node, || first_4k(&mounted.database(version)))?.0);
        }
    }
    let (mounted, _) = mount(node)?;
    let database = mounted.join("latest/lightningd.sqlite3");
    let (newest, _) = asked(node, || first_4k(&database))?;
    let (newest_whole, _) = asked(node, || Ok(fs::read(&database)?.len()))?;
    Ok(Some(ReadingReport {
        delay_s: delay.as_secs_f64(),
        first_name,
        all_names,
        names: versions.len(),
        cold,
        neighbours,
        newest,
        newest_whole,
    }))
}

/// A mount of the copy without anything kept, and what it took until it answered.
fn mount(node: &CopiedNode<'_>) -> anyhow::Result<(Mounted, Asked)> {
    let scratch = node.history().scratch()?;
    settle(scratch.path())?;
    let mountpoint = tempfile::Builder::new().prefix("backupfs-mount-").tempdir()?;
    let mut command = node.reader_options("mount", &within(&scratch, "cache"));
    let (asked, mounted) =
        asked(node, || Ok(Mounted::start_command(&mut command, Path::new(node.url()), mountpoint, MOUNT_TIMEOUT)))?;
    Ok((mounted, asked))
}

/// Numbers of the versions, ascending.
fn names(versions: &Path) -> anyhow::Result<Vec<u64>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(versions)? {
        names.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    ensure!(names.len() > 10, "the copy has {} versions", names.len());
    names.sort_unstable();
    Ok(names)
}

fn asked<T>(node: &CopiedNode<'_>, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(Asked, T)> {
    let (before, started) = (node.server.counts(), Instant::now());
    let done = work()?;
    let (seconds, after) = (started.elapsed().as_secs_f64(), node.server.counts());
    let requests = after.get + after.list - before.get - before.list;
    Ok((Asked { seconds, requests, bytes: after.bytes_out - before.bytes_out }, done))
}

impl Asked {
    fn add(&mut self, later: &Self) {
        self.seconds += later.seconds;
        self.requests += later.requests;
        self.bytes += later.bytes;
    }
}
