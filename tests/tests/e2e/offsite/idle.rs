//! What shipping costs while there is nothing to ship.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tests::binaries;
use tests::wait::until;

use super::shipped::{Shipped, TIMEOUT};

/// How long the process is looked at.
const LOOKED_AT: Duration = Duration::from_secs(2);

/// The most of it that may be spent on a processor, in hundredths of a second. What spins takes all that it gets.
const TICKS_MAX: u64 = 20;

/// Ends the process however the test ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _gone = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline && matches!(self.0.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(20));
        }
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// The time that a process has spent on processors, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let behind_name = stat.rsplit(')').next().expect("a line");
    behind_name.split_ascii_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

#[test]
fn with_every_segment_a_process_that_has_nothing_to_ship_rests() {
    let shipped = Shipped::new(&["--every", "segment"]);
    assert!(until(TIMEOUT, || shipped.ship().code == 0), "{:?}", shipped.ship());
    let child = Command::new(binaries::backupfs())
        .args(["ship", "--lightning-dir"])
        .arg(shipped.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("backupfs starts");
    let child = Ended(child);
    // It has nothing to ship from here on.
    assert!(until(TIMEOUT, || shipped.list()["state"] == "shipping"), "{}", shipped.list());
    let before = ticks(child.0.id());
    thread::sleep(LOOKED_AT);
    let spent = ticks(child.0.id()) - before;
    assert!(spent <= TICKS_MAX, "{spent} hundredths of a second in {LOOKED_AT:?}");
}
