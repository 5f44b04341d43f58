//! Uploads of a month, from those of some minutes at the rate of a busy node.

use std::time::{Duration, Instant};

use ::offsite::objects::{File, Object};
use anyhow::Context as _;
use serde::Serialize;

use super::copied_node::{CopiedNode, PREFIX};
use super::covered;
use super::running::{Load, Running};

/// The default of `--every`.
const EVERY: Duration = Duration::from_secs(10);

/// Changes in an hour.
const AN_HOUR: u32 = 2_000;

/// Seconds of a month.
const MONTH_S: f64 = 30.0 * 24.0 * 3600.0;

/// The measurements.
#[derive(Debug, Clone, Serialize)]
pub struct UploadsReport {
    /// How long uploads were counted.
    pub seconds: f64,
    pub changes: usize,
    /// Uploads of bytes of logs.
    pub of_logs: usize,
    /// Average time between two of them.
    pub seconds_apart: f64,
    /// Uploads of anything else, segments excepted.
    pub others: u64,
    /// Segments in the copy, and the average of their changes and uploads.
    pub segments: Option<(usize, f64, f64)>,
    /// Uploads of a month.
    pub a_month: f64,
}

/// Records as many changes as in that time of an hour.
pub fn measure(node: &mut CopiedNode<'_>, span: Duration) -> anyhow::Result<UploadsReport> {
    eprintln!("counting uploads for {} s", span.as_secs());
    let mut running = Running::start(node, Some(EVERY))?;
    let (before, began) = (node.server.counts().put, Instant::now());
    let answers = running.load(node, Load::Each(Duration::from_secs(3600) / AN_HOUR), span)?;
    let seconds = began.elapsed().as_secs_f64();
    let all = node.server.counts().put - before;
    let stored = node.server.stored();
    running.end()?;
    let (mut of_logs, mut of_segments) = (Vec::new(), 0);
    for stored in stored.iter().filter(|stored| stored.at >= began) {
        match stored.name.strip_prefix(PREFIX).and_then(Object::parse) {
            Some(Object::Tail(_)) => of_logs.push(stored.at),
            Some(Object::Part(File::Segment { .. }, _)) => of_segments += 1,
            _ => {}
        }
    }
    let seconds_apart = apart(&of_logs).context("too few uploads: count them for longer")?;
    let others = all.saturating_sub(of_logs.len() as u64 + of_segments);
    let segments = covered::segments(stored.iter().map(|stored| stored.name.as_str()));
    let a_month = a_month(seconds_apart, others as f64 / seconds, segments);
    Ok(UploadsReport {
        seconds,
        changes: answers.len(),
        of_logs: of_logs.len(),
        seconds_apart,
        others,
        segments,
        a_month,
    })
}

/// Average seconds between two of these times; `None` when there are fewer than two. What is counted in a span that begins and
/// ends anywhere is one more or less.
fn apart(times: &[Instant]) -> Option<f64> {
    let (first, last) = (times.iter().min()?, times.iter().max()?);
    let intervals = times.len().checked_sub(1).filter(|&intervals| intervals > 0)?;
    Some(last.duration_since(*first).as_secs_f64() / intervals as f64)
}

/// Uploads of a month: of logs so many seconds apart, others in each second, and those of segments, by how many changes and uploads
/// a segment has.
fn a_month(seconds_apart: f64, others_per_s: f64, segments: Option<(usize, f64, f64)>) -> f64 {
    let changes = f64::from(AN_HOUR) * MONTH_S / 3600.0;
    let of_segments = segments.map_or(0.0, |(_, changes_each, puts_each)| changes / changes_each * puts_each);
    MONTH_S / seconds_apart + others_per_s * MONTH_S + of_segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_has_its_logs_its_segments_and_all_else() {
        assert!((a_month(10.0, 0.0, None) - 259_200.0).abs() < 1e-6);
        assert!((a_month(10.0, 0.0, Some((3, 1000.0, 2.0))) - 262_080.0).abs() < 1e-6);
        assert!((a_month(10.0, 0.001, None) - 261_792.0).abs() < 1e-6);
    }

    #[test]
    fn uploads_are_apart_by_their_intervals() {
        let began = Instant::now();
        let times = [40, 10, 20].map(|seconds| began + Duration::from_secs(seconds));
        assert_eq!(apart(&times), Some(15.0));
        assert_eq!(apart(&times[..1]), None);
        assert_eq!(apart(&[]), None);
    }
}
