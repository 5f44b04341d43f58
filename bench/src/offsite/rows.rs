//! The rows of the table of goals.

use super::Report;
use super::answers::{KindReport, Shipping};
use super::lag::LagReport;
use super::reading::{Asked, ReadingReport};
use super::waiting::WaitingReport;
use crate::goals::{Row, mb, ms};

/// How much slower an answer may be while shipping is on.
const SLOWER_MAX: f64 = 1.05;

/// The longest that 99 of 100 changes may be in one place only, in microseconds.
const LAG_MAX_US: f64 = 11e6;

/// The most uploads in a month.
const UPLOADS_MAX: f64 = 265_000.0;

/// The most memory of the process that ships, in bytes.
const MEMORY_MAX: u64 = 64_000_000;

/// The largest share of a core that it takes.
const CORE_MAX: f64 = 0.1;

/// How much longer a restore may take than the link.
const RESTORE_MAX: f64 = 1.2;

/// All rows for which something was measured.
pub fn rows(report: &Report) -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in report.answers.iter().flat_map(|answers| &answers.kinds) {
        of_answers(kind, &mut rows);
    }
    for waiting in report.waiting.iter().flatten() {
        of_waiting(waiting, &mut rows);
    }
    if let Some(lag) = &report.lag {
        of_lag(lag, "", &mut rows);
        // With those of segments there are a few more.
        let spans = lag.seconds / lag.every_s;
        rows.push(
            Row::new("uploads at this rate", "", lag.puts.to_string())
                .beside(format!("{spans:.1} spans of {:.0} s", lag.every_s), lag.puts as f64 / spans),
        );
    }
    let peak = report.first_shipping.peak_rss;
    rows.push(Row::new("shipping the whole history, memory", "≤ 64 MB", mb(peak as f64)).met(peak <= MEMORY_MAX));
    if let Some(uploads) = &report.uploads {
        let segments = uploads.segments.map_or_else(
            || "no segment was seen".to_owned(),
            |(_, changes, _)| format!("{changes:.0} changes in a segment"),
        );
        rows.push(
            Row::new(
                "uploads a month, 2,000 changes an hour, every 10 s",
                "≤ 265000",
                format!("{:.0}", uploads.a_month),
            )
            .beside(
                format!("{} of logs, {:.2} s apart; {segments}", uploads.of_logs, uploads.seconds_apart),
                uploads.a_month / UPLOADS_MAX,
            )
            .met(uploads.a_month <= UPLOADS_MAX),
        );
    }
    if let Some(reading) = &report.reading {
        of_reading(reading, &mut rows);
    }
    if let Some(restore) = &report.restore
        && let Some(worst) = restore.restores.iter().max_by(|a, b| a.ratio().total_cmp(&b.ratio()))
    {
        let figure = format!("restore at {} Mbit/s, worst of {}", restore.link_mbit, restore.restores.len());
        rows.push(
            Row::new(&figure, "≤ 1.2 × link", format!("{:.1} s", worst.command.seconds))
                .beside(
                    format!("link {:.1} s; from the backup {:.1} s", worst.link_s, restore.from_backup.seconds),
                    worst.ratio(),
                )
                .met(worst.ratio() <= RESTORE_MAX),
        );
    }
    if let Some(sftp) = &report.over_sftp {
        of_lag(&sftp.lag, "over SFTP: ", &mut rows);
        let peak = sftp.first_shipping.peak_rss;
        let whole = Row::new("over SFTP: the whole history, memory", "≤ 64 MB", mb(peak as f64));
        rows.push(whole.met(peak <= MEMORY_MAX));
        let restored = Row::new("over SFTP: restore", "", format!("{:.1} s", sftp.restore.seconds));
        rows.push(match &report.restore {
            Some(restore) => restored.beside(
                format!("from the backup {:.1} s", restore.from_backup.seconds),
                sftp.restore.seconds / restore.from_backup.seconds,
            ),
            None => restored,
        });
    }
    rows
}

