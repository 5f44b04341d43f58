//! How soon the programs answer on a history, and what memory they take: a mount, a recorder, `verify`.

use std::process::Command;
use std::time::Instant;

use anyhow::ensure;
use mountfs::demo::trace::TraceWrite;
use serde::Serialize;
use tests::binaries;

use super::laps::Laps;
use super::making::Node;
use super::measured::{Compared, Subject, first_4k, settle, summary, timed, until_time_is_over};
use super::node_database::NodeDatabase;
use super::process::Memory;
use crate::db_write::Call;
use crate::record;
use crate::stats::Summary;
use crate::watched::{self, Watched};

/// Mounts that are begun and ended.
const MOUNTS: usize = 7;

/// Versions that `verify` replays.
pub const REPLAYED: u32 = 100_000;

/// Recorders that are started.
const RECORDERS: usize = 3;

/// The measurements.
#[derive(Debug, Clone, Serialize)]
pub struct Starts {
    /// From the command to the first `ls` that is answered, beside a start of the same program that does nothing.
    pub mount: Compared,
    /// The first 4 KiB of a version by lot, the first thing opened in each of those mounts.
    pub very_first_open: Summary,
    /// From the start of a recorder to the answer to its first write.
    pub first_answer: Summary,
    /// The most memory that a recorder had until then, in bytes.
    pub recorder_rss: u64,
    /// `backupfs verify --quick` of all versions.
    pub checksums: Watched,
    /// `backupfs verify` of the newest [`REPLAYED`] versions: of all it would take longer than everything else together.
    pub verify: Watched,
}

/// Measures it; the history grows by a change for each start of a recorder.
pub fn measure(subject: &mut Subject, laps: &Laps) -> anyhow::Result<Starts> {
    let (mut mounts, mut starts, mut firsts) = (Vec::new(), Vec::new(), Vec::new());
    until_time_is_over(subject.time_limit, subject.versions(MOUNTS, 1), |version| {
        let (mounted, took) = subject.mount()?;
        mounts.push(took);
        firsts.push(first_4k(&mounted.database(version))?);
        drop(mounted);
        starts.push(timed(Command::new(binaries::backupfs()).arg("--version"))?.0);
        Ok(())
    })?;
    let verify = |option: &str, value: Option<String>| {
        let mut command = Command::new(binaries::backupfs());
        watched::run(command.arg("verify").arg(option).args(value).arg(subject.dir.backup()))
    };
    let checksums = verify("--quick", None)?;
    let from = subject.made.newest_version().get().wrapping_sub(REPLAYED.min(u32::try_from(subject.made.changes)?));
    let verify = verify("--from", Some(from.to_string()))?;
    let (mut first_answers, mut recorder_rss) = (Vec::new(), 0);
    for number in 1..=RECORDERS {
        let dir = subject.dir.clone();
        settle(&dir.lightning_dir())?;
        let mut node = Node::resume(laps, NodeDatabase::open(&dir.database())?, &mut subject.made)?;
        let mut recorder = node.next(|data_version, at, change| {
            let statements = change.statements().map(str::to_owned).collect();
            let write = Call::encode(&TraceWrite { at, data_version, statements }, number)?;
            let started = Instant::now();
            let mut recorder = record::start(&dir.lightning_dir())?;
            record::call(&mut recorder, &write)?;
            first_answers.push(started.elapsed());
            recorder_rss = recorder_rss.max(Memory::of(recorder.pid())?.peak_rss);
            Ok(recorder)
        })?;
        // The node has committed: the recorder notes that at its end, and the next one need not compare databases.
        record::init(&mut recorder, &dir.lightning_dir())?;
        ensure!(recorder.end_input()?.success(), "the recorder did not end well");
        subject.dir.set_made(&subject.made)?;
    }
    Ok(Starts {
        mount: Compared { figure: summary(mounts)?, yardstick: summary(starts)? },
        very_first_open: summary(firsts)?,
        first_answer: summary(first_answers)?,
        recorder_rss,
        checksums,
        verify,
    })
}
