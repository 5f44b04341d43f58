//! The part of the plugin that `cln-plugin` does: manifest, handshake, `backup-status`, `backup-compact`, notifications.
//!
//! It runs in a thread of its own and is fed through memory; the thread that answers `db_write` never waits for it, and
//! goes on answering when it has ended.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;
use std::{env, future, io};

use cln_plugin::{Builder, Plugin, RpcMethodBuilder};
use common::BackupLock;
use memchr::memmem;
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::compacting;
use crate::message::DB_WRITE;
use crate::outgoing::Outgoing;
use crate::reply::Code;
use crate::status::Status;

/// The method that reports the state of the backup.
pub const BACKUP_STATUS: &str = "backup-status";

/// The request that begins the handshake.
pub const GETMANIFEST: &str = "getmanifest";

/// The request that completes the handshake.
pub const INIT: &str = "init";

/// The notification that `lightningd` is about to stop.
pub const SHUTDOWN: &str = "shutdown";

const PIPE_BYTES: usize = 64 << 10;

/// The queue of messages for `cln-plugin`.
///
/// The queue has no limit, so that the sender never waits. It stays short: `lightningd` waits for the handshake's
/// answers, and beyond that only an operator's `backup-status` and one `shutdown` come this way.
#[derive(Debug)]
pub struct PluginInbox(UnboundedSender<Vec<u8>>);

/// `cln-plugin` is gone: it cannot answer any more.
#[derive(Debug, thiserror::Error)]
#[error(
    "the part of backup-recorder that answers requests has ended; recording goes on. The log has the reason. \
     Restart lightningd to get that part back"
)]
pub struct PluginEnded;

impl PluginInbox {
    /// A queue, and its receiver.
    pub fn new() -> (Self, UnboundedReceiver<Vec<u8>>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender), receiver)
    }

    /// Hands a message, without its separator, to `cln-plugin`. Never waits.
    ///
    /// # Errors
    /// When `cln-plugin` has ended.
    pub fn forward(&self, message: &[u8]) -> Result<(), PluginEnded> {
        self.0.send([message, b"\n\n"].concat()).map_err(|_| PluginEnded)
    }
}

/// The error that a method is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodError {
    /// The code of JSON-RPC.
    pub code: Code,
    /// The problem, and what to do about it.
    pub message: String,
}

impl MethodError {
    /// The error for parameters that the method does not take.
    pub fn params(message: impl fmt::Display) -> Self {
        Self { code: Code::InvalidParams, message: message.to_string() }
    }

    /// The error for a failure that is not about the parameters.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self { code: Code::Internal, message: message.to_string() }
    }

    /// The error for `cln-plugin`, which takes it for a JSON-RPC error if its text is one in JSON.
    fn into_cln(self) -> cln_plugin::Error {
        let Self { code, message } = self;
        cln_plugin::anyhow!(json!({"code": code.number(), "message": message}).to_string())
    }
}

/// The thread that `cln-plugin` runs in.
#[derive(Debug)]
pub struct PluginThread {
    running: Receiver<()>,
}

impl PluginThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(outgoing: Arc<Outgoing>, status: Arc<Status>) -> io::Result<(PluginInbox, Self)> {
        let (inbox, messages) = PluginInbox::new();
        let (alive, running) = channel();
        thread::Builder::new().name("cln-plugin".to_owned()).spawn(move || run(messages, outgoing, status, alive))?;
        Ok((inbox, Self { running }))
    }

    /// Waits until all messages are answered, but at most for `timeout`. Drop the inbox first.
    pub fn wait(&self, timeout: Duration) {
        // Nothing is ever sent: the sender is dropped when the thread has ended.
        let _ended_or_too_late = self.running.recv_timeout(timeout);
    }
}

/// Runs `cln-plugin` to its end. `_alive` is dropped when this returns or panics.
fn run(messages: UnboundedReceiver<Vec<u8>>, outgoing: Arc<Outgoing>, status: Arc<Status>, _alive: Sender<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::error!("cannot start the part that answers requests ({error}); database writes are recorded");
            return;
        }
    };
    let served = runtime.block_on(serve(messages, outgoing, status));
    // This drops the receiver: when the log has the reason, every further request is answered with an error.
    drop(runtime);
    if let Err(error) = served {
        log::error!("the part that answers requests has ended: {error:#}; database writes are still recorded");
    }
}

