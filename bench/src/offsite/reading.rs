//! A mount of the copy by a machine that has read nothing of it before: how long it takes, and what it asks the store for.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use format_fuzz::seeded::Seeded;
use rusqlite::{Connection, OpenFlags};
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
    /// Queries of a version, one after the other, by a new mount.
    pub queries: Vec<Query>,
}

/// A query, and what it took.
#[derive(Debug, Clone, Serialize)]
pub struct Query {
    pub sql: &'static str,
    pub rows: u64,
    pub asked: Asked,
}

/// What an operator asks an old version, or a program that looks for something in it.
const QUERIES: [&str; 4] = [
    "SELECT * FROM channels",
    "SELECT * FROM invoices ORDER BY id DESC LIMIT 100",
    "SELECT * FROM forwards ORDER BY rowid DESC LIMIT 1000",
    "SELECT count(*) FROM forwards",
];

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
    drop(mounted);
    let (mounted, _) = mount(node)?;
    let version = versions.get(versions.len() / 2).context("BUG: there are versions")?;
    let queries = queries(node, &mounted.database(version))?;
    Ok(Some(ReadingReport {
        delay_s: delay.as_secs_f64(),
        first_name,
        all_names,
        names: versions.len(),
        cold,
        neighbours,
        newest,
        newest_whole,
        queries,
    }))
}

/// Opening the database counts as the first query.
fn queries(node: &CopiedNode<'_>, database: &Path) -> anyhow::Result<Vec<Query>> {
    let mut queries = Vec::new();
    let open = || Ok(Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?);
    let (opened, connection) = asked(node, open)?;
    for sql in QUERIES {
        let (mut asked, rows) = asked(node, || {
            let mut statement = connection.prepare(sql)?;
            let (mut rows, mut count) = (statement.query([])?, 0);
            while rows.next()?.is_some() {
                count += 1;
            }
            Ok(count)
        })?;
        if queries.is_empty() {
            asked.add(&opened);
        }
        queries.push(Query { sql, rows, asked });
    }
    Ok(queries)
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
