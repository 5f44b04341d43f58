//! The rows of the table of goals.

use super::Report;
use super::growth;
use super::measured::Compared;
use crate::goals::{Row, mb, ms};
use crate::stats::Summary;

/// Memory that a mount may have beside the budget of its cache, and a recorder in all.
const MEMORY_GOAL: f64 = 64.0 * 1e6;

/// The default budget of a mount's cache.
const CACHE_BUDGET: f64 = 256.0 * (1 << 20) as f64;

/// All rows for which something was measured.
pub fn rows(report: &Report) -> Vec<Row> {
    let mut rows = Vec::new();
    tree(report, &mut rows);
    opening(report, &mut rows);
    whole(report, &mut rows);
    sizes(report, &mut rows);
    memory(report, &mut rows);
    if let Some(small) = &report.small {
        growth::rows(&report.large, small, &mut rows);
    }
    rows
}

fn tree(report: &Report, rows: &mut Vec<Row>) {
    let tree = &report.tree;
    let Compared { figure, yardstick } = report.large.starts.mount;
    rows.push(
        Row::new("mount command → first ls, p50", "≤ 100 ms", ms(figure.p50_us))
            .beside(format!("backupfs --version {}", ms(yardstick.p50_us)), figure.p50_us / yardstick.p50_us)
            .met(figure.p50_us <= 100e3),
    );
    let plain = tree.plain_listing_ms * tree.names as f64 / tree.plain_names as f64;
    for (which, took) in [("first", tree.listing_first_ms), ("again", tree.listing_again_ms)] {
        rows.push(
            Row::new(&format!("ls -U versions/, {} names, {which}", tree.names), "≤ 1 s", ms(took * 1e3))
                .beside(
                    format!("plain directory, scaled from {} names {}", tree.plain_names, ms(plain * 1e3)),
                    took / plain,
                )
                .met(took <= 1000.0),
        );
    }
    let plain = tree.plain_long_listing_ms * tree.names as f64 / tree.plain_names as f64;
    let full = tree.plain_disk_usage_ms * tree.names as f64 / tree.plain_full_names as f64;
    for (what, which, plain_what, plain) in [
        ("ls -l versions/", 0, "ls -l of the plain directory", plain),
        ("du -s versions/, first", 1, "du -s of plain directories with three files", full),
        ("du -s versions/, again", 2, "du -s of plain directories with three files", full),
    ] {
        let Some(took) = tree.entered_ms.map(|entered| entered[which]) else { continue };
        rows.push(
            Row::new(&format!("{what}, {} names", tree.names), "≤ 15 µs a name", ms(took * 1e3))
                .beside(format!("{plain_what}, scaled {}", ms(plain * 1e3)), took / plain)
                .met(took * 1e3 <= 15.0 * tree.names as f64),
        );
    }
    let Compared { figure, yardstick } = tree.readlink;
    rows.push(
        Row::new("readlink latest, p50", "≤ 1 ms", ms(figure.p50_us))
            .beside(format!("plain link {}", ms(yardstick.p50_us)), figure.p50_us / yardstick.p50_us)
            .met(figure.p50_us <= 1e3),
    );
}

fn opening(report: &Report, rows: &mut Vec<Row>) {
    let reads = &report.large.first_reads;
    for (which, goal_ms, value) in
        [("p50", 1.5, reads.first.p50_us), ("p99", 4.0, reads.first.p99_us), ("worst", 60.0, reads.first.max_us)]
    {
        let figure = format!("first 4 KiB, {} random versions, {which}", reads.first.samples);
        rows.push(
            Row::new(&figure, &format!("≤ {goal_ms} ms"), ms(value))
                .beside(format!("plain file {}", ms(reads.plain.p50_us)), value / reads.plain.p50_us)
                .met(value <= goal_ms * 1e3),
        );
    }
    let first = report.large.starts.very_first_open;
    rows.push(
        Row::new(
            &format!("very first open after the mount command, worst of {}", first.samples),
            "≤ 5 ms",
            ms(first.max_us),
        )
        .beside(
            format!("p50 {}; random version p50 {}", ms(first.p50_us), ms(reads.first.p50_us)),
            first.max_us / reads.first.p50_us,
        )
        .met(first.max_us <= 5e3),
    );
    rows.push(
        Row::new("the same version again, p50", "≤ 0.2 ms", ms(reads.again.p50_us))
            .beside(format!("plain file {}", ms(reads.plain.p50_us)), reads.again.p50_us / reads.plain.p50_us)
            .met(reads.again.p50_us <= 200.0),
    );
    if let Some(live) = &report.live {
        for (which, goal_ms, value) in [("p50", 5.0, live.shown.p50_us), ("p99", 20.0, live.shown.p99_us)] {
            rows.push(
                Row::new(
                    &format!("answer → latest leads to the version, {which}"),
                    &format!("≤ {goal_ms} ms"),
                    ms(value),
                )
                .met(value <= goal_ms * 1e3),
            );
        }
        let ratio = live.newest.p50_us / live.others.p50_us;
        rows.push(
            Row::new("newest version, first open while recording, p50", "as the others", ms(live.newest.p50_us))
                .beside(format!("random versions meanwhile {}", ms(live.others.p50_us)), ratio),
        );
        rows.push(
            Row::new("newest version, first open while recording, worst", "as the others", ms(live.newest.max_us))
                .beside(
                    format!("random versions meanwhile {}", ms(live.others.max_us)),
                    live.newest.max_us / live.others.max_us,
                ),
        );
    }
}

