//! What `lightningd` waits for at each `db_write` while shipping is on, hangs or is refused, beside shipping that is off.
//!
//! Each kind of shipping has its turn in each round, next to a turn without any: before it in one round, after it in the
//! next. A turn is a recorder of its own, with changes at a rate and as many as it takes.

use std::time::Duration;

use ::offsite::testing::Trouble;
use anyhow::Context as _;
use serde::Serialize;

use super::copied_node::CopiedNode;
use super::running::{Load, Running};
use crate::stats::{Samples, Summary};

/// How long a store that hangs gives no answer.
const HANG: Duration = Duration::from_secs(120);

/// A kind of shipping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shipping {
    /// None: beside itself, it shows what differs by chance.
    Off,
    /// Every second.
    EverySecond,
    /// Every ten seconds.
    EveryTenSeconds,
    /// Every second, to a store that takes everything and answers nothing.
    StoreHangs,
    /// Every second, to a store that refuses everything.
    StoreRefuses,
}

impl Shipping {
    const ALL: [Self; 5] = [Self::Off, Self::EverySecond, Self::EveryTenSeconds, Self::StoreHangs, Self::StoreRefuses];

    /// For a table.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Off => "off, once more",
            Self::EverySecond => "every 1 s",
            Self::EveryTenSeconds => "every 10 s",
            Self::StoreHangs => "the store hangs",
            Self::StoreRefuses => "the store refuses",
        }
    }

    fn every(self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::EveryTenSeconds => Some(Duration::from_secs(10)),
            Self::EverySecond | Self::StoreHangs | Self::StoreRefuses => Some(Duration::from_secs(1)),
        }
    }

    fn trouble(self) -> Option<Trouble> {
        match self {
            Self::StoreHangs => Some(Trouble::Hang(HANG)),
            Self::StoreRefuses => Some(Trouble::Answer(503, "SlowDown")),
            Self::Off | Self::EverySecond | Self::EveryTenSeconds => None,
        }
    }
}

/// The measurements.
#[derive(Debug, Clone, Serialize)]
pub struct AnswersReport {
    pub rounds: u8,
    pub kinds: Vec<KindReport>,
}

/// A kind of shipping beside none.
#[derive(Debug, Clone, Serialize)]
pub struct KindReport {
    pub shipping: Shipping,
    /// At a rate.
    pub rated: Beside,
    /// As many changes as the recorder takes.
    pub full: Beside,
}

/// Answers beside those without shipping.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Beside {
    /// All answers while shipping was on.
    pub on: Summary,
    /// All answers of the turns next to them.
    pub off: Summary,
    /// The median over the rounds.
    pub ratio_p50: f64,
    pub ratio_p99: f64,
}

/// The answers of one turn.
struct Turn {
    rated: Vec<Duration>,
    full: Vec<Duration>,
}

/// Measures all kinds.
pub fn measure(node: &mut CopiedNode<'_>, rate: u32, span: Duration, rounds: u8) -> anyhow::Result<AnswersReport> {
    let mut turns: Vec<Vec<(Turn, Turn)>> = Shipping::ALL.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for (shipping, of_kind) in Shipping::ALL.into_iter().zip(&mut turns) {
            eprintln!("measuring answers, round {} of {rounds}: {}", round + 1, shipping.in_words());
            let mut turn = |shipping| turn(node, shipping, rate, span);
            of_kind.push(if round % 2 == 0 {
                let off = turn(Shipping::Off)?;
                (off, turn(shipping)?)
            } else {
                let on = turn(shipping)?;
                (turn(Shipping::Off)?, on)
            });
        }
    }
    let kinds = Shipping::ALL.into_iter().zip(&turns).map(|(shipping, turns)| {
        let beside = |of: fn(&Turn) -> &Vec<Duration>| {
            let pairs: Vec<_> = turns.iter().map(|(off, on)| (of(off).as_slice(), of(on).as_slice())).collect();
            beside(&pairs).context("a turn has no answers")
        };
        Ok(KindReport { shipping, rated: beside(|turn| &turn.rated)?, full: beside(|turn| &turn.full)? })
    });
    Ok(AnswersReport { rounds, kinds: kinds.collect::<anyhow::Result<_>>()? })
}

fn turn(node: &mut CopiedNode<'_>, shipping: Shipping, rate: u32, span: Duration) -> anyhow::Result<Turn> {
    let mut running = Running::start(node, shipping.every())?;
    let trouble = shipping.trouble();
    if let Some(trouble) = &trouble {
        node.server.always(None, trouble.clone());
    }
    let mut load = |load| anyhow::Ok(running.load(node, load, span)?.iter().map(|answer| answer.took).collect());
    let turn = Turn { rated: load(Load::of_rate(rate))?, full: load(Load::Full)? };
    node.server.no_trouble();
    match trouble {
        Some(_) => running.end_without_goodbye()?,
        None => running.end()?,
    }
    Ok(turn)
}

/// Pairs of answers, off and on; `None` when some are missing.
fn beside(pairs: &[(&[Duration], &[Duration])]) -> Option<Beside> {
    let samples = |durations: &[Duration]| Samples::new(durations.to_vec());
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for (off, on) in pairs {
        let (off, on) = (samples(off)?.summary(), samples(on)?.summary());
        p50.push(on.p50_us / off.p50_us);
        p99.push(on.p99_us / off.p99_us);
    }
    let (off, on): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
    Some(Beside {
        on: samples(&on.concat())?.summary(),
        off: samples(&off.concat())?.summary(),
        ratio_p50: median(p50)?,
        ratio_p99: median(p99)?,
    })
}

/// The middle one; of an even number, the average of the two in the middle.
fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    let upper = *numbers.get(middle)?;
    Some(if numbers.len() % 2 == 1 { upper } else { f64::midpoint(numbers[middle - 1], upper) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn each_turn_is_compared_with_the_one_next_to_it() {
        let millis = |millis: u64| vec![Duration::from_millis(millis); 3];
        let (slow, slower, fast) = (millis(10), millis(11), millis(1));
        let report = beside(&[(&slow, &slower), (&fast, &fast), (&fast, &fast)]).unwrap();
        assert!((report.ratio_p50 - 1.0).abs() < 1e-9 && (report.ratio_p99 - 1.0).abs() < 1e-9, "{report:?}");
        assert_eq!((report.on.samples, report.on.max_us, report.off.max_us), (9, 11e3, 10e3));
        assert!(beside(&[(&slow, &[])]).is_none());
    }
}
