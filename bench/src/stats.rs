//! Percentiles of raw samples.

use std::time::Duration;

use serde::Serialize;

/// Durations, in ascending order; never empty.
#[derive(Debug, Clone)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// `None` when there are none.
    pub fn new(mut samples: Vec<Duration>) -> Option<Self> {
        samples.sort_unstable();
        (!samples.is_empty()).then_some(Self(samples))
    }

    /// The smallest sample that at least `percent` of all samples do not exceed (nearest rank).
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0[rank.saturating_sub(1)]
    }

    /// Sum of all samples.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    /// The statistics of the samples.
    pub fn summary(&self) -> Summary {
        Summary {
            samples: self.0.len(),
            p50_us: micros(self.percentile(50)),
            p99_us: micros(self.percentile(99)),
            max_us: micros(self.percentile(100)),
            mean_us: micros(self.total()) / self.0.len() as f64,
        }
    }
}

/// Samples in numbers, all of them microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Summary {
    /// Number of samples.
    pub samples: usize,
    /// Half of them are not above this.
    pub p50_us: f64,
    /// 99 of 100 of them are not above this.
    pub p99_us: f64,
    /// The greatest.
    pub max_us: f64,
    /// Their average.
    pub mean_us: f64,
}

/// A duration as it appears in reports.
pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(numbers: impl IntoIterator<Item = u64>) -> Samples {
        Samples::new(numbers.into_iter().map(Duration::from_micros).collect()).unwrap()
    }

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let hundred = samples((1..=100).rev());
        let of = |percent| hundred.percentile(percent).as_micros();
        assert_eq!([of(1), of(50), of(99), of(100)], [1, 50, 99, 100]);
        let three = samples([30, 10, 20]);
        let of = |percent| three.percentile(percent).as_micros();
        assert_eq!([of(0), of(33), of(34), of(50), of(99), of(100)], [10, 10, 20, 20, 30, 30]);
    }

    #[test]
    fn a_summary_counts_and_averages() {
        let summary = samples([1, 2, 6]).summary();
        assert_eq!((summary.samples, summary.p50_us, summary.max_us), (3, 2.0, 6.0));
        assert!((summary.mean_us - 3.0).abs() < 1e-9);
        assert!(Samples::new(Vec::new()).is_none());
    }
}
