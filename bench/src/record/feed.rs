//! Calls without end: a recorded trace that goes on, as `bench scale` has it.

use common::Timestamp;
use mountfs::demo::trace::TraceWrite;

use crate::db_write::Call;
use crate::scale::disguise::Disguise;
use crate::scale::laps::{Change, Laps};
use crate::scale::place::Made;

/// The changes after those of a history.
pub struct Feed<'a> {
    laps: &'a Laps,
    position: u64,
    disguise: Disguise,
    change: Change,
    calls: usize,
}

impl<'a> Feed<'a> {
    /// Goes on where the history ends.
    pub fn after(made: &Made, laps: &'a Laps) -> Self {
        let position = made.position(laps.len());
        Self { laps, position, disguise: Disguise::of(position / laps.len()), change: Change::default(), calls: 0 }
    }

    /// The next calls, encoded.
    pub fn calls(&mut self, count: usize) -> anyhow::Result<Vec<Call>> {
        (0..count).map(|_| self.call()).collect()
    }

    fn call(&mut self) -> anyhow::Result<Call> {
        let lap = self.position / self.laps.len();
        if lap != self.disguise.lap() {
            self.disguise = Disguise::of(lap);
        }
        let at = Timestamp::now();
        self.laps.write(self.position, at, &self.disguise, &mut self.change)?;
        self.position += 1;
        self.calls += 1;
        let data_version = self.laps.version_before(self.position)?;
        let statements = self.change.statements().map(str::to_owned).collect();
        Call::encode(&TraceWrite { at, data_version, statements }, self.calls)
    }
}
