//! [`Watched`]: how long a command took, and how much memory it had at most.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::scale::process::Memory;

/// Interval between two looks at a process.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// A command that has ended well.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Watched {
    /// How long it took.
    pub seconds: f64,
    /// The most memory that it had when it was last looked at.
    pub peak_rss: u64,
}

/// Runs a command to its end, which must be a good one.
pub fn run(command: &mut Command) -> anyhow::Result<Watched> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("{command:?} does not start"))?;
    let mut stderr = child.stderr.take().context("BUG: standard error is a pipe")?;
    let reading = thread::spawn(move || {
        let mut said = Vec::new();
        let _ = stderr.read_to_end(&mut said);
        said
    });
    let mut peak_rss = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // A process that has just ended has no memory.
        if let Ok(memory) = Memory::of(child.id()) {
            peak_rss = memory.peak_rss;
        }
        thread::sleep(LOOK_AGAIN_AFTER);
    };
    let seconds = started.elapsed().as_secs_f64();
    let said = reading.join().unwrap_or_default();
    ensure!(status.success(), "{command:?} ended with {status}: {}", String::from_utf8_lossy(&said));
    Ok(Watched { seconds, peak_rss })
}