fn whole(report: &Report, rows: &mut Vec<Row>) {
    let Some(whole) = &report.whole else { return };
    let mut compare = |figure: &str, goal: f64, value: Summary, plain: Summary, what: &str| {
        let ratio = value.p50_us / plain.p50_us;
        rows.push(
            Row::new(&format!("{figure}, p50"), &format!("≤ {goal}×"), ms(value.p50_us))
                .beside(format!("{what} {}", ms(plain.p50_us)), ratio)
                .met(ratio <= goal),
        );
    };
    compare("cp of a whole version, first", 2.0, whole.copy.first, whole.copy.plain, "cp of a plain file");
    compare("cp of a whole version, again", 1.2, whole.copy.again, whole.copy.plain, "cp of a plain file");
    if let Some(check) = whole.quick_check {
        compare("sqlite3 quick_check, first", 4.0, check.first, check.plain, "plain file");
        compare("sqlite3 quick_check, again", 1.5, check.again, check.plain, "plain file");
    }
    compare("restore of the newest version", 2.0, whole.restore, whole.copy_and_fsync, "cp + fsync");
}

fn sizes(report: &Report, rows: &mut Vec<Row>) {
    let (sizes, made) = (&report.large.sizes, &report.large.made);
    rows.push(
        Row::new(
            "bytes per version, without the first snapshot",
            "≤ 1200 (trace channels alone)",
            format!("{:.0}", sizes.per_version),
        )
        .beside(format!("SQL {:.0}", sizes.sql_per_version), sizes.per_version / sizes.sql_per_version)
        .met(sizes.per_version <= 1200.0),
    );
    rows.push(Row::new("the first snapshot", "", mb(sizes.snapshot as f64)).beside(
        format!("the database then {}", mb(made.database_bytes_before as f64)),
        sizes.snapshot as f64 / made.database_bytes_before as f64,
    ));
    let cpu = |seconds: f64| seconds * 1e6 / made.cost.changes.max(1) as f64;
    let (sealing, recording) = (cpu(made.cost.other_threads_cpu_s), cpu(made.cost.recording_cpu_s));
    if sizes.kinds.contains_key("segment") {
        rows.push(
            Row::new("CPU of sealing per change", "≤ 90 µs", format!("{sealing:.0} µs"))
                .beside(format!("node and recorder {recording:.0} µs"), sealing / recording)
                .met(sealing <= 90.0),
        );
    } else {
        rows.push(Row::new("CPU of sealing per change", "≤ 90 µs", "nothing is sealed".to_owned()));
    }
}

fn memory(report: &Report, rows: &mut Vec<Row>) {
    let memory = report.large.memory;
    let anonymous = memory.after.anonymous as f64;
    let goal = MEMORY_GOAL + CACHE_BUDGET;
    rows.push(
        Row::new(
            &format!("memory of the mount after opening {} versions", memory.opened),
            &format!("≤ {}", mb(goal)),
            mb(anonymous),
        )
        .beside(
            format!("just mounted {}", mb(memory.fresh.anonymous as f64)),
            anonymous / memory.fresh.anonymous as f64,
        )
        .met(anonymous <= goal),
    );
    if let Some(live) = report.live {
        let peak = live.recorder.peak_rss as f64;
        rows.push(
            Row::new("memory of the recorder, most at any time", "≤ 64.0 MB", mb(peak))
                .beside(format!("at the end {}", mb(live.recorder.rss as f64)), peak / live.recorder.rss as f64)
                .met(peak <= MEMORY_GOAL),
        );
    }
}
