//! How long a change is in one place only, and what the process that ships takes of the machine meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::copied_node::CopiedNode;
use super::covered;
use super::running::{Load, Running};
use crate::scale::process::{Memory, processor_time_of};
use crate::stats::{Samples, Summary};

/// The default of `--every`.
const EVERY: Duration = Duration::from_secs(10);

/// Behind the last change: once more `EVERY`, and the time of the upload.
const AFTERWARDS: Duration = Duration::from_secs(13);

/// The measurements.
#[derive(Debug, Clone, Serialize)]
pub struct LagReport {
    pub every_s: f64,
    /// Changes in each second.
    pub rate: f64,
    /// From the answer to a change until the server had it.
    pub lag: Summary,
    /// The most memory that the process that ships had.
    pub peak_rss: u64,
    /// Its processor time, as a share of one core.
    pub of_a_core: f64,
    /// How long uploads were counted.
    pub seconds: f64,
    /// Uploads meanwhile.
    pub puts: u64,
    /// Bytes of them.
    pub put_bytes: u64,
}

/// Records so many changes in each second for a while.
pub fn measure(node: &mut CopiedNode<'_>, rate: u32, span: Duration) -> anyhow::Result<LagReport> {
    eprintln!("measuring the lag for {} s", span.as_secs());
    let mut running = Running::start(node, Some(EVERY))?;
    let ship = running.ship()?;
    let before = node.newest_seq()?;
    let (counts, processor_time, began) = (node.server.counts(), processor_time_of(ship)?, Instant::now());
    let answers = running.load(node, Load::of_rate(rate), span)?;
    let took = began.elapsed().as_secs_f64();
    let of_a_core = (processor_time_of(ship)? - processor_time) / took;
    thread::sleep(AFTERWARDS);
    let peak_rss = Memory::of(ship)?.peak_rss;
    let (after, seconds) = (node.server.counts(), began.elapsed().as_secs_f64());
    let recorded = node.newest_seq()? - before;
    ensure!(recorded == answers.len() as u64, "{} changes are {recorded} records", answers.len());
    let covered = covered::since(node, began)?;
    running.end()?;
    let records = answers.iter().zip(before + 1..).map(|(answer, seq)| (seq, answer.at));
    let (lags, missing) = covered::lags(records, &covered);
    ensure!(missing == 0, "{missing} of {} changes are not in the copy", answers.len());
    Ok(LagReport {
        every_s: EVERY.as_secs_f64(),
        rate: answers.len() as f64 / took,
        lag: Samples::new(lags).context("no change was recorded")?.summary(),
        peak_rss,
        of_a_core,
        seconds,
        puts: after.put - counts.put,
        put_bytes: after.bytes_in - counts.bytes_in,
    })
}
