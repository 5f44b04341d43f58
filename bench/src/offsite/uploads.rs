//! Uploads of a month, from those of some minutes at the rate of a busy node.

use std::time::{Duration, Instant};

use ::offsite::objects::{File, Object};
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
    /// Uploads but those of segments.
    pub puts: u64,
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
    let of_segments = stored.iter().filter(|stored| stored.at >= began && is_of_segment(&stored.name)).count();
    running.end()?;
    let puts = all.saturating_sub(of_segments as u64);
    let segments = covered::segments(stored.iter().map(|stored| stored.name.as_str()));
    let a_month = a_month(puts, seconds, segments);
    Ok(UploadsReport { seconds, changes: answers.len(), puts, segments, a_month })
}

fn is_of_segment(name: &str) -> bool {
    let object = name.strip_prefix(PREFIX).and_then(Object::parse);
    matches!(object, Some(Object::Part(File::Segment { .. }, _)))
}

/// Uploads of a month, from those of some seconds, and from how many changes and uploads a segment has.
fn a_month(puts: u64, seconds: f64, segments: Option<(usize, f64, f64)>) -> f64 {
    let changes = f64::from(AN_HOUR) * MONTH_S / 3600.0;
    let of_segments = segments.map_or(0.0, |(_, changes_each, puts_each)| changes / changes_each * puts_each);
    puts as f64 / seconds * MONTH_S + of_segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_has_its_uploads_and_its_segments() {
        assert!((a_month(12, 120.0, None) - 259_200.0).abs() < 1e-6);
        assert!((a_month(12, 120.0, Some((3, 1000.0, 2.0))) - 262_080.0).abs() < 1e-6);
    }

    #[test]
    fn segments_are_told_from_logs() {
        let part = ::offsite::objects::Part { number: 1, of: 1 };
        assert!(is_of_segment(&format!("{PREFIX}{}", Object::Part(File::Segment { first: 1, last: 2 }, part))));
        assert!(!is_of_segment(&format!("{PREFIX}{}", Object::Part(File::Snapshot { seq: 1 }, part))));
        assert!(!is_of_segment("other"));
    }
}
