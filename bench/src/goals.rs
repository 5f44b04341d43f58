//! The table of goals: each figure with its goal, what it is compared with, and whether it is met. It says so and no more.

use serde::Serialize;

use crate::table::Table;

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    figure: String,
    goal: String,
    measured: String,
    yardstick: String,
    ratio: Option<f64>,
    met: Option<bool>,
}

impl Row {
    /// A figure, its goal, and what was measured.
    pub fn new(figure: &str, goal: &str, measured: String) -> Self {
        let [figure, goal] = [figure, goal].map(str::to_owned);
        Self { figure, goal, measured, yardstick: String::new(), ratio: None, met: None }
    }

    /// Adds the yardstick, and the ratio to it.
    pub fn beside(self, yardstick: String, ratio: f64) -> Self {
        Self { yardstick, ratio: Some(ratio), ..self }
    }

    /// Whether the goal is met.
    pub fn met(self, met: bool) -> Self {
        Self { met: Some(met), ..self }
    }
}

/// The rows as text.
pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new(["figure", "goal", "measured", "beside", "ratio", ""]);
    for row in rows {
        table.row([
            row.figure.clone(),
            row.goal.clone(),
            row.measured.clone(),
            row.yardstick.clone(),
            row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            row.met.map_or("", |met| if met { "met" } else { "MISSED" }).to_owned(),
        ]);
    }
    table.to_string()
}

/// Microseconds as milliseconds.
pub fn ms(micros: f64) -> String {
    format!("{:.*} ms", if micros < 1e3 { 3 } else { 1 }, micros / 1e3)
}

/// Bytes as megabytes.
pub fn mb(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}
