//! Running `backupfs` once, to its end.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binaries;

/// Longest time one command may take before it counts as hung.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How a command ended and what it said.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its results.
    pub stdout: String,
    /// All else.
    pub stderr: String,
}

impl Ran {
    /// Panics, with all that was said, unless the exit code is 0.
    #[track_caller]
    pub fn expect_done(self, what: &str) -> Self {
        assert_eq!(self.code, 0, "{what}: {self:?}");
        self
    }

    /// Panics unless the exit code is `code` and standard error holds each of `needles` (compared without regard to
    /// case): a refusal must name its reason and its remedy.
    #[track_caller]
    pub fn expect_refused(self, code: i32, needles: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        for needle in needles {
            assert!(self.stderr.to_lowercase().contains(&needle.to_lowercase()), "no {needle:?} in {self:?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }

    /// Standard output as JSON, one object a line.
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

/// Runs `backupfs` with these arguments.
pub fn backupfs<A: AsRef<OsStr>>(arguments: &[A]) -> Ran {
    run(Command::new(binaries::backupfs()).args(arguments))
}

/// Runs any command to its end, its standard input closed.
///
/// Its output goes to files: a command that leaves a process behind cannot hold a pipe open and hang the test.
pub fn run(command: &mut Command) -> Ran {
    let mut outputs = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
    let clone = |file: &File| Stdio::from(file.try_clone().expect("a second handle"));
    command.stdin(Stdio::null()).stdout(clone(&outputs[0])).stderr(clone(&outputs[1]));
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let deadline = Instant::now() + TIMEOUT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("waiting for a child") {
            break status;
        }
        if Instant::now() > deadline {
            // Reaped, so that nothing is left behind the failure; what these say is beside the point.
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end within {} s", TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let [stdout, stderr] = outputs.each_mut().map(|file| {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("reading what a command said");
        String::from_utf8_lossy(&bytes).into_owned()
    });
    Ran { code: status.code().unwrap_or(-1), stdout, stderr }
}

/// Writes a script that can be run at once. By another process: a program that this one has open for writing cannot be run, nor
/// while another thread is about to start anything.
pub fn write_program(path: &Path, text: &str) {
    let mut write = Command::new("sh");
    write.args(["-c", "printf %s \"$1\" > \"$0\" && chmod 700 \"$0\""]).arg(path).arg(text);
    run(&mut write).expect_done("writing a script");
}
