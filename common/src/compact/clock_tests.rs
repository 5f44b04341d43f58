//! Wrong clocks: what stays because of them, and how long they are doubted.

use std::ops::ControlFlow;

use proptest::prelude::*;

use super::clock::{ClockWatch, DAY, Leap, Moment};
use crate::config::keep_policy::{Keep, KeepPolicy, Times};
use format::pruned_directory::KeptVersion;
use format::units::{Seq, Timestamp};

const HOUR: i64 = DAY / 24;

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).unwrap()
}

fn leap_of(times: &[Timestamp], newest: Timestamp) -> Option<Leap> {
    let seqs = (1..).map(|seq| Seq::new(seq).unwrap());
    let all: Vec<_> = times.iter().copied().zip(seqs).collect();
    let visit_backwards = |visit: &mut dyn FnMut(Timestamp, Seq) -> ControlFlow<()>| {
        let _ = all.iter().rev().try_for_each(|&(at, seq)| visit(at, seq));
        Ok(())
    };
    Leap::find_in(newest, visit_backwards, |_, _| false).unwrap()
}

/// A process that runs from hour to hour, and the newest time at each; whether the clock is doubted.
fn doubted(before: &[i64], hours: impl IntoIterator<Item = (i64, i64)>) -> Vec<bool> {
    let (mut watch, mut times) = (ClockWatch::default(), before.iter().map(|hour| at(hour * HOUR)).collect::<Vec<_>>());
    let looks = hours.into_iter().map(|(ran, shows)| {
        let now = Moment { ran: ran * HOUR, time: at(shows * HOUR) };
        times.push(now.time);
        watch.look(now, || Ok(leap_of(&times, now.time))).unwrap().is_err()
    });
    looks.collect()
}

#[test]
fn a_clock_that_has_leapt_is_doubted_until_it_has_gone_on_for_a_day() {
    const NOW: i64 = 500_000;
    const AHEAD: i64 = NOW + 91 * 24;
    let before = [NOW - 2, NOW - 1];
    // As it should be, also when nothing was recorded for days by a process that runs.
    assert_eq!(doubted(&before, [(0, NOW), (1, NOW + 1), (90, NOW + 90), (91, NOW + 91)]), [false; 4]);
    // It leaps between two runs, or within one.
    let run: Vec<(i64, i64)> = (0..30).map(|hour| (hour, AHEAD + hour)).collect();
    let expected: Vec<bool> = (0..30).map(|hour| hour < 24).collect();
    assert_eq!(doubted(&before, run.clone()), expected);
    let within = [(0, NOW)].into_iter().chain(run.iter().map(|&(ran, shows)| (ran + 1, shows)));
    assert_eq!(doubted(&before, within), [&[false], &expected[..]].concat());
    // Another run goes on with the day.
    let later: Vec<i64> = before.into_iter().chain((0..10).map(|hour| AHEAD + hour)).collect();
    let again = (0..30).map(|hour| (hour, AHEAD + 10 + hour));
    assert_eq!(doubted(&later, again), (0..30).map(|hour| hour < 14).collect::<Vec<_>>());
    // It leaps once more before the day is over: the day begins anew.
    let twice = (0..60).map(|hour| (hour, AHEAD + hour + if hour < 20 { 0 } else { 1000 }));
    assert_eq!(doubted(&before, twice), (0..60).map(|hour| hour < 44).collect::<Vec<_>>());
    // It leaps twice and was right in between, which only the versions tell: the day begins anew.
    let leaps: Vec<i64> = [AHEAD, NOW + 1, NOW + 2, AHEAD + 20].to_vec();
    let again = (0..30).map(|hour| (hour, AHEAD + 20 + hour));
    assert_eq!(doubted(&leaps, again), (0..30).map(|hour| hour < 24).collect::<Vec<_>>());
    // It creeps ahead, half a day each hour.
    let creeps = (0..60).map(|hour| (hour, NOW + hour * 12));
    assert!(doubted(&before, creeps).into_iter().skip(3).all(|is_doubted| is_doubted));
    // It is set right: at once it is believed again, by this run and by the next.
    assert_eq!(doubted(&before, [(0, NOW), (1, AHEAD), (2, NOW + 2), (3, NOW + 3)]), [false, true, false, false]);
    assert_eq!(doubted(&[NOW - 2, AHEAD, AHEAD + 1, NOW - 1], [(0, NOW)]), [false]);
}

/// A version as it was and as the clock had it.
#[derive(Debug, Clone, Copy)]
struct Recorded {
    truly: i64,
    shown: i64,
    kept: bool,
}

/// What happens for some hours.
#[derive(Debug, Clone)]
struct Spell {
    hours: i64,
    /// How far the clock is off meanwhile, in hours.
    off: i64,
    restarts: bool,
}

