//! [`Statements`]: what a copy says about how current it is. Each is true by itself; together they may show that nothing is missing.

use crate::copy::chunks::Chunks;
use crate::copy_error::CopyError;
use crate::description::{Heartbeat, from_json};
use crate::objects::Object;
use crate::store::Failure;

/// What a run of `backupfs ship` said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWord {
    /// When, in microseconds since 1970, by the clock of the node.
    pub time: i64,
    /// Seq behind the last record that the node had acknowledged.
    pub acknowledged: u64,
    /// Whether the run ended in order.
    pub goodbye: bool,
}

/// What a copy says about how current it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statements {
    /// Seq behind the last record that the copy has.
    pub holds: u64,
    /// What the newest run said last; `None` if it said nothing yet.
    pub last_word: Option<LastWord>,
}

impl Statements {
    /// Reads what the newest run said. `holds` and `shipped` are from the logs: the seq behind the last record, and when that was
    /// shipped.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn read(chunks: &Chunks, holds: u64, shipped: Option<i64>) -> Result<Self, CopyError> {
        let claims = chunks.store().list(Object::CLAIMS)?;
        let newest = claims.iter().filter_map(|listed| match Object::parse(&listed.name) {
            Some(Object::Claim(run)) => Some(run),
            _ => None,
        });
        let beat = match newest.max() {
            None => None,
            Some(run) => {
                let name = Object::Heartbeat(run).to_string();
                match chunks.whole(&name) {
                    Ok(bytes) => Some(from_json::<Heartbeat>(&name, &bytes)?),
                    Err(CopyError::Store(error)) if error.failure == Failure::NotFound => None,
                    Err(error) => return Err(error),
                }
            }
        };
        let said = beat.map(|Heartbeat { time, acknowledged, goodbye, .. }| LastWord { time, acknowledged, goodbye });
        // What is shipped after a heartbeat says more than that.
        let by_logs = shipped.map(|time| LastWord { time, acknowledged: holds, goodbye: false });
        let last_word = match (said, by_logs) {
            (Some(said), Some(by_logs)) if by_logs.time > said.time => Some(by_logs),
            (said, by_logs) => said.or(by_logs),
        };
        Ok(Self { holds, last_word })
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