async fn serve(
    messages: UnboundedReceiver<Vec<u8>>,
    outgoing: Arc<Outgoing>,
    status: Arc<Status>,
) -> Result<(), cln_plugin::Error> {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    tokio::spawn(pump(messages, near));
    let plugin = Builder::new(far, WholeMessages { outgoing, incomplete: Vec::new() })
        .with_logging(false)
        // The manifest has to name the hook; its calls are answered before they could get here.
        .hook(DB_WRITE, |_plugin, _request| {
            future::ready(Err(cln_plugin::anyhow!("BUG: a db_write came to the part that does not answer it")))
        })
        .subscribe(SHUTDOWN, |_plugin, _notification| future::ready(Ok(())))
        .rpcmethod_from_builder(
            RpcMethodBuilder::new(BACKUP_STATUS, |plugin: Plugin<Arc<Status>>, params| {
                let answer = takes_no_params(&params).map(|()| plugin.state().to_json());
                future::ready(answer.map_err(MethodError::into_cln))
            })
            .description(STATUS_HELP)
            .usage(&format!("({STATUS_HELP})")),
        )
        .rpcmethod_from_builder(
            RpcMethodBuilder::new(compact_method(), |plugin: Plugin<Arc<Status>>, params| async move {
                let answered = compacting::answer(params, Arc::clone(plugin.state())).await;
                answered.map_err(MethodError::into_cln)
            })
            .description(COMPACT_HELP)
            .usage(&format!("{} ({COMPACT_HELP})", compacting::PARAMS.map(|name| format!("[{name}]")).join(" "))),
        )
        .start(status)
        .await?;
    match plugin {
        Some(plugin) => plugin.join().await,
        // The input ended after the manifest: `lightningd --help`.
        None => Ok(()),
    }
}

/// The help text of `backup-status`. For `lightning-cli help METHOD`, `lightningd` from v26 on prints the *usage* only, earlier
/// releases print the description.
const STATUS_HELP: &str = "Reports the state of this node's backup: its newest version, up to which version everything \
    replays, what is sealed, its size, the free space on its disk, how long answers take, the last problem. Takes no \
    parameters";

/// The help text of `backup-compact`, used as [`STATUS_HELP`] is.
const COMPACT_HELP: &str = "Drops old versions from the backup of this node. Each span of time says what to keep: \
    keep_within=90d every version, keep_hourly, keep_daily and keep_weekly one for each hour, day or week. Without any span \
    the policy of backup.lock is used. dry_run=true only reports what would be dropped. force=true trusts \
    a clock that has leapt. Use lightning-cli -k";

/// Refuses parameters: a mistyped one must not be ignored silently.
fn takes_no_params(params: &Value) -> Result<(), MethodError> {
    let given = match params {
        Value::Null => return Ok(()),
        Value::Array(values) => values.first().map(Value::to_string),
        Value::Object(named) => named.keys().next().cloned(),
        other => Some(other.to_string()),
    };
    match given {
        None => Ok(()),
        Some(given) => Err(MethodError::params(format_args!("{BACKUP_STATUS} takes no parameters; leave out {given}"))),
    }
}

/// The name of the compaction method in this lightning-dir, the current directory. Nothing outside of it is read, because the
/// file system of the backup may hang.
fn compact_method() -> &'static str {
    env::current_dir().map_or(BackupLock::COMPACT_METHOD, |lightning_dir| BackupLock::compact_method(&lightning_dir))
}

async fn pump(mut messages: UnboundedReceiver<Vec<u8>>, mut input: tokio::io::DuplexStream) {
    while let Some(message) = messages.recv().await {
        if input.write_all(&message).await.is_err() {
            // cln-plugin reads no more; the sender sees that the receiver is dropped.
            return;
        }
    }
}

/// Forwards the output of `cln-plugin`, whole messages at a time.
struct WholeMessages {
    outgoing: Arc<Outgoing>,
    /// The beginning of a message whose end has not come yet.
    incomplete: Vec<u8>,
}

impl AsyncWrite for WholeMessages {
    fn poll_write(mut self: Pin<&mut Self>, _context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let writer = &mut *self;
        writer.incomplete.extend_from_slice(bytes);
        if let Some(last) = memmem::rfind(&writer.incomplete, b"\n\n") {
            // This may wait for lightningd to read. Only cln-plugin waits then, and lightningd always reads.
            writer.outgoing.send(&writer.incomplete[..last + 2])?;
            writer.incomplete.drain(..last + 2);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_where_none_is_taken_is_named() {
        for nothing in [json!({}), json!([]), Value::Null] {
            assert_eq!(takes_no_params(&nothing), Ok(()));
        }
        for (params, named) in [(json!({"versoin": 3}), "versoin"), (json!([7]), "7"), (json!("x"), "x")] {
            let error = takes_no_params(&params).unwrap_err();
            assert_eq!(error.code, Code::InvalidParams);
            assert!(error.message.contains(named), "{error:?}");
        }
    }
}
