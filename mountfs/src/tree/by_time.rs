//! The versions in order of the clock, for the directories below `by-time`.
//!
//! The directories are found in the history, one after the other. The links of the hour that was listed last are cached,
//! because a listing takes many requests.

use std::sync::{Arc, Mutex, PoisonError};

use common::{History, ReadError, Seq, Timestamp};

use crate::tree::calendar::Period;
use crate::tree::node::SEQ_MAX;

/// The bits of a cookie that count the versions of one microsecond.
const TIE_BITS: u32 = 31;

/// A position in the listing of an hour: unique for each link, and stable while the hour grows.
///
/// It is made of the microsecond within the hour and, for versions recorded in the same microsecond, their number. It
/// fits into the 63 bits that a directory offset has, and is never below 2^31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkCookie(u64);

impl LinkCookie {
    /// The cookie of a link.
    fn new(micros_in_hour: u64, tie: u64) -> Self {
        Self((micros_in_hour + 1) << TIE_BITS | tie.min((1 << TIE_BITS) - 1))
    }

    /// The cookie as an offset.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// The time of the newest version of a period; `None` when the period is empty and so not listed.
///
/// # Errors
/// When a part of the history that is needed cannot be read.
pub fn newest_in(history: &History, period: Period) -> Result<Option<Timestamp>, ReadError> {
    let span = period.span();
    Ok(history.last_time_before(span.end)?.filter(|at| span.contains(&at.as_micros())))
}

/// The directories of `period` that are not empty, in order of time, from that with this [`number`](Period::number) on.
///
/// An error, if any, is the last item: directories may be missing.
pub fn children_from(
    history: &History,
    period: Period,
    number: u64,
) -> impl Iterator<Item = Result<Period, ReadError>> + '_ {
    let first = match i16::try_from(number) {
        Ok(0) => Some(period.span().start),
        Ok(number) => period.child_numbered(number).map(|child| child.span().start),
        Err(_) => None,
    };
    let mut from = first;
    std::iter::from_fn(move || match history.first_time_from(from.take()?) {
        Ok(at) => {
            let child = period.child_at(at?)?;
            from = Some(child.span().end);
            Some(Ok(child))
        }
        Err(error) => Some(Err(error)),
    })
}

/// The versions that were recorded in an hour, in order of time, then of seq.
#[derive(Debug)]
pub struct Hour {
    start: i64,
    entries: Vec<(Timestamp, Seq)>,
}

impl Hour {
    /// The links of the hour, in order of time, that come after the one with this cookie.
    pub fn links_after(&self, cookie: u64) -> impl Iterator<Item = (LinkCookie, Seq)> + '_ {
        let micros_in_hour = |at: Timestamp| (at.as_micros() - self.start).unsigned_abs();
        // Skips everything before the microsecond of the cookie; within it the ties are counted from the first.
        let first = self.entries.partition_point(|(at, _)| LinkCookie::new(micros_in_hour(*at) + 1, 0).get() <= cookie);
        let mut tie = 0;
        let mut previous = None;
        self.entries[first..]
            .iter()
            .map(move |(at, seq)| {
                tie = if previous == Some(*at) { tie + 1 } else { 0 };
                previous = Some(*at);
                (LinkCookie::new(micros_in_hour(*at), tie), *seq)
            })
            .skip_while(move |(own, _)| own.get() <= cookie)
    }
}

/// The hour that was listed last, and the history that it is of: its newest version and their number. Every version that
/// comes or goes changes one of the two for good, as no seq is used twice.
type Listed = (Period, Option<Seq>, u64, Arc<Hour>);

/// The cache of the hour that was listed last.
#[derive(Debug, Default)]
pub struct LastHour(Mutex<Option<Listed>>);

impl LastHour {
    /// The versions of an hour, and the error if some may be missing. An hour that may lack versions is not cached.
    pub fn read(&self, history: &History, hour: Period) -> (Arc<Hour>, Result<(), ReadError>) {
        let newest = history.newest().map(|version| version.seq);
        let count = history.version_count();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, as_of, at_count, kept)) = &*last
            && (*of, *as_of, *at_count) == (hour, newest, count)
        {
            return (Arc::clone(kept), Ok(()));
        }
        let span = hour.span();
        let (mut entries, read) = history.versions_between(&span);
        entries.retain(|(_, seq)| seq.get() <= SEQ_MAX);
        let versions = Arc::new(Hour { start: span.start, entries });
        *last = read.is_ok().then(|| (hour, newest, count, Arc::clone(&versions)));
        (versions, read)
    }

    /// Clears the cache: the history is another one now.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_goes_on_from_every_cookie_ties_included() {
        let start = 3_600_000_000;
        let moments = [0, 0, 0, 1, 3_599_999_999, 3_599_999_999];
        let at = |micros| Timestamp::from_micros(start + micros).unwrap();
        let entries: Vec<_> = (1..).zip(moments).map(|(seq, micros)| (at(micros), Seq::new(seq).unwrap())).collect();
        let hour = Hour { start, entries };
        let all: Vec<_> = hour.links_after(0).collect();
        assert_eq!(all.len(), moments.len());
        for (index, (cookie, _)) in all.iter().enumerate() {
            assert!(i64::try_from(cookie.get()).is_ok());
            let rest: Vec<_> = hour.links_after(cookie.get()).collect();
            assert_eq!(rest, all[index + 1..]);
        }
    }
}
