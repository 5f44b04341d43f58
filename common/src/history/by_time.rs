//! The history in the order of the clock, which is that of the seqs until somebody sets it back.

use std::ops::Range;

use super::{History, Stretch};
use crate::{ReadError, Seq, Timestamp};

/// A stretch by its times.
struct Times<'a> {
    earliest: Timestamp,
    latest: Timestamp,
    stretch: Which<'a>,
}

enum Which<'a> {
    Segment(Seq),
    Tail(&'a Stretch),
}

impl History {
    /// The times of all stretches that have versions. Reads the footers of all segments, once.
    fn times(&self) -> impl Iterator<Item = Result<Times<'_>, ReadError>> {
        let remains = self.segments.remains();
        let sealed = self.sealed.iter().filter_map(move |&segment| {
            let stretch = Which::Segment(segment);
            if let Some(kept) = remains.as_ref().and_then(|remains| remains.kept_of(segment)) {
                let times = || kept.iter().map(|version| version.recorded_at);
                return Some(Ok(Times { earliest: times().min()?, latest: times().max()?, stretch }));
            }
            match self.segments.footer(segment) {
                Ok(footer) if footer.versions == 0 => None,
                Ok(footer) => {
                    let (earliest, latest) = footer.times;
                    Some(Ok(Times { earliest, latest, stretch }))
                }
                Err(error) => Some(Err(error)),
            }
        });
        let tail = self.tail.iter().filter_map(|stretch| {
            let times = || stretch.versions().iter().map(|version| version.recorded_at);
            let (earliest, latest) = (times().min()?, times().max()?);
            Some(Ok(Times { earliest, latest, stretch: Which::Tail(stretch) }))
        });
        sealed.chain(tail)
    }

    fn visit<T>(&self, which: &Which<'_>, visit: impl FnOnce(&Stretch) -> T) -> Result<T, ReadError> {
        Ok(match which {
            Which::Segment(segment) => visit(&*self.segments.stretch(*segment)?),
            Which::Tail(stretch) => visit(stretch),
        })
    }

    /// The earliest time of a version at or after `micros` (since 1970).
    ///
    /// # Errors
    /// When a segment that may tell cannot be read and no other does.
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
    /// When a segment that may tell cannot be read and no other does.
    pub fn last_time_before(&self, micros: i64) -> Result<Option<Timestamp>, ReadError> {
        self.extreme(
            |times| times.earliest.as_micros() < micros,
            |times| times.latest,
            |at| at.as_micros() < micros,
            Ord::max,
        )
    }

    /// The best time among those that are `wanted`. A stretch whose own best one is wanted need not be read.
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
                self.visit(&times.stretch, |stretch| {
                    let times = stretch.versions().iter().map(|version| version.recorded_at);
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

    /// When the versions of a span of time (microseconds since 1970) were recorded, and their seqs, in the order of the
    /// clock and then of the seqs.
    ///
    /// # Errors
    /// When segments cannot be read: what all others hold is in the list.
    pub fn versions_between(&self, span: &Range<i64>) -> (Vec<(Timestamp, Seq)>, Result<(), ReadError>) {
        let mut found = Vec::new();
        let mut unreadable = None;
        for times in self.times() {
            let read = times.and_then(|times| {
                if times.latest.as_micros() < span.start || times.earliest.as_micros() >= span.end {
                    return Ok(());
                }
                self.visit(&times.stretch, |stretch| {
                    let versions = stretch.versions().iter().map(|version| (version.recorded_at, version.seq));
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
    /// When a segment that may tell cannot be read.
    pub fn has_versions_between(&self, span: &Range<i64>) -> Result<bool, ReadError> {
        Ok(self.first_time_from(span.start)?.is_some_and(|at| at.as_micros() < span.end))
    }
}
