//! What `lightningd` waits for at each `db_write` while answers wait for the copy, beside shipping for which nothing waits.

use std::time::Duration;

use anyhow::Context as _;
use common::{OffsiteWait, WaitThen};
use serde::Serialize;

use super::copied_node::CopiedNode;
use super::running::{Load, Running};
use crate::stats::{Samples, Summary};

/// The longest wait of an answer: no store that is measured takes so long.
const WAIT_SECONDS: u64 = 60;

/// How often is shipped. What waits is shipped at once.
const EVERY: Duration = Duration::from_secs(10);

/// Answers that wait for one store in one way.
#[derive(Debug, Clone, Serialize)]
pub struct WaitingReport {
    /// The store: the directory, or the server that takes some milliseconds for each answer.
    pub store: &'static str,
    /// The key `changes` in words.
    pub wait: String,
    /// At a rate.
    pub rated: Summary,
    /// At a rate, while nothing waits.
    pub rated_without: Summary,
    /// As many changes as the recorder takes.
    pub full: Summary,
    /// The same while nothing waits.
    pub full_without: Summary,
}

/// Measures both stores, in every way.
pub fn measure(node: &mut CopiedNode<'_>, rate: u32, span: Duration) -> anyhow::Result<Vec<WaitingReport>> {
    let mut reports = of_store(node, "bucket", rate, span)?;
    let bucket = node.copy_in_directory()?;
    node.ship_once()?;
    reports.extend(of_store(node, "directory", rate, span)?);
    node.go_back_to(bucket);
    Ok(reports)
}

fn of_store(
    node: &mut CopiedNode<'_>,
    store: &'static str,
    rate: u32,
    span: Duration,
) -> anyhow::Result<Vec<WaitingReport>> {
    let mut turn = |changes: Option<u64>| {
        eprintln!("measuring answers that wait: {store}, changes {changes:?}");
        let wait = changes.map(|changes| OffsiteWait::new(changes, WAIT_SECONDS, WaitThen::Stop)).transpose()?;
        node.set_wait(wait);
        let mut running = Running::start(node, Some(EVERY))?;
        let mut load = |load| {
            let answers = running.load(node, load, span)?.iter().map(|answer| answer.took).collect();
            Ok::<_, anyhow::Error>(Samples::new(answers).context("there was no answer")?.summary())
        };
        let turn = (load(Load::of_rate(rate))?, load(Load::Full)?);
        running.end()?;
        node.set_wait(None);
        anyhow::Ok(turn)
    };
    let (rated_without, full_without) = turn(None)?;
    let mut reports = Vec::new();
    for changes in [100, 0] {
        let (rated, full) = turn(Some(changes))?;
        let wait = format!("changes {changes}");
        reports.push(WaitingReport { store, wait, rated, rated_without, full, full_without });
    }
    Ok(reports)
}
