//! A real `backup-recorder` as a child process, driven as `lightningd` drives a plugin.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde_json::{Value, json};

/// The end of every message in both directions.
const END_OF_MESSAGE: &[u8] = b"\n\n";

/// The destination of the recorder's standard error.
#[derive(Debug, Clone, Default)]
pub enum RecorderStderr {
    /// The log goes to the standard error of this process.
    #[default]
    Inherited,
    /// The log is appended to a file.
    AppendedTo(PathBuf),
}

/// The failure of a conversation with the recorder. Its death is among them: the caller decides whether that is an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecorderError {
    /// The program cannot be started.
    #[error("cannot start {}", .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// Reading from or writing to the recorder failed in another way than by its death.
    #[error("cannot speak with the recorder")]
    Io(#[from] io::Error),
    /// The recorder ended, or closed its output, before it answered.
    #[error("the recorder ended without an answer to {waiting_for}")]
    Died {
        /// The method of the request.
        waiting_for: String,
    },
    /// No answer came in time.
    #[error("the recorder did not answer {waiting_for} within {seconds} s")]
    Timeout {
        /// The method of the request.
        waiting_for: String,
        /// The timeout.
        seconds: u64,
    },
    /// The recorder sent something that `lightningd` would not understand.
    #[error("the recorder sent something that is not a message of a plugin: {text}")]
    NotAMessage {
        /// The bytes sent, cut to a readable length.
        text: String,
    },
}

/// The recorder's process and the two pipes to it. Dropping it kills and reaps the process.
pub struct RecorderProcess {
    child: Child,
    /// `None` once closed.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// Bytes received and not yet taken as messages.
    received: Vec<u8>,
    /// Bytes of `received` that are known not to end a message.
    searched: usize,
    stdout_ended: bool,
    next_id: u64,
    notifications: Vec<Value>,
    timeout: Duration,
}

impl fmt::Debug for RecorderProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecorderProcess").field("pid", &self.child.id()).finish_non_exhaustive()
    }
}

