//! The runs of a recorded trace: what becomes of the node between its writes.

use common::DataVersion;
use mountfs::demo::pretend_lightningd::{Answer, Commit, PretendError, PretendLightningd};
use mountfs::demo::trace::{TraceEvent, TraceWrite};

use crate::home::Home;
use crate::schedule::{Fate, Outcome};

/// A node that starts, stops and crashes as the node of a trace did.
pub struct Runs<'a> {
    home: &'a Home,
    /// The node.
    pub lightningd: PretendLightningd,
    announced_stop: bool,
    killed: bool,
    initialized: bool,
    /// A crash takes the node down before the trace says that the run is over.
    up: bool,
}

impl<'a> Runs<'a> {
    /// Not running yet.
    pub fn new(home: &'a Home, lightningd: PretendLightningd) -> Self {
        Self { home, lightningd, announced_stop: false, killed: false, initialized: false, up: false }
    }

    /// Whether the node runs.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Does what happened between two writes.
    pub fn around(&mut self, event: &TraceEvent) {
        match event {
            TraceEvent::Start => {
                self.start();
                self.initialized = false;
                self.killed = false;
            }
            TraceEvent::Init => self.init(),
            TraceEvent::Shutdown => {
                self.lightningd.announce_shutdown().expect("the recorder lives");
                self.announced_stop = true;
            }
            // The blow takes effect at the end of the run: one more write may get through.
            TraceEvent::Kill { .. } => self.killed = true,
            TraceEvent::End if self.up && self.killed => {
                self.lightningd.crash().expect("a crash");
                self.up = false;
            }
            TraceEvent::QuietExit | TraceEvent::End if self.up => {
                let status = if std::mem::take(&mut self.announced_stop) {
                    self.lightningd.stop()
                } else {
                    self.lightningd.end_input()
                };
                let status = status.expect("the recorder ends by itself");
                assert!(status.success(), "the recorder ended with {status}: {}", self.home.recorder_stderr());
                self.up = false;
            }
            TraceEvent::QuietExit | TraceEvent::End | TraceEvent::Write(_) => {}
        }
    }

    /// Starts the node.
    pub fn start(&mut self) {
        self.lightningd.start().expect("the recorder starts");
        self.up = true;
    }

    /// Says that the start is over.
    pub fn init(&mut self) {
        self.lightningd.init().expect("the recorder takes init");
        self.initialized = true;
    }

    /// Goes over the transactions before this write that the trace does not know; returns the version they led to.
    pub fn skip_gap(&mut self, fate: Fate, write: &TraceWrite) -> Option<DataVersion> {
        if fate.missed_before == 0 {
            return None;
        }
        let before = write.data_version.previous();
        self.lightningd.set_data_version(before).expect("a gap");
        Some(before)
    }

    /// Makes a write. Where its node died before the commit, or it is refused, the node is down afterwards.
    ///
    /// # Errors
    /// When the node's database does not take it.
    pub fn write(&mut self, fate: Fate, write: &TraceWrite) -> Result<Answer, PretendError> {
        let commit = match fate.outcome {
            Outcome::Committed => Commit::Normal,
            Outcome::Lost => Commit::CrashBeforeCommit,
        };
        let answer = self.lightningd.write(write.data_version, &write.statements, commit)?;
        self.up = fate.outcome == Outcome::Committed && answer.is_continue();
        Ok(answer)
    }

    /// Starts the node that a refusal has stopped, and makes the write once more.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_again(&mut self, fate: Fate, write: &TraceWrite) -> Result<Answer, PretendError> {
        self.start();
        let answer = self.write(fate, write)?;
        if self.initialized && self.up {
            self.init();
        }
        Ok(answer)
    }
}
