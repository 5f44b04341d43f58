//! [`Statements`]: what a copy says about how current it is. Each is true by itself; together they may show that nothing is missing.

use crate::copy::chunks::Chunks;
use crate::copy_error::CopyError;
use crate::description::{Heartbeat, from_json};
use crate::objects::{Object, Run};

/// The newest heartbeats that are read.
const HEARTBEATS_READ: usize = 64;

/// What a run of `backupfs ship` said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWord {
    /// When, in microseconds since 1970, by the clock of the node.
    pub time: i64,
    /// Seq behind the last record that the node had acknowledged.
    pub acknowledged: u64,
    /// Whether the run ended in order.
    pub goodbye: bool,
    /// Since when the node did not wait for the copy with its answers, although it should have; `None` when it did, or never does.
    pub degraded_since: Option<i64>,
}

/// What a copy says about how current it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statements {
    /// Seq behind the last record that the copy has.
    pub holds: u64,
    /// Seq of the last record before that which the copy lacks; 0 when it lacks none.
    pub missing_through: u64,
    /// What the newest run said last; `None` if it said nothing yet.
    pub last_word: Option<LastWord>,
}

impl Statements {
    /// Reads what the newest run said. The rest is from the objects: the seq behind the last record, the last one before it that is
    /// missing, and when the newest bytes of a log were shipped.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn read(
        chunks: &Chunks,
        (holds, missing_through): (u64, u64),
        shipped: Option<(Run, i64)>,
    ) -> Result<Self, CopyError> {
        let mut newest = shipped.map(|(run, _)| run);
        for listed in chunks.store().list(Object::CLAIMS)? {
            if let Some(Object::Claim(run)) = Object::parse(&listed.name) {
                newest = newest.max(Some(run));
            }
        }
        let mut beats = Vec::new();
        for listed in chunks.store().list(Object::HEARTBEATS)? {
            if let Some(Object::Heartbeat(run)) = Object::parse(&listed.name) {
                newest = newest.max(Some(run));
                beats.push(run);
            }
        }
        beats.sort_unstable();
        // What a run shipped it had acknowledged, but an earlier one may have acknowledged more.
        let mut last_word =
            shipped.map(|(_, time)| LastWord { time, acknowledged: holds, goodbye: false, degraded_since: None });
        let mut is_known = true;
        for run in beats.into_iter().rev().take(HEARTBEATS_READ) {
            let name = Object::Heartbeat(run).to_string();
            let beat = chunks.whole(&name).and_then(|bytes| from_json(&name, &bytes));
            let Heartbeat { time, acknowledged, goodbye, degraded_since, .. } = match beat {
                // On the day of a disaster the copy must be read without it. What it said is not known: so no goodbye counts.
                Err(error @ (CopyError::Seal(_) | CopyError::NotUnderstood { .. })) => {
                    log::warn!("{error}; what that run of `backupfs ship` said last is not known");
                    is_known = false;
                    continue;
                }
                beat => beat?,
            };
            let goodbye = goodbye && newest == Some(run) && last_word.is_none_or(|word| word.time <= time);
            let degraded_since = degraded_since.filter(|_| newest == Some(run));
            let word = last_word.get_or_insert(LastWord { time, acknowledged, goodbye, degraded_since });
            word.degraded_since = word.degraded_since.or(degraded_since);
            word.acknowledged = word.acknowledged.max(acknowledged);
            (word.time, word.goodbye) = (word.time.max(time), word.goodbye || goodbye);
        }
        last_word.iter_mut().for_each(|word| word.goodbye &= is_known);
        Ok(Self { holds, missing_through, last_word })
    }

    /// Whether the copy has all that the node had, as far as the node knew when it stopped.
    pub fn is_complete(&self) -> bool {
        self.last_word.is_some_and(|word| word.goodbye && word.acknowledged <= self.holds)
    }

    /// The number of records that the node had acknowledged and the copy does not have.
    pub fn missing(&self) -> u64 {
        self.last_word.map_or(0, |word| word.acknowledged.saturating_sub(self.holds))
    }
}
