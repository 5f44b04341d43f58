//! [`ByTime`]: the versions in order of the clock, for the directories below `by-time`.
//!
//! The history is in order of seq. That is also the order of the clock until somebody sets it back, so a second order is
//! kept here. It is brought up to date when it is asked for: who never looks at `by-time` pays nothing.

use common::{Seq, Timestamp};

use crate::calendar::Period;
use crate::tree::SEQ_MAX;

/// Bits of a cookie that count the versions of one microsecond.
const TIE_BITS: u32 = 31;

/// The versions sorted by the moment they were recorded, those of one moment by seq.
#[derive(Debug, Default)]
pub struct ByTime {
    /// In order of seq: what has been taken over from the history.
    known: Vec<(Seq, Timestamp)>,
    /// The same in order of time.
    sorted: Vec<(Timestamp, Seq)>,
}

/// A place in the listing of an hour: every link has one of its own, and it stays the same while the hour grows.
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

impl ByTime {
    /// Takes over what the history gained and lost at its end since the last call.
    ///
    /// `versions` is the whole history in order of seq, `entry` tells when a version was recorded and its seq. The
    /// history changes like a stack: a rewind takes the newest one away, a rider replaces it, everything else is put on
    /// top.
    pub fn catch_up<V>(&mut self, versions: &[V], entry: impl Fn(&V) -> (Timestamp, Seq)) {
        let seq_of = |version: &V| entry(version).1;
        let believable = versions.partition_point(|version| seq_of(version).get() <= SEQ_MAX);
        let versions = &versions[..believable];
        while let Some(&(seq, at)) = self.known.last() {
            let same = versions.binary_search_by_key(&seq, seq_of).is_ok_and(|place| entry(&versions[place]).0 == at);
            if same {
                break;
            }
            self.known.pop();
            if let Ok(place) = self.sorted.binary_search(&(at, seq)) {
                self.sorted.remove(place);
            }
        }
        let newest_known = self.known.last().map(|(seq, _)| *seq);
        let new = versions.partition_point(|version| Some(seq_of(version)) <= newest_known);
        self.add(versions[new..].iter().map(&entry));
        if self.known.len() != versions.len() {
            // Not a stack after all: the backup was read again from the beginning and is another one now.
            *self = Self::default();
            self.add(versions.iter().map(&entry));
        }
    }

    fn add(&mut self, new: impl Iterator<Item = (Timestamp, Seq)> + Clone) {
        let Some(earliest) = new.clone().min() else { return };
        // Only what lies behind the earliest newcomer can change places: nothing, unless the clock was set back.
        let settled = self.sorted.partition_point(|entry| *entry < earliest);
        self.known.extend(new.clone().map(|(at, seq)| (seq, at)));
        self.sorted.extend(new);
        self.sorted[settled..].sort();
    }

    /// The newest version by the clock within this period; `None` when the period is empty and so not listed.
    pub fn newest_in(&self, period: Period) -> Option<Timestamp> {
        let entries = self.entries_in(period);
        entries.last().map(|(at, _)| *at)
    }

