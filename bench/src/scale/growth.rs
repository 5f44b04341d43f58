//! The rows that say what a longer history costs: figures of the large one beside the same of the small one.

use super::Measured;
use crate::goals::{Row, mb, ms};

/// Adds the rows.
pub fn rows(large: &Measured, small: &Measured, rows: &mut Vec<Row>) {
    let beside = |measured: &Measured| {
        format!("{} versions, {}", measured.made.versions(), mb(measured.made.database_bytes as f64))
    };
    rows.push(Row::new("the large history", "", beside(large)).beside(
        format!("the small one: {}", beside(small)),
        large.made.versions() as f64 / small.made.versions() as f64,
    ));
    let mut row = |figure: &str, goal: &str, text: fn(f64) -> String, value: fn(&Measured) -> f64| {
        let (now, then) = (value(large), value(small));
        rows.push(Row::new(&format!("growth: {figure}"), goal, text(now)).beside(text(then), now / then));
    };
    let count = |number: f64| format!("{number:.0}");
    row("mount command → first ls, p50", "≤ 200 ms", ms, |of| of.starts.mount.figure.p50_us);
    row("very first open, p50", "", ms, |of| of.starts.very_first_open.p50_us);
    row("first 4 KiB, p50", "ratio ≤ 1.3", ms, |of| of.first_reads.first.p50_us);
    row("first 4 KiB, p99", "", ms, |of| of.first_reads.first.p99_us);
    row("memory of a fresh mount", "≤ 128 MB", mb, |of| of.memory.fresh.anonymous as f64);
    row("memory of the mount after opening versions", "≤ 128 MB and the cache", mb, |of| {
        of.memory.after.anonymous as f64
    });
    row("start of a recorder → first answer, p50", "", ms, |of| of.starts.first_answer.p50_us);
    row("memory of a recorder, most until then", "≤ 64 MB", mb, |of| of.starts.recorder_rss as f64);
    let of_one = |micros: f64| format!("{micros:.1} µs");
    row("verify --quick, time per version", "", of_one, |of| {
        of.starts.checksums.seconds * 1e6 / of.made.versions() as f64
    });
    row("memory of verify --quick", "", mb, |of| of.starts.checksums.peak_rss as f64);
    row("verify --from, the newest 100,000", "", ms, |of| of.starts.verify.seconds * 1e6);
    row("memory of that", "", mb, |of| of.starts.verify.peak_rss as f64);
    row("files of the backup", "", count, |of| of.sizes.kinds.values().map(|kind| kind.files as f64).sum());
    row("bytes per version", "", count, |of| of.sizes.per_version);
}
