//! [`Latency`]: the time from reading a `db_write` to having written its answer.
//!
//! The answering thread stores two numbers; the figures are computed when `backup-status` is called.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// The number of answers that are kept: the last ones.
const ANSWERS: usize = 1000;

/// The latencies of the last answers.
#[derive(Debug)]
pub struct Latency {
    /// The latencies in microseconds, as a ring buffer.
    micros: [AtomicU32; ANSWERS],
    /// The number of all answers so far; only the answering thread increments it.
    answers: AtomicU64,
}

/// The figures of the last answers, in microseconds; null before the first answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LatencyFigures {
    /// The median.
    pub p50: Option<u32>,
    /// The 99th percentile.
    pub p99: Option<u32>,
    /// The maximum.
    pub worst: Option<u32>,
    /// The number of answers that these figures are of: at most 1,000.
    pub answers: usize,
}

impl Default for Latency {
    fn default() -> Self {
        Self { micros: std::array::from_fn(|_| AtomicU32::new(0)), answers: AtomicU64::new(0) }
    }
}

impl Latency {
    /// Adds the latency of an answer. Only one thread may call this.
    pub fn add(&self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let answers = self.answers.load(Ordering::Relaxed);
        self.micros[slot(answers)].store(micros, Ordering::Relaxed);
        // `Release`: a reader that sees the count sees the latency, too. An older latency may be overwritten while it is read:
        // then the newer one counts, which is as good.
        self.answers.store(answers + 1, Ordering::Release);
    }

    /// The figures of the last answers.
    pub fn figures(&self) -> LatencyFigures {
        let answers = usize::try_from(self.answers.load(Ordering::Acquire)).unwrap_or(ANSWERS).min(ANSWERS);
        let mut sorted: Vec<u32> = self.micros[..answers].iter().map(|micros| micros.load(Ordering::Relaxed)).collect();
        sorted.sort_unstable();
        let percentile = |of_100: usize| (answers * of_100).div_ceil(100).checked_sub(1).map(|at| sorted[at]);
        LatencyFigures { p50: percentile(50), p99: percentile(99), worst: sorted.last().copied(), answers }
    }
}

/// The index in the ring buffer for an answer.
#[expect(clippy::cast_possible_truncation, reason = "less than the length of the ring")]
const fn slot(answer: u64) -> usize {
    (answer % ANSWERS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(p50: u32, p99: u32, worst: u32, answers: usize) -> LatencyFigures {
        LatencyFigures { p50: Some(p50), p99: Some(p99), worst: Some(worst), answers }
    }

    #[test]
    fn only_the_last_thousand_count() {
        let latency = Latency::default();
        assert_eq!(latency.figures(), LatencyFigures { p50: None, p99: None, worst: None, answers: 0 });
        latency.add(Duration::from_micros(7));
        assert_eq!(latency.figures(), figures(7, 7, 7, 1));
        latency.add(Duration::from_secs(1_000_000));
        assert_eq!(latency.figures(), figures(7, u32::MAX, u32::MAX, 2));
        (1..=1000).rev().for_each(|micros| latency.add(Duration::from_micros(micros)));
        assert_eq!(latency.figures(), figures(500, 990, 1000, 1000));
        (0..10).for_each(|_| latency.add(Duration::from_micros(5000)));
        assert_eq!(latency.figures(), figures(500, 990, 5000, 1000), "in place of the ten longest");
        latency.add(Duration::from_micros(5000));
        assert_eq!(latency.figures().p99, Some(5000));
    }

    #[test]
    fn figures_read_meanwhile_are_of_real_latencies() {
        let latency = Latency::default();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..200_000).for_each(|at| latency.add(Duration::from_micros(3 + at % 2))));
            loop {
                let figures = latency.figures();
                assert!([None, Some(3), Some(4)].contains(&figures.worst), "{figures:?}");
                assert!(figures.p50 <= figures.p99 && figures.p99 <= figures.worst, "{figures:?}");
                if latency.answers.load(Ordering::Relaxed) == 200_000 {
                    break;
                }
            }
        });
        assert_eq!(latency.figures(), figures(3, 4, 4, 1000));
    }
}
