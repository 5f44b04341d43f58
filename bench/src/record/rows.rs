//! The rows of the table of goals.

use super::load::{ALL, ClassReport, LARGE, MEDIAN};
use super::{FileSystem, PlaceReport, Report};
use crate::goals::{Row, ms};

/// All rows for which something was measured.
pub fn rows(report: &Report) -> Vec<Row> {
    let mut rows = Vec::new();
    for place in &report.places {
        match place.file_system {
            FileSystem::Disk => on_disk(place, &mut rows),
            FileSystem::Tmpfs => in_memory(place, &mut rows),
        }
    }
    let start = &report.start;
    rows.push(
        Row::new(
            &format!(
                "start → first answer, {} versions recorded, worst of {}",
                start.versions, start.first_answer.samples
            ),
            "≤ 100 ms, of 940000",
            ms(start.first_answer.max_us),
        )
        .beside(
            format!("until the manifest is answered {}", ms(start.manifest.max_us)),
            start.first_answer.max_us / start.manifest.max_us,
        )
        .met(start.first_answer.max_us <= 100e3),
    );
    rows
}

fn on_disk(place: &PlaceReport, rows: &mut Vec<Row>) {
    let loads = [(&place.keeps_up, "sealer keeps up", 1.5), (&place.busy, "sealer busy", 3.0)];
    if let Some(all) = place.keeps_up.class(ALL) {
        let ratio = all.ratio_p50;
        rows.push(
            Row::new("round trip on disk, p50", "≤ 1.3 × floor", ms(all.round_trip.p50_us))
                .beside(format!("floor {}, behind pipes {}", ms(all.floor.p50_us), ms(all.piped_floor.p50_us)), ratio)
                .met(ratio <= 1.3),
        );
    }
    for (load, what, goal) in loads {
        let Some(all) = load.class(ALL) else { continue };
        rows.push(
            Row::new(
                &format!("round trip on disk, p99, {what}"),
                &format!("≤ {goal} × floor"),
                ms(all.round_trip.p99_us),
            )
            .beside(format!("floor {}", ms(all.floor.p99_us)), all.ratio_p99)
            .met(all.ratio_p99 <= goal),
        );
    }
    let load = &place.keeps_up;
    let ratio = load.writes_per_s / load.floor_per_s;
    rows.push(
        Row::new("writes per second on disk, back to back", "≥ 0.75 × floor", format!("{:.0}", load.writes_per_s))
            .beside(format!("floor {:.0}, behind pipes {:.0}", load.floor_per_s, load.piped_floor_per_s), ratio)
            .met(ratio >= 0.75),
    );
    for (load, what, _) in loads {
        let Some(all) = load.class(ALL) else { continue };
        let figure = format!("worst answer on disk of {}, {what}", all.round_trip.samples);
        rows.push(
            Row::new(&figure, "≤ 50 ms, of 100000", ms(all.round_trip.max_us))
                .beside(format!("floor {}", ms(all.floor.max_us)), all.ratio_max)
                .met(all.round_trip.max_us <= 50e3),
        );
    }
}

fn in_memory(place: &PlaceReport, rows: &mut Vec<Row>) {
    let mut compare = |class: Option<&ClassReport>, figure: &str, goal_us: f64| {
        let Some(class) = class else { return };
        rows.push(
            Row::new(figure, &format!("≤ {goal_us} µs"), format!("{:.1} µs", class.round_trip.p50_us))
                .beside(format!("floor {:.1} µs", class.floor.p50_us), class.ratio_p50)
                .met(class.round_trip.p50_us <= goal_us),
        );
    };
    compare(place.keeps_up.class(MEDIAN), "round trip on tmpfs, median size, p50", 40.0);
    compare(place.keeps_up.class(LARGE), "round trip on tmpfs, 24 kB, p50", 120.0);
}
