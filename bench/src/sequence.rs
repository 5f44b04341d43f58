//! A recorded trace as one sequence of writes without gaps and crashes, so that nothing but the recording is measured.
//!
//! A gap makes the recorder heal, and for that it needs the database of that moment, which no trace has. So the versions
//! after a gap are numbered anew, in `data_version` and in the statement that counts it up; writes that `lightningd` never
//! committed are left out, as their numbers are used again by the writes after them.

use std::path::{Path, PathBuf};

use ::tests::schedule::{Kind, Outcome, Schedule};
use ::tests::traces::TraceFolder;
use ::tests::{binaries, traces};
use anyhow::{Context as _, bail};
use common::DataVersion;
use mountfs::demo::trace::TraceEvent;
use mountfs::demo::trace::{Trace, TraceWrite};
use serde::Serialize;

/// The trace that is shipped with the sources.
pub const SHIPPED: &str = "demo";

/// The source of a trace.
pub struct Source {
    /// Name of the trace.
    pub name: String,
    place: Place,
}

enum Place {
    Shipped(PathBuf),
    Shared(TraceFolder),
}

impl Source {
    /// The trace of this name; `None`, with a loud line, where it is not here.
    pub fn find(name: &str) -> Option<Self> {
        let place = match name {
            SHIPPED => Place::Shipped(binaries::workspace().join("mountfs/demo/db_write.jsonl.zst")),
            shared => Place::Shared(traces::folder(shared)?),
        };
        Some(Self { name: name.to_owned(), place })
    }

    /// Writes the database before the first write to `to`; `false` when the node was new.
    pub fn start_database(&self, to: &Path) -> bool {
        match &self.place {
            Place::Shipped(_) => false,
            Place::Shared(folder) => folder.start_database(to),
        }
    }

    fn events(&self) -> anyhow::Result<Trace<'static>> {
        match &self.place {
            Place::Shipped(path) => Ok(Trace::open(path)?),
            Place::Shared(folder) => Ok(folder.events()),
        }
    }

    /// The writes of the trace as one sequence. Reads the trace once to see what became of each.
    pub fn sequence(&self) -> anyhow::Result<Sequence> {
        let schedule = Schedule::of(self.events()?);
        Ok(Sequence { events: self.events()?, schedule, position: 0, smoothed: Smoothed::default() })
    }
}

/// What is not in a sequence as it was in the trace.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Smoothed {
    /// Versions missing in gaps: later ones have a number that is smaller by this.
    pub versions_closed_up: u32,
    /// Writes that were never committed.
    pub writes_left_out: usize,
}

impl Smoothed {
    /// In words; nothing where the trace is unchanged.
    pub fn describe(self) -> String {
        let mut words = Vec::new();
        if self.versions_closed_up > 0 {
            words.push(format!("later versions renumbered over gaps of {} in all", self.versions_closed_up));
        }
        if self.writes_left_out > 0 {
            words.push(format!("{} writes that were never committed left out", self.writes_left_out));
        }
        words.join("; ")
    }
}

/// The writes of a trace, each on top of the one before.
pub struct Sequence {
    events: Trace<'static>,
    schedule: Schedule,
    position: usize,
    smoothed: Smoothed,
}

impl Sequence {
    /// What was done to the trace for the writes taken so far.
    pub fn smoothed(&self) -> Smoothed {
        self.smoothed
    }

    fn next_write(&mut self) -> anyhow::Result<Option<TraceWrite>> {
        for event in &mut self.events {
            let TraceEvent::Write(mut write) = event? else { continue };
            let fate = self.schedule.fates()[self.position];
            self.position += 1;
            self.smoothed.versions_closed_up += fate.missed_before;
            match fate.outcome {
                Outcome::Lost => self.smoothed.writes_left_out += 1,
                Outcome::Committed => {
                    renumber(&mut write, fate.kind, self.smoothed.versions_closed_up)?;
                    return Ok(Some(write));
                }
            }
        }
        Ok(None)
    }
}

impl Iterator for Sequence {
    type Item = anyhow::Result<TraceWrite>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_write().transpose()
    }
}

/// Makes the number of the version smaller by `by`.
fn renumber(write: &mut TraceWrite, kind: Kind, by: u32) -> anyhow::Result<()> {
    if by == 0 {
        return Ok(());
    }
    let before = write.data_version.previous();
    let renumbered = DataVersion::new(write.data_version.get().wrapping_sub(by));
    if kind == Kind::Transaction {
        let bump = write.statements.last_mut().context("a write of the trace has no statements")?;
        let Some(text) = bump.strip_suffix(&before.to_string()) else {
            bail!("the last statement of version {} does not end with {before}: {bump}", write.data_version);
        };
        *bump = format!("{text}{}", renumbered.previous());
    }
    write.data_version = renumbered;
    Ok(())
}

#[cfg(test)]
mod tests {
    use common::Timestamp;
    use format::version_rules::Bump;

    use super::*;

    fn write(number: u32, last: &str) -> TraceWrite {
        let statements = vec!["INSERT INTO x VALUES (99)".to_owned(), last.to_owned()];
        TraceWrite { at: Timestamp::now(), data_version: DataVersion::new(number), statements }
    }

    #[test]
    fn a_renumbered_write_counts_up_to_its_new_number() {
        let bump = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = 99";
        let mut renumbered = write(100, bump);
        renumber(&mut renumbered, Kind::Transaction, 2).unwrap();
        assert_eq!(renumbered.data_version, DataVersion::new(98));
        assert_eq!(
            Bump::find(renumbered.data_version, &renumbered.statements).committed(renumbered.data_version).get(),
            97
        );
        assert_eq!(renumbered.statements[0], "INSERT INTO x VALUES (99)");
    }

    #[test]
    fn a_rider_keeps_its_statement_and_nothing_is_touched_before_the_first_gap() {
        let mut rider = write(100, "PRAGMA foreign_keys = 99");
        renumber(&mut rider, Kind::Rider, 1).unwrap();
        assert_eq!((rider.data_version.get(), rider.statements[1].as_str()), (99, "PRAGMA foreign_keys = 99"));
        let mut before = write(100, "anything");
        renumber(&mut before, Kind::Transaction, 0).unwrap();
        assert_eq!(before.data_version.get(), 100);
        assert!(renumber(&mut write(100, "anything"), Kind::Transaction, 1).is_err());
    }

    /// Plays a sequence against the version rules: nothing may be anything but an ordinary write. Returns how many
    /// there are.
    fn appended(sequence: &mut Sequence) -> usize {
        let mut newest: Option<DataVersion> = None;
        let mut count = 0;
        for write in sequence {
            let write = write.unwrap();
            let committed = Bump::find(write.data_version, &write.statements).committed(write.data_version);
            assert_eq!(committed, newest.unwrap_or(committed), "before version {}", write.data_version);
            newest = Some(write.data_version);
            count += 1;
        }
        count
    }

    #[test]
    fn the_shipped_trace_is_a_sequence_as_it_is() {
        let mut sequence = Source::find(SHIPPED).unwrap().sequence().unwrap();
        assert_eq!(appended(&mut sequence), 1500);
        assert_eq!(sequence.smoothed().describe(), "");
    }

    #[test]
    fn a_trace_with_gaps_and_crashes_becomes_a_sequence() {
        let Some(source) = Source::find("crash") else { return };
        let mut sequence = source.sequence().unwrap();
        let count = appended(&mut sequence);
        let Smoothed { versions_closed_up, writes_left_out } = sequence.smoothed();
        assert_eq!((count + writes_left_out, writes_left_out, versions_closed_up), (6405, 32, 5));
    }
}
