//! The bare disk behind two pipes: what any plugin costs that makes a write durable, were it to do nothing else.
//!
//! A process of its own reads the message, writes as many bytes as the recorder appends, syncs them and answers. Beside
//! the floor this shows what two pipes and the wake-ups of two processes take; beside the recorder, what is ours.

use std::env;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::floor::Floor;

/// The subcommand that is the other process.
pub const SUBCOMMAND: &str = "piped-floor";

/// Bytes of an answer: about those of a hook's.
const ANSWER: [u8; 72] = [b'.'; 72];

#[derive(clap::Args)]
pub struct Args {
    /// The zero-filled file to make and write to
    file: PathBuf,
}

/// The other process: answers every message on standard input once as many bytes as it says are durable.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut floor = Floor::create(&args.file)?;
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    output.write_all(&ANSWER)?;
    output.flush()?;
    let (mut lengths, mut message) = ([0; 8], Vec::new());
    loop {
        match input.read_exact(&mut lengths) {
            Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let [message_bytes, record_bytes] = [&lengths[..4], &lengths[4..]]
            .map(|field| field.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)));
        message.resize(message_bytes, 0);
        input.read_exact(&mut message)?;
        floor.append(&message, record_bytes)?;
        output.write_all(&ANSWER)?;
        output.flush()?;
    }
}

/// The process, as it is seen from here.
pub struct PipedFloor {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    text: Vec<u8>,
}

impl PipedFloor {
    /// Starts it; `file` is made.
    pub fn start(file: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .arg(SUBCOMMAND)
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the process behind pipes")?;
        let input = child.stdin.take().context("BUG: stdin is a pipe")?;
        let output = child.stdout.take().context("BUG: stdout is a pipe")?;
        let mut floor = Self { child, input, output, text: Vec::new() };
        floor.wait_for_answer()?;
        Ok(floor)
    }

    /// From the first byte sent to the last byte received, of a message that makes it write so many bytes.
    pub fn append(&mut self, message: &[u8], record_bytes: usize) -> anyhow::Result<Duration> {
        self.text.clear();
        for length in [message.len(), record_bytes] {
            self.text.extend(u32::try_from(length)?.to_le_bytes());
        }
        self.text.extend(message);
        let started = Instant::now();
        self.input.write_all(&self.text)?;
        self.wait_for_answer()?;
        Ok(started.elapsed())
    }

    /// Ends it.
    pub fn end(mut self) -> anyhow::Result<()> {
        drop(self.input);
        let status = self.child.wait()?;
        ensure!(status.success(), "the process behind pipes ended with {status}");
        Ok(())
    }

    fn wait_for_answer(&mut self) -> anyhow::Result<()> {
        self.output.read_exact(&mut [0; ANSWER.len()]).context("the process behind pipes has ended")
    }
}