fn spells() -> impl Strategy<Value = Vec<Spell>> {
    // What a clock is behind in a spell and what it may be ahead without being doubted are less than a day together.
    let off = prop_oneof![Just(0), -50_000_i64..0, -30_i64..0, 1_i64..4, 28_i64..50, 28_i64..50_000];
    let wrong = (1_i64..20, off, any::<bool>()).prop_map(|(hours, off, restarts)| Spell { hours, off, restarts });
    let right = (6_i64..80, any::<bool>()).prop_map(|(hours, restarts)| Spell { hours, off: 0, restarts });
    let all = prop::collection::vec((right, wrong).prop_map(|(right, wrong)| [right, wrong]), 1..10);
    // Versions recorded first by a slow clock count as old, after a day: they cannot be distinguished.
    all.prop_map(|all| all.concat())
}

/// Versions of a segment of the model.
const OF_SEGMENT: usize = 4;

fn times_of(segment: &[Recorded]) -> Times {
    let times = || segment.iter().map(|version| at(version.shown));
    Times { earliest: times().min().unwrap(), latest: times().max().unwrap() }
}

/// A recorder's periodic check whether history is to be dropped.
fn drop_by(policy: &KeepPolicy, all: &mut [Recorded], now: Timestamp, newest: Timestamp) {
    let sealed = all.len() / OF_SEGMENT;
    let left: Vec<usize> =
        (0..sealed).filter(|of| all[of * OF_SEGMENT..][..OF_SEGMENT].iter().any(|version| version.kept)).collect();
    let positions = |of: usize, all: &[Recorded]| {
        (of * OF_SEGMENT..(of + 1) * OF_SEGMENT).filter(|&it| all[it].kept).collect::<Vec<_>>()
    };
    let kept = |of: usize, all: &[Recorded]| positions(of, all).into_iter().map(|it| all[it]).collect::<Vec<_>>();
    let times: Vec<Times> = left.iter().map(|&of| times_of(&kept(of, all))).collect();
    let before = all.to_vec();
    let mut versions_of = |position: usize| {
        let version = |it: usize| KeptVersion {
            seq: Seq::new(it as u64 + 1).unwrap(),
            ordinal: it as u64,
            recorded_at: at(before[it].shown),
        };
        Ok(positions(left[position], &before).into_iter().map(version).collect())
    };
    let keeps = policy.keeps(now, newest, &times, &mut versions_of).unwrap();
    for (&of, keep) in left.iter().zip(keeps) {
        for it in positions(of, all) {
            all[it].kept = match &keep {
                Keep::Whole => true,
                Keep::Versions(versions) => versions.iter().any(|version| version.ordinal == it as u64),
                Keep::Nothing => false,
            };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// A day of grace is what a clock may be ahead without being doubted.
    #[test]
    fn a_wrong_clock_makes_more_stay_never_less(spells in spells(), within_days in 2_i64..20, hourly_days in 2_i64..40) {
        let span = |days: i64| Some(format!("{days}d").parse().unwrap());
        let policy = KeepPolicy { within: span(within_days), hourly: span(hourly_days), ..KeepPolicy::default() };
        let mut all: Vec<Recorded> = Vec::new();
        let (mut truly, mut watch, mut began) = (100_000 * HOUR, ClockWatch::default(), 0);
        for Spell { hours, off, restarts } in spells {
            if restarts {
                (watch, began) = (ClockWatch::default(), truly);
            }
            for half_hour in 1..=hours * 2 {
                truly += HOUR / 2;
                let now = at((truly + off * HOUR).max(0));
                all.push(Recorded { truly, shown: now.as_micros(), kept: true });
                let look = Moment { ran: truly - began, time: now };
                let kept_times = || all.iter().filter(|it| it.kept).map(|it| at(it.shown)).collect::<Vec<_>>();
                if half_hour % 7 == 0 && watch.look(look, || Ok(leap_of(&kept_times(), now))).unwrap().is_ok() {
                    drop_by(&policy, &mut all, now, now);
                }
            }
            let sealed = &all[..all.len() / OF_SEGMENT * OF_SEGMENT];
            let is_younger = |version: &&Recorded, days: i64| version.truly >= truly - (days - 1) * DAY;
            for version in sealed.iter().filter(|version| is_younger(version, within_days)) {
                prop_assert!(version.kept, "{} hours old: {version:?}", (truly - version.truly) / HOUR);
            }
            let hour = |version: &Recorded| version.shown / HOUR;
            for version in sealed.iter().filter(|version| is_younger(version, hourly_days)) {
                let has_one = all.iter().any(|other| other.kept && hour(other) == hour(version));
                prop_assert!(has_one, "no version of its hour: {version:?}");
            }
        }
    }
}
