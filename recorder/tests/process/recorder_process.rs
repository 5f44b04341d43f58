//! A running `backup-recorder` and the ends of its pipes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// No answer takes so long, even on a machine that is busy with other tests.
const TIMEOUT: Duration = Duration::from_secs(30);

pub struct RecorderProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    messages: Receiver<Value>,
    /// The `log` notifications so far.
    pub logs: Vec<Value>,
    next_id: u32,
}

impl RecorderProcess {
    pub fn start(lightning_dir: &Path) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_backup-recorder")), lightning_dir)
    }

    /// Started by a command that runs it or becomes it.
    pub fn start_by(mut command: Command, lightning_dir: &Path) -> Self {
        let mut child = command
            .current_dir(lightning_dir)
            .env_remove("CLN_PLUGIN_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, messages) = channel();
        thread::spawn(move || {
            let mut line = String::new();
            while stdout.read_line(&mut line).unwrap() > 0 {
                // Compact JSON on one line, then an empty one: anything else means that messages were mixed.
                let message = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
                line.clear();
                stdout.read_line(&mut line).unwrap();
                assert_eq!(line, "\n");
                line.clear();
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Self { child, stdin, messages, logs: Vec::new(), next_id: 0 }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends bytes as they are.
    pub fn say(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Sends a message.
    pub fn tell(&mut self, message: &Value) {
        self.say(format!("{message}\n\n").as_bytes());
    }

    /// Asks without waiting; the id is returned.
    pub fn ask(&mut self, method: &str, params: &Value) -> String {
        self.next_id += 1;
        let id = format!("cln:{method}#{}", self.next_id);
        self.tell(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        id
    }

    /// The next message that is not a log line.
    pub fn hear(&mut self) -> Value {
        loop {
            let message = self.messages.recv_timeout(TIMEOUT).expect("no answer came");
            if message["method"] == "log" {
                self.logs.push(message);
            } else {
                return message;
            }
        }
    }

    /// Asks and waits for the answer.
    pub fn call(&mut self, method: &str, params: &Value) -> Value {
        let id = self.ask(method, params);
        let answer = self.hear();
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// A `db_write` that has to be taken.
    pub fn record(&mut self, write: &Value) {
        let answer = self.call("db_write", write);
        assert_eq!(answer["result"], json!({"result": "continue"}), "{answer}");
    }

    /// A `db_write` that has to be refused; the reason is returned.
    pub fn refused(&mut self, write: &Value) -> String {
        refusal(&self.call("db_write", write))
    }

    pub fn get_manifest(&mut self) -> Value {
        self.call("getmanifest", &json!({"allow-deprecated-apis": false}))["result"].clone()
    }

    pub fn init(&mut self) {
        let answer = self.call("init", &init_params());
        assert_eq!(answer["result"], json!({}), "{answer}");
    }

    pub fn status(&mut self) -> Value {
        self.call("backup-status", &json!({}))["result"].clone()
    }

    /// Asks for the status until it is as wanted.
    pub fn status_when(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "still {status}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a line of its log contains this text.
    pub fn logs(&mut self, part: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while !self.logs.iter().any(|line| line["params"]["message"].as_str().unwrap().contains(part)) {
            match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line["method"] == "log" => self.logs.push(line),
                other => panic!("the log does not say {part:?} but {:?}; {other:?}", self.logs),
            }
        }
    }

    /// Closes its input.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for RecorderProcess {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The reason in an answer that refuses.
pub fn refusal(answer: &Value) -> String {
    assert!(answer.get("result").is_none(), "{answer}");
    assert!(answer["error"]["code"].is_i64(), "{answer}");
    answer["error"]["message"].as_str().unwrap().to_owned()
}

pub fn init_params() -> Value {
    json!({
        "options": {},
        "configuration": {
            "lightning-dir": "/nowhere",
            "rpc-file": "lightning-rpc",
            "startup": true,
            "network": "regtest",
            "feature_set": {"init": "", "node": "", "channel": "", "invoice": ""}
        }
    })
}
