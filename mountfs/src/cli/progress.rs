//! [`Bar`]: a progress bar for work that takes longer than a second.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The time after which a bar is shown.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Whether bars are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bars are shown on terminals.
    OnTerminals,
    /// No bar is shown.
    Hidden,
}

static HIDDEN: AtomicBool = AtomicBool::new(false);

/// Sets it for all bars of this process.
pub fn show(progress: Progress) {
    HIDDEN.store(progress == Progress::Hidden, Ordering::Relaxed);
}

/// A progress bar in bytes on stderr. It shows up after a second, and only on a terminal.
pub struct Bar {
    label: &'static str,
    started: Instant,
    shown: Option<ProgressBar>,
}

impl Bar {
    /// A bar that is not shown yet.
    pub fn new(label: &'static str) -> Self {
        Self { label, started: Instant::now(), shown: None }
    }

    /// Updates the bar: `done` of `total` bytes are done.
    pub fn set(&mut self, done_bytes: u64, total_bytes: u64) {
        let is_due = self.shown.is_none() && self.started.elapsed() > TIMEOUT;
        if is_due && !HIDDEN.load(Ordering::Relaxed) && std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg} {bar:40} {bytes} of {total_bytes}, {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(self.label);
            self.shown = Some(bar);
        }
        if let Some(bar) = &self.shown {
            bar.set_length(total_bytes);
            bar.set_position(done_bytes);
        }
    }

    /// Removes the bar.
    pub fn finish(&mut self) {
        if let Some(bar) = self.shown.take() {
            bar.finish_and_clear();
        }
    }
}