/// The rows of the process that ships at a rate.
fn of_lag(lag: &LagReport, over: &str, rows: &mut Vec<Row>) {
    let figure = format!("{over}lag at {:.0} changes/s, every {:.0} s, p99", lag.rate, lag.every_s);
    rows.push(
        Row::new(&figure, "≤ 11 s", seconds(lag.lag.p99_us))
            .beside(
                format!("p50 {}, worst {}", seconds(lag.lag.p50_us), seconds(lag.lag.max_us)),
                lag.lag.p99_us / (lag.every_s * 1e6),
            )
            .met(lag.lag.p99_us <= LAG_MAX_US),
    );
    let memory = Row::new(&format!("{over}shipping at this rate, memory"), "≤ 64 MB", mb(lag.peak_rss as f64));
    rows.push(memory.met(lag.peak_rss <= MEMORY_MAX));
    let share = format!("{:.2} %", lag.of_a_core * 100.0);
    let core = Row::new(&format!("{over}shipping at this rate, of a core"), "≤ 10 %", share);
    rows.push(core.met(lag.of_a_core <= CORE_MAX));
}

/// The rows of answers that wait for a copy. They have no goal: their time is that of the store.
fn of_waiting(waiting: &WaitingReport, rows: &mut Vec<Row>) {
    for (load, answers, without) in
        [("at the rate", waiting.rated, waiting.rated_without), ("full load", waiting.full, waiting.full_without)]
    {
        let figure = format!("answer that waits, {load}, p50: {}, {}", waiting.store, waiting.wait);
        let said =
            format!("p99 {}; without p50 {}, p99 {}", ms(answers.p99_us), ms(without.p50_us), ms(without.p99_us));
        rows.push(Row::new(&figure, "", ms(answers.p50_us)).beside(said, answers.p50_us / without.p50_us));
    }
}

/// The rows of a mount of the copy.
fn of_reading(reading: &ReadingReport, rows: &mut Vec<Row>) {
    let figure_of = |figure: &str, goal: &str, asked: &Asked| {
        let said = format!("{} requests, {}", asked.requests, mb(asked.bytes as f64));
        Row::new(figure, goal, seconds(asked.seconds * 1e6)).beside(said, asked.seconds / reading.delay_s)
    };
    let row = |figure: &str, goal: &str, asked: &Asked, met: bool| figure_of(figure, goal, asked).met(met);
    let worst = |all: &[Asked]| all.iter().copied().max_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let (first, all) = (&reading.first_name, &reading.all_names);
    rows.push(row("mount → first name in versions/", "≤ 0.5 s", first, first.seconds <= 0.5));
    let figure = format!("all {} names in versions/", reading.names);
    rows.push(row(&figure, "≤ 1.5 s", all, all.seconds <= 1.5));
    let figure = format!("first 4 KiB of a version, cold, worst of {}", reading.cold.len());
    if let Some(cold) = worst(&reading.cold) {
        let met = cold.seconds <= 0.8 && cold.requests <= 70 && cold.bytes <= 3_000_000;
        rows.push(row(&figure, "≤ 0.8 s, 70 requests, 3 MB", &cold, met));
    }
    if let Some(neighbour) = worst(&reading.neighbours) {
        rows.push(row("the version behind it", "≤ 5 requests", &neighbour, neighbour.requests <= 5));
    }
    let newest = &reading.newest;
    rows.push(row("first 4 KiB of the newest version, cold", "≤ 2 s", newest, newest.seconds <= 2.0));
    rows.push(figure_of("all of the newest version", "", &reading.newest_whole));
    for query in &reading.queries {
        let figure = format!("{}, {} rows, cold", query.sql, query.rows);
        rows.push(figure_of(&figure, "", &query.asked));
    }
}

fn of_answers(kind: &KindReport, rows: &mut Vec<Row>) {
    for (load, beside) in [("at the rate", &kind.rated), ("full load", &kind.full)] {
        let percentiles = [
            ("p50", beside.on.p50_us, beside.off.p50_us, beside.ratio_p50),
            ("p99", beside.on.p99_us, beside.off.p99_us, beside.ratio_p99),
        ];
        for (percentile, on, off, ratio) in percentiles {
            let figure = format!("answer, {load}, {percentile}: {}", kind.shipping.in_words());
            let goal = if kind.shipping == Shipping::Off { "" } else { "≤ 1.05 × off" };
            let row = Row::new(&figure, goal, ms(on)).beside(format!("off {}", ms(off)), ratio);
            // What differs by chance has no goal.
            rows.push(if kind.shipping == Shipping::Off { row } else { row.met(ratio <= SLOWER_MAX) });
        }
    }
}

fn seconds(micros: f64) -> String {
    format!("{:.2} s", micros / 1e6)
}
