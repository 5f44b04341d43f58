//! [`LightningRpc`]: the socket on which `lightningd` takes the commands that `lightning-cli` sends.
//!
//! JSON-RPC 2.0, as `doc/developers-guide/app-development/json-rpc.md` of Core Lightning says: requests and answers follow each
//! other on the socket, an answer ends with an empty line.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// The default name of the socket in a lightning-dir.
pub const SOCKET: &str = "lightning-rpc";

/// The maximum length of an answer, in bytes.
const ANSWER_MAX: usize = 16 << 20;

/// The failure of a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// The socket has no listener, or the connection broke.
    #[error("no answer from lightningd")]
    Io(#[from] io::Error),
    /// The reply is not valid.
    #[error("lightningd has sent something that is not an answer: {0}")]
    NoAnswer(String),
    /// The reply is an error.
    #[error("{0}")]
    Refused(String),
}

/// A connection to the socket of a node.
#[derive(Debug)]
pub struct LightningRpc(UnixStream);

impl LightningRpc {
    /// Connects to the node that runs in this directory.
    ///
    /// # Errors
    /// When no process listens there.
    pub fn connect(lightning_dir: &Path) -> io::Result<Self> {
        UnixStream::connect(lightning_dir.join(SOCKET)).map(Self)
    }

    /// Sends one command and waits for its answer, for at most `timeout`, if there is one.
    ///
    /// # Errors
    /// When no valid answer comes, or the answer is an error.
    pub fn call(mut self, method: &str, params: &Value, timeout: Option<Duration>) -> Result<Value, RpcError> {
        self.0.set_read_timeout(timeout)?;
        let request = json!({"jsonrpc": "2.0", "id": "backupfs", "method": method, "params": params});
        self.0.write_all(format!("{request}\n\n").as_bytes())?;
        let (mut bytes, mut more) = (Vec::new(), [0; 4096]);
        while !bytes.ends_with(b"\n\n") && bytes.len() < ANSWER_MAX {
            match self.0.read(&mut more)? {
                0 => break,
                read => bytes.extend_from_slice(&more[..read]),
            }
        }
        let no_answer = || RpcError::NoAnswer(String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned());
        let mut answer: Value = serde_json::from_slice(&bytes).map_err(|_| no_answer())?;
        match (answer["result"].take(), &answer["error"]) {
            (Value::Null, Value::Null) => Err(no_answer()),
            (Value::Null, error) => {
                Err(RpcError::Refused(error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned)))
            }
            (result, _) => Ok(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    fn answered(answer: &'static [u8]) -> Result<Value, RpcError> {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let node = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1000];
            let len = stream.read(&mut request).unwrap();
            // In two parts, as it may come.
            let (first, second) = answer.split_at(answer.len() / 2);
            stream.write_all(first).unwrap();
            thread::sleep(Duration::from_millis(20));
            stream.write_all(second).unwrap();
            serde_json::from_slice::<Value>(&request[..len]).unwrap()
        });
        let rpc = LightningRpc::connect(dir.path()).unwrap();
        let answer = rpc.call("a-method", &json!({"a": 1}), Some(Duration::from_secs(30)));
        let request = node.join().unwrap();
        assert_eq!((&request["method"], &request["params"]), (&json!("a-method"), &json!({"a": 1})));
        answer
    }

    #[test]
    fn an_answer_is_taken_and_anything_else_is_an_error() {
        assert_eq!(
            answered(b"{\"jsonrpc\":\"2.0\",\"id\":\"backupfs\",\"result\":{\"b\":2}}\n\n").unwrap(),
            json!({"b": 2})
        );
        let refused =
            answered(b"{\"id\":\"backupfs\",\"error\":{\"code\":-32601,\"message\":\"Unknown command\"}}\n\n");
        assert_eq!(refused.unwrap_err().to_string(), "Unknown command");
        assert!(matches!(answered(b"{\"id\":1}\n\n"), Err(RpcError::NoAnswer(_))));
        assert!(matches!(answered(b"{\"result\":{"), Err(RpcError::NoAnswer(_))));
        assert!(matches!(answered(b""), Err(RpcError::NoAnswer(_))));
        assert!(LightningRpc::connect(Path::new("/nonexistent")).is_err());
    }
}
