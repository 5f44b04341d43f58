//! What became of each write of a trace: committed or lost in a crash, and what was missed before it.
//!
//! Found from the trace alone, by the rule that the version before a write is what the database held then.

use std::collections::{BTreeMap, BTreeSet};

use common::DataVersion;
use mountfs::demo::trace::{Trace, TraceEvent};

use crate::traces;

/// One write, as seen with hindsight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// The version after it.
    pub data_version: DataVersion,
    /// Whether it changes the version; a PRAGMA rider does not.
    pub kind: Kind,
    /// Whether the node came to commit it.
    pub outcome: Outcome,
    /// Transactions committed just before it that never reached the plugin.
    pub missed_before: u32,
}

/// Whether a write is a transaction of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A transaction, which counts the version up.
    Transaction,
    /// A PRAGMA alone.
    Rider,
}

/// What the node did after the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It committed.
    Committed,
    /// It died before.
    Lost,
}

/// The writes of a trace, in order.
#[derive(Debug, Clone)]
pub struct Schedule(Vec<Fate>);

impl Schedule {
    /// Reads a trace once, and keeps nothing of it but the versions.
    pub fn of(trace: Trace<'_>) -> Self {
        let mut fates: Vec<Fate> = Vec::new();
        let mut new_run = true;
        for event in trace {
            match event.expect("an intact trace") {
                TraceEvent::Start => new_run = true,
                TraceEvent::Write(write) => {
                    let kind = match write.statements.last() {
                        Some(last) if last.starts_with("UPDATE vars SET intval = intval + 1") => Kind::Transaction,
                        _ => Kind::Rider,
                    };
                    let before = match kind {
                        Kind::Transaction => write.data_version.previous(),
                        Kind::Rider => write.data_version,
                    };
                    let mut missed_before = 0;
                    if let Some(last) = fates.last_mut() {
                        let distance = before.distance_from(last.data_version);
                        assert!(distance == 0 || new_run, "versions jump within a run: {last:?} then {write:?}");
                        match distance {
                            -1 => last.outcome = Outcome::Lost,
                            ahead => missed_before = ahead.try_into().expect("a trace never goes back by two"),
                        }
                    }
                    let outcome = Outcome::Committed;
                    fates.push(Fate { data_version: write.data_version, kind, outcome, missed_before });
                    new_run = false;
                }
                TraceEvent::Init
                | TraceEvent::Shutdown
                | TraceEvent::Kill { .. }
                | TraceEvent::End
                | TraceEvent::QuietExit => {}
            }
        }
        Self(fates)
    }

    /// Position of a write with at least `writes` writes from it on, unless there are fewer: a transaction behind one that was
    /// committed and reported, so that recording can begin there. 0 when traces are played whole.
    pub fn before_the_last(&self, writes: usize) -> usize {
        let mut from = if traces::are_whole() { 0 } else { self.0.len().saturating_sub(writes) };
        while from > 0 && !begins_well(self.0[from - 1], self.0[from]) {
            from -= 1;
        }
        from
    }

    /// The schedule without its first `writes`.
    pub fn behind(&self, writes: usize) -> Self {
        Self(self.0[writes..].to_vec())
    }

    /// All writes, in order.
    pub fn fates(&self) -> &[Fate] {
        &self.0
    }

    /// Whether transactions are missing somewhere.
    pub fn has_gap(&self) -> bool {
        self.0.iter().any(|fate| fate.missed_before > 0)
    }

    /// Positions of the writes after which the database is looked at: first, last, every 500th, and those around every
    /// crash, gap and rider. Writes that were lost are never among them.
    pub fn sampled(&self) -> BTreeSet<usize> {
        let mut wanted: BTreeSet<usize> = (0..self.0.len()).step_by(500).collect();
        wanted.insert(self.0.len() - 1);
        for (at, fate) in self.0.iter().enumerate() {
            if fate.outcome == Outcome::Lost || fate.missed_before > 0 || fate.kind == Kind::Rider {
                wanted.extend(at.saturating_sub(1)..=at + 1);
            }
        }
        wanted.retain(|&at| self.0.get(at).is_some_and(|fate| fate.outcome == Outcome::Committed));
        wanted
    }

    /// The versions a backup of all this has, each with the positions of the writes that led to it: one transaction and
    /// its riders.
    pub fn versions(&self) -> BTreeMap<DataVersion, Vec<usize>> {
        let mut versions: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (at, fate) in self.0.iter().enumerate().filter(|(_, fate)| fate.outcome == Outcome::Committed) {
            versions.entry(fate.data_version).or_default().push(at);
        }
        versions
    }

    /// The versions that are missing: committed, and never reported.
    pub fn missing(&self) -> Vec<DataVersion> {
        let mut missing = Vec::new();
        for fate in &self.0 {
            let mut version = fate.data_version;
            if fate.missed_before > 0 && fate.kind == Kind::Transaction {
                version = version.previous();
            }
            for _ in 0..fate.missed_before {
                missing.push(version);
                version = version.previous();
            }
        }
        missing
    }
}

fn begins_well(before: Fate, first: Fate) -> bool {
    before.outcome == Outcome::Committed && first.missed_before == 0 && first.kind == Kind::Transaction
}
