//! From the start of the recorder's process to the answer to its first write, which opens the backup.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use mountfs::demo::trace::TraceWrite;
use serde::Serialize;

use super::{call, init, start};
use crate::db_write::Call;
use crate::scale::making::{self, Logs, Node, Wanted};
use crate::scale::measured::settle;
use crate::scale::node_database::NodeDatabase;
use crate::scale::place::Place;
use crate::scale::rehearsal::Rehearsal;
use crate::sequence::Source;
use crate::stats::{Samples, Summary};

/// Number of starts.
const STARTS: usize = 10;

/// The measurements.
#[derive(Serialize)]
pub struct StartReport {
    /// Versions recorded before.
    pub versions: u64,
    /// Time until the first write is answered.
    pub first_answer: Summary,
    /// Until the manifest is answered, which is asked for before: what starting a process takes.
    pub manifest: Summary,
}

/// Records a history of so many versions and starts a recorder on it, again and again.
pub fn measure(source: &Source, rehearsal: &Rehearsal, place: &Place, versions: u32) -> anyhow::Result<StartReport> {
    let dir = place.history("start");
    eprintln!("recording {versions} versions to start with");
    let wanted = Wanted { changes: versions, database_mb: 0, logs: Logs::Sealed, parity: None };
    let mut made = making::make(wanted, &source.name, rehearsal, &dir)?;
    let versions = made.versions();
    let (mut first_answers, mut manifests) = (Vec::new(), Vec::new());
    for number in 1..=STARTS {
        settle(&dir.lightning_dir())?;
        let mut node = Node::resume(&rehearsal.laps, NodeDatabase::open(&dir.database())?, &mut made)?;
        let mut recorder = node.next(|data_version, at, change| {
            let statements = change.statements().map(str::to_owned).collect();
            let write = Call::encode(&TraceWrite { at, data_version, statements }, number)?;
            let started = Instant::now();
            let mut recorder = start(&dir.lightning_dir())?;
            manifests.push(started.elapsed());
            call(&mut recorder, &write)?;
            first_answers.push(started.elapsed());
            Ok(recorder)
        })?;
        // The node has committed: the recorder notes that at its end, and the next one need not compare databases.
        init(&mut recorder, &dir.lightning_dir())?;
        ensure!(recorder.end_input()?.success(), "the recorder did not end well");
    }
    let summary = |samples| Samples::new(samples).map(|samples| samples.summary()).context("BUG: no samples");
    Ok(StartReport { versions, first_answer: summary(first_answers)?, manifest: summary(manifests)? })
}