impl RecorderProcess {
    /// Starts `program` with `lightning_dir` as its working directory, as `lightningd` starts a plugin; `environment` comes
    /// on top of that of this process.
    ///
    /// `timeout` bounds every wait, so that a recorder that hangs becomes an error.
    ///
    /// # Errors
    /// [`RecorderError::Start`] when the program cannot be started or its standard error cannot be opened.
    pub fn start(
        program: &Path,
        lightning_dir: &Path,
        stderr: &RecorderStderr,
        environment: &[(&str, String)],
        timeout: Duration,
    ) -> Result<Self, RecorderError> {
        let failed = |source| RecorderError::Start { program: program.to_owned(), source };
        let stderr = match stderr {
            RecorderStderr::Inherited => Stdio::inherit(),
            RecorderStderr::AppendedTo(path) => {
                File::options().create(true).append(true).open(path).map_err(failed)?.into()
            }
        };
        let mut child = Command::new(program)
            .current_dir(lightning_dir)
            .env("LIGHTNINGD_PLUGIN", "1")
            .env("LIGHTNINGD_VERSION", "v26.06.6")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(failed)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("BUG: both pipes were asked for");
        };
        let process = Self {
            child,
            stdin: Some(stdin),
            stdout,
            received: Vec::new(),
            searched: 0,
            stdout_ended: false,
            next_id: 1,
            notifications: Vec::new(),
            timeout,
        };
        // Neither pipe may block: a recorder that stops reading or writing must run into the time limit.
        process.stdin.iter().try_for_each(|pipe| never_block(pipe.as_fd())).map_err(failed)?;
        never_block(process.stdout.as_fd()).map_err(failed)?;
        Ok(process)
    }

    /// The recorder's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Notifications received so far (`log` and others), oldest first.
    pub fn notifications(&self) -> &[Value] {
        &self.notifications
    }

    /// The messages of the `log` notifications up to now, each as `level: message`.
    pub fn log_lines(&mut self) -> Vec<String> {
        // What is wrong with the pipe is found by the next request.
        while self.receive_available().is_ok()
            && let Ok(Some(message)) = self.take_message()
        {
            self.notifications.push(message);
        }
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let logs = self.notifications.iter().filter(|notification| notification["method"] == "log");
        logs.map(|log| format!("{}: {}", text(&log["params"]["level"]), text(&log["params"]["message"]))).collect()
    }

    /// Sends a request and waits for its answer: the whole message, with `result` or `error`. Notifications that come in between
    /// are kept.
    ///
    /// # Errors
    /// [`RecorderError::Died`], [`RecorderError::Timeout`], [`RecorderError::NotAMessage`].
    pub fn ask(&mut self, method: &str, params: &Value) -> Result<Value, RecorderError> {
        let id = self.send(method, params)?;
        self.answer_to(&id)
    }

    /// Sends a request without waiting; the id goes to [`answer_to`](Self::answer_to).
    ///
    /// # Errors
    /// [`RecorderError::Died`], [`RecorderError::Timeout`].
    pub fn send(&mut self, method: &str, params: &Value) -> Result<String, RecorderError> {
        let id = format!("cln:{method}#{}", self.next_id);
        self.next_id += 1;
        self.send_message(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        Ok(id)
    }

    /// Sends a notification, which has no answer.
    ///
    /// # Errors
    /// [`RecorderError::Died`], [`RecorderError::Timeout`].
    pub fn notify(&mut self, method: &str, params: &Value) -> Result<(), RecorderError> {
        self.send_message(&json!({"jsonrpc": "2.0", "method": method, "params": params}))
    }

    fn send_message(&mut self, message: &Value) -> Result<(), RecorderError> {
        let mut bytes = message.to_string().into_bytes();
        bytes.extend_from_slice(END_OF_MESSAGE);
        self.send_bytes(&bytes)
    }

    /// Sends bytes as they are, whether or not they are a message.
    ///
    /// # Errors
    /// [`RecorderError::Died`], [`RecorderError::Timeout`].
    pub fn send_bytes(&mut self, mut bytes: &[u8]) -> Result<(), RecorderError> {
        let deadline = Instant::now() + self.timeout;
        while !bytes.is_empty() {
            let Some(stdin) = &mut self.stdin else { return Err(died("a message")) };
            match stdin.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The recorder may be waiting for us to read before it reads on.
                    self.wait(Wanted::WriteOrRead, deadline, "a message")?;
                    self.receive_available()?;
                }
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(died("a message")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for the answer to the request with this id.
    ///
    /// # Errors
    /// [`RecorderError::Died`], [`RecorderError::Timeout`], [`RecorderError::NotAMessage`].
    pub fn answer_to(&mut self, id: &str) -> Result<Value, RecorderError> {
        // It may have come while the log was looked at.
        if let Some(at) = self.notifications.iter().position(|message| message["id"] == id) {
            return Ok(self.notifications.remove(at));
        }
        let deadline = Instant::now() + self.timeout;
        loop {
            let message = self.next_message(deadline, id)?;
            match message.get("id") {
                Some(answered) if answered == id => return Ok(message),
                // An answer to something else, such as to bytes that were no request: kept where a test can see it.
                Some(_) | None => self.notifications.push(message),
            }
        }
    }

    fn next_message(&mut self, deadline: Instant, waiting_for: &str) -> Result<Value, RecorderError> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(message);
            }
            if self.stdout_ended {
                return Err(died(waiting_for));
            }
            self.wait(Wanted::Read, deadline, waiting_for)?;
            self.receive_available()?;
        }
    }

    /// The oldest whole message received, if there is one.
    fn take_message(&mut self) -> Result<Option<Value>, RecorderError> {
        let from = self.searched.saturating_sub(1);
        let Some(end) = self.received[from..].windows(2).position(|two| two == END_OF_MESSAGE).map(|at| from + at)
        else {
            self.searched = self.received.len();
            return Ok(None);
        };
        let message = serde_json::from_slice(&self.received[..end]).map_err(|_| RecorderError::NotAMessage {
            text: String::from_utf8_lossy(&self.received[..end.min(200)]).into_owned(),
        })?;
        self.received.drain(..end + END_OF_MESSAGE.len());
        self.searched = 0;
        Ok(Some(message))
    }

    /// Reads all that is there, without waiting.
    fn receive_available(&mut self) -> Result<(), RecorderError> {
        let mut chunk = [0; 1 << 14];
        while !self.stdout_ended {
            match self.stdout.read(&mut chunk) {
                Ok(0) => self.stdout_ended = true,
                Ok(length) => self.received.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn wait(&self, wanted: Wanted, deadline: Instant, waiting_for: &str) -> Result<(), RecorderError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut pipes = Vec::with_capacity(2);
        if !self.stdout_ended {
            pipes.push(PollFd::new(&self.stdout, PollFlags::IN));
        }
        if let (Wanted::WriteOrRead, Some(stdin)) = (wanted, &self.stdin) {
            pipes.push(PollFd::new(stdin, PollFlags::OUT));
        }
        match poll(&mut pipes, Some(&timeout)) {
            Ok(0) => {
                Err(RecorderError::Timeout { waiting_for: waiting_for.to_owned(), seconds: self.timeout.as_secs() })
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Kills the recorder with SIGKILL, and reaps it. What it had answered before can still be read.
    ///
    /// # Errors
    /// The error of the system.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Ends the recorder's input, as the death of `lightningd` does, and waits until the recorder has ended.
    ///
    /// # Errors
    /// [`RecorderError::Timeout`] when it does not end.
    pub fn end_input(&mut self) -> Result<ExitStatus, RecorderError> {
        self.stdin = None;
        self.wait_for_exit()
    }

    /// Waits until the recorder has ended by itself, and keeps the messages it sends meanwhile.
    ///
    /// # Errors
    /// [`RecorderError::Timeout`] when it does not end.
    pub fn wait_for_exit(&mut self) -> Result<ExitStatus, RecorderError> {
        let deadline = Instant::now() + self.timeout;
        while !self.stdout_ended {
            self.wait(Wanted::Read, deadline, "the end of its input")?;
            self.receive_available()?;
        }
        while let Some(message) = self.take_message()? {
            self.notifications.push(message);
        }
        // Its output is closed, so it ends soon: polling is enough.
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let waiting_for = "the end of its input".to_owned();
                return Err(RecorderError::Timeout { waiting_for, seconds: self.timeout.as_secs() });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for RecorderProcess {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy)]
enum Wanted {
    Read,
    WriteOrRead,
}

fn died(waiting_for: &str) -> RecorderError {
    RecorderError::Died { waiting_for: waiting_for.to_owned() }
}

fn never_block(pipe: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?)
}
