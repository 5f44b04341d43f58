//! The history by the clock, whose order is that of the seqs unless the clock was set back.

use std::ops::{ControlFlow, Range};

use super::{History, Timeline};
use crate::segment::version::Version;
use crate::storage::read_error::ReadError;
use format::units::{Seq, Timestamp};

/// The newest version that was recorded by some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedBy {
    /// The newest version whose time is not later.
    pub newest: Version,
    /// The first version recorded before `newest` whose time is later, with its predecessor: the clock was set back in between.
    /// If the clock was slow when `newest` was recorded, that predecessor was the newest version at that time.
    pub set_back: Option<(Option<Version>, Version)>,
}

/// The range of times of a timeline.
struct Times<'a> {
    earliest: Timestamp,
    latest: Timestamp,
    timeline: Which<'a>,
}

enum Which<'a> {
    Segment(Seq),
    Tail(&'a Timeline),
}

impl History {
    /// The times of all timelines with versions. Reads the footers of all segments, once.
    fn times(&self) -> impl Iterator<Item = Result<Times<'_>, ReadError>> {
        let pruned = self.segments.pruned();
        let sealed = self.sealed.iter().filter_map(move |&segment| {
            let timeline = Which::Segment(segment);
            if let Some(kept) = pruned.as_ref().and_then(|pruned| pruned.kept_of(segment)) {
                let times = || kept.iter().map(|version| version.recorded_at);
                return Some(Ok(Times { earliest: times().min()?, latest: times().max()?, timeline }));
            }
            match self.segments.footer(segment) {
                Ok(footer) if footer.versions == 0 => None,
                Ok(footer) => {
                    let (earliest, latest) = footer.times;
                    Some(Ok(Times { earliest, latest, timeline }))
                }
                Err(error) => Some(Err(error)),
            }
        });
        let tail = self.tail.iter().filter_map(|timeline| {
            let times = || timeline.versions().iter().map(|version| version.recorded_at);
            let (earliest, latest) = (times().min()?, times().max()?);
            Some(Ok(Times { earliest, latest, timeline: Which::Tail(timeline) }))
        });
        sealed.chain(tail)
    }

    fn visit<T>(&self, which: &Which<'_>, visit: impl FnOnce(&Timeline) -> T) -> Result<T, ReadError> {
        Ok(match which {
            Which::Segment(segment) => visit(&*self.segments.timeline(*segment)?),
            Which::Tail(timeline) => visit(timeline),
        })
    }

    /// The newest version with a time of at most `micros` (since 1970), with any later time before it, as far as segments can be
    /// read. `None` when there is no such version.
    ///
    /// # Errors
    /// When a segment that may have it cannot be read, and no other has it.
    pub fn recorded_by(&self, micros: i64) -> Result<Option<RecordedBy>, ReadError> {
        let Some(newest) = self.newest_recorded_by(micros)? else { return Ok(None) };
        let is_later = |version: &Version| version.recorded_at.as_micros() > micros && version.seq < newest.seq;
        let mut before: Option<Version> = None;
        for times in self.times() {
            let Ok(times) = times else { continue };
            let Ok((later, last)) = self.visit(&times.timeline, |timeline| {
                let versions = timeline.versions();
                let later = versions.iter().position(is_later).map(|position| {
                    let before = position.checked_sub(1).and_then(|position| versions.get(position));
                    (versions.get(position).cloned(), before.cloned())
                });
                (later, versions.last().cloned())
            }) else {
                continue;
            };
            if let Some((Some(later), before_it)) = later {
                return Ok(Some(RecordedBy { newest, set_back: Some((before_it.or(before), later)) }));
            }
            if last.as_ref().is_some_and(|last| last.seq >= newest.seq) {
                break;
            }
            before = last.or(before);
        }
        Ok(Some(RecordedBy { newest, set_back: None }))
    }

    /// The newest version with a time of at most `micros` (since 1970). If the clock was set back, it need not be the one with
    /// the latest time.
    ///
    /// # Errors
    /// When a segment that may have it cannot be read, and no other has it.
    fn newest_recorded_by(&self, micros: i64) -> Result<Option<Version>, ReadError> {
        let is_by = |at: Timestamp| at.as_micros() <= micros;
        let mut unreadable = None;
        for times in self.times().collect::<Vec<_>>().into_iter().rev() {
            let found = times.and_then(|times| {
                if !is_by(times.earliest) {
                    return Ok(None);
                }
                self.visit(&times.timeline, |timeline| {
                    timeline.versions().iter().rev().find(|version| is_by(version.recorded_at)).cloned()
                })
            });
            match found {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => unreadable = unreadable.or(Some(error)),
            }
        }
        unreadable.map_or(Ok(None), Err)
    }

    /// The earliest time of a version at or after `micros` (since 1970).
    ///
    /// # Errors
    /// When a segment that may have it cannot be read, and no other has it.
    pub fn first_time_from(&self, micros: i64) -> Result<Option<Timestamp>, ReadError> {
        self.extreme(
            |times| times.latest.as_micros() >= micros,
            |times| times.earliest,
            |at| at.as_micros() >= micros,
            Ord::min,
        )
    }

    /// The latest time of a version before `micros` (since 1970).
    ///
    /// # Errors
    /// When a segment that may have it cannot be read, and no other has it.
    pub fn last_time_before(&self, micros: i64) -> Result<Option<Timestamp>, ReadError> {
        self.extreme(
            |times| times.earliest.as_micros() < micros,
            |times| times.latest,
            |at| at.as_micros() < micros,
            Ord::max,
        )
    }

    /// Visits the times of all versions from the newest to the oldest, until `visit` breaks.
    ///
    /// # Errors
    /// When a segment cannot be read: no older version is visited.
    pub(crate) fn visit_times_backwards(
        &self,
        visit: &mut dyn FnMut(Timestamp, Seq) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        for times in self.times().collect::<Vec<_>>().into_iter().rev() {
            let flow = self.visit(&times?.timeline, |timeline| {
                timeline.versions().iter().rev().try_for_each(|version| visit(version.recorded_at, version.seq))
            })?;
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The best time among the `wanted` ones. A timeline whose own extreme is wanted need not be read.
    fn extreme(
        &self,
        may_hold: impl Fn(&Times<'_>) -> bool,
        own: impl Fn(&Times<'_>) -> Timestamp,
        wanted: impl Fn(Timestamp) -> bool,
        better: impl Fn(Timestamp, Timestamp) -> Timestamp,
    ) -> Result<Option<Timestamp>, ReadError> {
        let mut best: Option<Timestamp> = None;
        let mut unreadable = None;
        for times in self.times() {
            let found = times.and_then(|times| {
                let own_best = own(&times);
                let beaten = best.is_some_and(|best| better(best, own_best) == best);
                if !may_hold(&times) || beaten {
                    return Ok(None);
                }
                if wanted(own_best) {
                    return Ok(Some(own_best));
                }
                self.visit(&times.timeline, |timeline| {
                    let times = timeline.versions().iter().map(|version| version.recorded_at);
                    times.filter(|&at| wanted(at)).reduce(&better)
                })
            });
            match found {
                Ok(Some(found)) => best = Some(best.map_or(found, |best| better(best, found))),
                Ok(None) => {}
                Err(error) => unreadable = unreadable.or(Some(error)),
            }
        }
        match (best, unreadable) {
            (None, Some(error)) => Err(error),
            (best, _) => Ok(best),
        }
    }

    /// Times and seqs of the versions in a span of time (microseconds since 1970), ordered by time and then by seq.
    ///
    /// # Errors
    /// When segments cannot be read: the versions of all others are in the list.
    pub fn versions_between(&self, span: &Range<i64>) -> (Vec<(Timestamp, Seq)>, Result<(), ReadError>) {
        let mut found = Vec::new();
        let mut unreadable = None;
        for times in self.times() {
            let read = times.and_then(|times| {
                if times.latest.as_micros() < span.start || times.earliest.as_micros() >= span.end {
                    return Ok(());
                }
                self.visit(&times.timeline, |timeline| {
                    let versions = timeline.versions().iter().map(|version| (version.recorded_at, version.seq));
                    found.extend(versions.filter(|(at, _)| span.contains(&at.as_micros())));
                })
            });
            unreadable = unreadable.or(read.err());
        }
        found.sort_unstable();
        (found, unreadable.map_or(Ok(()), Err))
    }

    /// Whether any version was recorded in a span of time.
    ///
    /// # Errors
    /// When a segment that may have one cannot be read.
    pub fn has_versions_between(&self, span: &Range<i64>) -> Result<bool, ReadError> {
        Ok(self.first_time_from(span.start)?.is_some_and(|at| at.as_micros() < span.end))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use crate::config::log_limits::LogLimits;
    use crate::log::DbWrite;
    use crate::seal::Sealer;
    use crate::testing::Node;
    use format::units::{DataVersion, Seq, Timestamp};

    /// It is 3 o'clock by a wrong clock, then 2, and the version of 2 o'clock is the newer one.
    #[test]
    fn the_newest_version_of_a_time_is_the_newest_one_also_when_the_clock_was_set_back() {
        let hour = |hours: i64| Timestamp::now().as_micros() + hours * 3_600_000_000;
        let (one, two, three) = (hour(1), hour(2), hour(3));
        for (statements, seals) in [(2, false), (2, true), (100, false)] {
            let limits = LogLimits { bytes: 1 << 16, statements };
            let mut node = Node::new("");
            let mut recording = node.record_within(limits);
            for micros in [one, three, two] {
                let bump = format!(
                    "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {}",
                    node.version
                );
                node.connection.execute_batch(&format!("BEGIN; {bump}")).unwrap();
                let data_version = DataVersion::new(node.version + 1);
                let received_at = Timestamp::from_micros(micros).unwrap();
                recording.record(&DbWrite { data_version, statements: &[bump.into()], received_at }).unwrap();
                node.connection.execute_batch("COMMIT").unwrap();
                node.version += 1;
            }
            drop(recording);
            if seals {
                let mut sealer = Sealer::new(node.backup(), limits).unwrap();
                sealer.advance(Seq::new(u64::MAX).unwrap(), &mut |_| ControlFlow::Continue(())).unwrap();
            }
            let (history, read) = node.backup().read_history();
            read.unwrap();
            let number = |version: &crate::segment::version::Version| version.data_version.get();
            let by = |micros: i64| {
                let by = history.recorded_by(micros).unwrap()?;
                let set_back = by.set_back.map(|(before, later)| (before.as_ref().map(number), number(&later)));
                Some((number(&by.newest), set_back))
            };
            let set_back = Some((Some(11), 12));
            assert_eq!(
                [0, hour(0), one, two - 1, two, three - 1, three].map(by),
                [
                    None,
                    Some((10, None)),
                    Some((11, None)),
                    Some((11, None)),
                    Some((13, set_back)),
                    Some((13, set_back)),
                    Some((13, None))
                ]
            );
        }
    }
}