    /// The directories of `period` that are not empty, in order of time, from that with this
    /// [`number`](Period::number) on.
    pub fn children_from(&self, period: Period, number: u64) -> impl Iterator<Item = Period> + '_ {
        let mut rest = self.entries_in(period);
        std::iter::from_fn(move || {
            let (at, _) = rest.first()?;
            let child = period.child_at(*at)?;
            let end = child.span().end;
            rest = &rest[rest.partition_point(|(at, _)| at.as_micros() < end)..];
            Some(child)
        })
        .skip_while(move |child| u64::from(child.number()) < number)
    }

    /// The links of an hour, in order of time, that come after the one with this cookie.
    pub fn links_after(&self, hour: Period, cookie: u64) -> impl Iterator<Item = (LinkCookie, Seq)> + '_ {
        let entries = self.entries_in(hour);
        let start = hour.span().start;
        let micros_in_hour = move |at: Timestamp| (at.as_micros() - start).unsigned_abs();
        // Everything before the microsecond of the cookie is behind us; within it the ties are counted from the first.
        let first = entries.partition_point(|(at, _)| LinkCookie::new(micros_in_hour(*at) + 1, 0).get() <= cookie);
        let mut tie = 0;
        let mut previous = None;
        entries[first..]
            .iter()
            .map(move |(at, seq)| {
                tie = if previous == Some(*at) { tie + 1 } else { 0 };
                previous = Some(*at);
                (LinkCookie::new(micros_in_hour(*at), tie), *seq)
            })
            .skip_while(move |(own, _)| own.get() <= cookie)
    }

    fn entries_in(&self, period: Period) -> &[(Timestamp, Seq)] {
        let span = period.span();
        let first = self.sorted.partition_point(|(at, _)| at.as_micros() < span.start);
        let end = self.sorted.partition_point(|(at, _)| at.as_micros() < span.end);
        &self.sorted[first..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entry = (Timestamp, Seq);

    fn version(seq: u64, at: &str) -> Entry {
        let jiff: jiff::Timestamp = at.parse().unwrap();
        (Timestamp::from_micros(jiff.as_microsecond()).unwrap(), Seq::new(seq).unwrap())
    }

    fn catch_up(by_time: &mut ByTime, versions: &[Entry]) {
        by_time.catch_up(versions, |entry| *entry);
    }

    fn names(by_time: &ByTime, period: Period) -> Vec<String> {
        by_time.children_from(period, 0).map(Period::name).collect()
    }

    fn seqs(by_time: &ByTime, hour: Period, cookie: u64) -> Vec<u64> {
        by_time.links_after(hour, cookie).map(|(_, seq)| seq.get()).collect()
    }

    fn hour_of(version: &Entry) -> Period {
        std::iter::successors(Some(Period::Ever), |period| period.child_at(version.0)).last().unwrap()
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_disturb_the_order() {
        let versions = [
            version(1, "2026-11-22T14:00:00Z"),
            version(2, "2026-11-22T14:00:05Z"),
            version(3, "2026-11-22T14:00:02Z"),
            version(4, "2025-01-01T00:00:00Z"),
            version(5, "2026-11-22T15:00:00Z"),
        ];
        let mut at_once = ByTime::default();
        catch_up(&mut at_once, &versions);
        assert_eq!(names(&at_once, Period::Ever), ["2025", "2026"]);
        assert_eq!(seqs(&at_once, hour_of(&versions[0]), 0), [1, 3, 2]);

        let mut step_by_step = ByTime::default();
        for count in 0..=versions.len() {
            catch_up(&mut step_by_step, &versions[..count]);
        }
        assert_eq!(step_by_step.sorted, at_once.sorted);
    }

    #[test]
    fn a_rewound_version_is_gone_and_its_repetition_is_there() {
        let before = [version(1, "2026-11-22T14:00:00Z"), version(2, "2026-11-22T14:00:05Z")];
        let after = [version(1, "2026-11-22T14:00:00Z"), version(4, "2026-11-22T14:01:05Z")];
        let mut by_time = ByTime::default();
        catch_up(&mut by_time, &before);
        catch_up(&mut by_time, &after);
        assert_eq!(seqs(&by_time, hour_of(&after[0]), 0), [1, 4]);
        catch_up(&mut by_time, &after[..1]);
        assert_eq!(seqs(&by_time, hour_of(&after[0]), 0), [1]);
        assert_eq!(by_time.known.len(), 1);
    }

    #[test]
    fn another_history_replaces_the_old_one() {
        let mut by_time = ByTime::default();
        catch_up(&mut by_time, &[version(3, "2026-11-22T14:00:00Z")]);
        let other = [version(1, "2020-01-01T00:00:00Z"), version(3, "2026-11-22T14:00:00Z")];
        catch_up(&mut by_time, &other);
        assert_eq!(names(&by_time, Period::Ever), ["2020", "2026"]);
    }

    #[test]
    fn a_listing_goes_on_from_every_cookie_ties_included() {
        let moments =
            ["14:00:00Z", "14:00:00Z", "14:00:00Z", "14:00:00.000001Z", "14:59:59.999999Z", "14:59:59.999999Z"];
        let mut versions = Vec::new();
        for (index, moment) in moments.iter().enumerate() {
            versions.push(version(index as u64 + 1, &format!("2026-11-22T{moment}")));
        }
        let mut by_time = ByTime::default();
        catch_up(&mut by_time, &versions);
        let hour = hour_of(&versions[0]);
        let all: Vec<_> = by_time.links_after(hour, 0).collect();
        assert_eq!(all.len(), versions.len());
        for (index, (cookie, _)) in all.iter().enumerate() {
            assert!(i64::try_from(cookie.get()).is_ok());
            let rest: Vec<_> = by_time.links_after(hour, cookie.get()).collect();
            assert_eq!(rest, all[index + 1..]);
        }
    }
}
