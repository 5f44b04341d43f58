//! [`Running`]: a recorder, the process that ships for it, and changes that are recorded at a rate.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mountfs::demo::pretend_lightningd::RecorderProcess;
use rustix::process::{Pid, Signal, kill_process};

use super::copied_node::CopiedNode;
use crate::record::{init, start};

/// The longest wait for the start and the end of the process that ships: it goes on for 30 s when the store hangs.
const TIMEOUT: Duration = Duration::from_secs(45);

/// The node is quiet when nothing was sealed or shipped for so long.
const QUIET: Duration = Duration::from_secs(1);

/// The longest wait for that.
const QUIET_WITHIN: Duration = Duration::from_secs(20);

/// Interval between two looks at processes and files.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// One answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// When it came.
    pub at: Instant,
    /// How long the node has waited for it.
    pub took: Duration,
}

/// The time between changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// A change at the beginning of each interval of this length.
    Each(Duration),
    /// A change as soon as the one before is committed.
    Full,
}

impl Load {
    /// So many changes in a second.
    pub fn of_rate(rate: u32) -> Self {
        Self::Each(Duration::from_secs(1) / rate.max(1))
    }
}

/// A recorder, and the process that ships for it.
pub struct Running {
    recorder: RecorderProcess,
    /// Id of the process that ships; `None` when shipping is off.
    ship: Option<u32>,
}

impl Running {
    /// Starts a recorder that ships so often, or not at all, and waits until nothing is left to be sealed and shipped.
    pub fn start(node: &mut CopiedNode<'_>, every: Option<Duration>) -> anyhow::Result<Self> {
        node.set_shipping(every)?;
        let lightning_dir = node.lightning_dir();
        let mut recorder = start(&lightning_dir)?;
        // The first one opens the backup.
        node.record(&mut recorder)?;
        init(&mut recorder, &lightning_dir)?;
        let ship = every.map(|_| child_of(recorder.pid())).transpose()?;
        wait_until_quiet(node)?;
        Ok(Self { recorder, ship })
    }

    /// Id of the process that ships.
    pub fn ship(&self) -> anyhow::Result<u32> {
        self.ship.context("BUG: shipping is off")
    }

    /// Records changes for a while.
    pub fn load(&mut self, node: &mut CopiedNode<'_>, load: Load, span: Duration) -> anyhow::Result<Vec<Answer>> {
        let (began, mut answers) = (Instant::now(), Vec::new());
        let mut due = began;
        loop {
            if let Load::Each(interval) = load {
                due += interval;
                thread::sleep(due.saturating_duration_since(Instant::now()).min(span));
            }
            if began.elapsed() >= span {
                return Ok(answers);
            }
            let took = node.record(&mut self.recorder)?;
            answers.push(Answer { at: Instant::now(), took });
        }
    }

    /// Ends the recorder, and waits until the process that ships has said goodbye.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.end_recorder()?;
        self.ship.map_or(Ok(()), wait_until_gone)
    }

    /// Ends the recorder, and kills the process that ships, which a store that hangs would keep for half a minute.
    pub fn end_without_goodbye(mut self) -> anyhow::Result<()> {
        self.end_recorder()?;
        let Some(ship) = self.ship else { return Ok(()) };
        if is_running(ship) {
            let pid = i32::try_from(ship).ok().and_then(Pid::from_raw).context("BUG: a process has an id")?;
            // It may end at this moment.
            let _ = kill_process(pid, Signal::KILL);
        }
        wait_until_gone(ship)
    }

    fn end_recorder(&mut self) -> anyhow::Result<()> {
        let status = self.recorder.end_input()?;
        ensure!(status.success(), "the recorder ended with {status}");
        Ok(())
    }
}

/// Waits until nothing is sealed and nothing is shipped any more.
fn wait_until_quiet(node: &CopiedNode<'_>) -> anyhow::Result<()> {
    let look = || anyhow::Ok((node.logs()?, node.server.counts()));
    let began = Instant::now();
    let (mut seen, mut since) = (look()?, Instant::now());
    while since.elapsed() < QUIET {
        if began.elapsed() > QUIET_WITHIN {
            eprintln!("  after {} s the node is not quiet", QUIET_WITHIN.as_secs());
            return Ok(());
        }
        thread::sleep(LOOK_AGAIN_AFTER);
        let now = look()?;
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// Id of the process that `parent` has started.
fn child_of(parent: u32) -> anyhow::Result<u32> {
    let began = Instant::now();
    while began.elapsed() < TIMEOUT {
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // Most of them are others, and some end meanwhile.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if parent_in(&stat) == Some(parent) {
                return Ok(pid);
            }
        }
        thread::sleep(LOOK_AGAIN_AFTER);
    }
    bail!("the recorder has started no process to ship");
}

fn wait_until_gone(pid: u32) -> anyhow::Result<()> {
    let began = Instant::now();
    while is_running(pid) {
        ensure!(began.elapsed() < TIMEOUT, "the process that ships does not end");
        thread::sleep(LOOK_AGAIN_AFTER);
    }
    Ok(())
}

/// Whether a process is there, and has not ended.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    fields(&stat).next().is_some_and(|state| state != "Z" && state != "X")
}

/// The parent in a line of `/proc/PID/stat`.
fn parent_in(stat: &str) -> Option<u32> {
    fields(stat).nth(1)?.parse().ok()
}

/// The fields behind the name of the program, which may have anything in it.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_parent() {
        assert_eq!(parent_in("12 (a) b (c) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in(""), None);
        assert!(is_running(std::process::id()));
    }

    #[test]
    fn a_rate_is_an_interval() {
        assert_eq!(Load::of_rate(50), Load::Each(Duration::from_millis(20)));
    }
}
