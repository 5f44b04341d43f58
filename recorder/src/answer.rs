//! [`Answering`]: handles each message of `lightningd`.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use common::{BackupLock, Timestamp};
use serde_json::value::RawValue;

use crate::holding::{Holding, Wanted};
use crate::hook::IncomingWrite;
use crate::message::{DB_WRITE, Head, Incoming, Params, Unreadable};
use crate::outgoing::Outgoing;
use crate::pending::Answerer;
use crate::plugin::{BACKUP_STATUS, GETMANIFEST, INIT, PluginInbox, SHUTDOWN};
use crate::reply::{self, Code};
use crate::splitter::{MESSAGE_BYTES_MAX, Message};
use crate::stalls::{Outcome, STALL};
use crate::status::Status;
use crate::waited_copy::LastRecord;
use crate::watchdog::Watched;

/// The destination of writes: the backup, or a stand-in in tests.
pub trait Record {
    /// Opens the backup, if it is not open.
    ///
    /// # Errors
    /// When the backup cannot be used.
    fn open(&mut self) -> Result<(), Refusal>;

    /// Records a write; opens the backup first if it is not open. `Ok` means that the write is durable.
    ///
    /// # Errors
    /// When the write is not durable: `lightningd` must not commit it.
    fn record(&mut self, write: &IncomingWrite<'_>, received_at: Timestamp) -> Result<(), Refusal>;

    /// The last record of the writes that were recorded; `None` when that is not known.
    fn last_record(&self) -> Option<LastRecord>;

    /// Does the work that can wait until the answer to the last write is sent.
    fn after_reply(&mut self);

    /// Whether `lightningd` is in the middle of a transaction, for example a long COMMIT.
    fn is_in_transaction(&self) -> bool;

    /// Ends the run: no further write will come.
    fn end(&mut self);
}

/// The reason why a write was not recorded, and what to do about it, as text for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// The effect of a message on the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The conversation goes on.
    Continue,
    /// `lightningd` is stopping.
    Shutdown,
}

/// The state of `cln-plugin`'s handshake. An unexpected message would end `cln-plugin`, so none is forwarded to it.
#[derive(Debug, Clone, Copy)]
enum Handshake {
    Waiting,
    ManifestAsked,
    Complete,
}

/// Answers messages, in the order in which they came.
pub struct Answering<R> {
    destination: R,
    outgoing: Arc<Outgoing>,
    plugin: PluginInbox,
    handshake: Handshake,
    status: Arc<Status>,
    watched: Arc<Watched>,
    /// The off-site copies that answers wait for; `None` when there are none.
    holding: Option<Arc<Holding>>,
    /// The buffer for replies, reused.
    reply: Vec<u8>,
}

impl<R: Record> Answering<R> {
    /// Sends answers to `outgoing`, records writes in `destination`, and forwards all other messages to `plugin`.
    pub fn new(
        destination: R,
        outgoing: Arc<Outgoing>,
        plugin: PluginInbox,
        status: Arc<Status>,
        watched: Arc<Watched>,
    ) -> Self {
        let (handshake, reply) = (Handshake::Waiting, Vec::new());
        Self { destination, outgoing, plugin, handshake, status, watched, holding: None, reply }
    }

    /// Holds answers for these off-site copies, if there are any.
    #[must_use]
    pub fn holding(mut self, holding: Option<Arc<Holding>>) -> Self {
        self.holding = holding;
        self
    }

    /// Whether `lightningd` is in a transaction: an answered write may not be committed yet, or another may follow.
    pub fn is_in_transaction(&self) -> bool {
        self.destination.is_in_transaction()
    }

    /// Ends the run.
    pub fn end(&mut self) {
        self.destination.end();
    }

    /// Handles a message. A `db_write` is answered when this returns.
    ///
    /// # Errors
    /// Only when the answer cannot be sent.
    pub fn answer(&mut self, message: &Message<'_>) -> io::Result<Control> {
        let read_at = Instant::now();
        match message {
            Message::Whole(bytes) => self.answer_whole(bytes, read_at),
            Message::Oversized { head, bytes } => {
                self.refuse_oversized(&Head::of(head), *bytes)?;
                Ok(Control::Continue)
            }
        }
    }

    fn answer_whole(&mut self, message: &[u8], read_at: Instant) -> io::Result<Control> {
        match Incoming::parse(message) {
            Incoming::DbWrite { id, params } => self.db_write(id, params, read_at)?,
            Incoming::Request { id, method, params } => self.request(message, id, &method, params)?,
            Incoming::Notification { method, params } => {
                if method == SHUTDOWN {
                    if let (Handshake::Complete, Params::Present) = (self.handshake, params) {
                        // If cln-plugin has ended, there is nothing to shut down.
                        let _ended = self.plugin.forward(message);
                    }
                    return Ok(Control::Shutdown);
                }
                log::debug!("ignored a notification without subscription: {method}");
            }
            Incoming::Unreadable { id, reason } => {
                let code = match reason {
                    Unreadable::NotJson(_) => Code::ParseError,
                    Unreadable::NotARequest | Unreadable::NoId => Code::InvalidRequest,
                };
                self.refuse(id, code, format!("backup-recorder cannot understand what lightningd sent: {reason}"))?;
            }
        }
        Ok(Control::Continue)
    }

    fn db_write(&mut self, id: &str, params: Option<&RawValue>, read_at: Instant) -> io::Result<()> {
        let received_at = Timestamp::now();
        match IncomingWrite::parse(params) {
            Ok(write) => {
                self.watched.pending.begin(id);
                let recorded = self.destination.record(&write, received_at);
                let held = if recorded.is_ok() { self.hold() } else { Ok(()) };
                let outcome = if recorded.is_ok() && held.is_ok() { Outcome::Done } else { Outcome::Refused };
                match (self.watched.pending.end(outcome), recorded) {
                    (Answerer::Recorder, Ok(())) => {
                        if let Err(Refusal(text)) = held {
                            return self.refuse(Some(id), Code::NotShipped, text);
                        }
                        reply::write_continue(&mut self.reply, id);
                        let sent = self.outgoing.send(&self.reply);
                        self.status.answered(read_at.elapsed());
                        self.destination.after_reply();
                        sent
                    }
                    (Answerer::Recorder, Err(refusal)) => self.refuse_write(id, Code::NotRecorded, &refusal.0),
                    // The watchdog has refused it meanwhile. If it was recorded after all, lightningd has never committed it,
                    // as after a crash between hook and COMMIT.
                    (Answerer::Watchdog, recorded) => {
                        let came_of_it = recorded.map_or_else(|refusal| refusal.0, |()| "it is recorded".to_owned());
                        log::warn!(
                            "the call that had hung has returned after its write was refused: {came_of_it}. \
                             lightningd has not committed that write; the next start corrects the backup"
                        );
                        Ok(())
                    }
                }
            }
            Err(bad) => self.refuse_write(id, Code::InvalidParams, &bad.to_string()),
        }
    }

    /// Holds the answer to a write that is durable, until the off-site copies have enough.
    fn hold(&self) -> Result<(), Refusal> {
        let Some(holding) = &self.holding else { return Ok(()) };
        let Some(last) = self.destination.last_record() else { return Ok(()) };
        let pending = &self.watched.pending;
        if pending.begin_holding() == Answerer::Watchdog {
            return Ok(());
        }
        holding.hold(last, &mut |waited, copies| {
            // Short waits are what was asked for.
            if waited >= STALL / 2 {
                pending.note_holding(format!("the answer is held until {} has the change", copies()));
            }
            if self.outgoing.is_closed() { Wanted::No } else { Wanted::Yes }
        })
    }

    fn request(&mut self, message: &[u8], id: &str, method: &str, params: Params) -> io::Result<()> {
        if params == Params::Absent {
            return self.error(Some(id), Code::InvalidParams, "the request has no params");
        }
        self.handshake = match (self.handshake, method) {
            (Handshake::Waiting, GETMANIFEST) => Handshake::ManifestAsked,
            (Handshake::ManifestAsked, INIT)
            | (Handshake::Complete, BACKUP_STATUS | BackupLock::COMPACT_METHOD | BackupLock::COMPACT_METHOD_BESIDE) => {
                Handshake::Complete
            }
            (
                _,
                GETMANIFEST | INIT | BACKUP_STATUS | BackupLock::COMPACT_METHOD | BackupLock::COMPACT_METHOD_BESIDE,
            ) => {
                let text = format!("{method} out of turn: getmanifest and init come first, once each, in this order");
                return self.error(Some(id), Code::InvalidRequest, &text);
            }
            _ => return self.error(Some(id), Code::MethodNotFound, "backup-recorder has no such method"),
        };
        if method == INIT {
            self.watched.pending.begin_opening();
            let opened = self.destination.open();
            self.watched.pending.end(if opened.is_ok() { Outcome::Done } else { Outcome::Refused });
            if let Err(refusal) = opened {
                let text = format!("backup-recorder will refuse database writes: {refusal}");
                log::error!("{text}");
                self.status.problem(text);
            }
        }
        match self.plugin.forward(message) {
            Ok(()) => Ok(()),
            Err(ended) => self.error(Some(id), Code::Internal, &ended.to_string()),
        }
    }

    fn refuse_oversized(&mut self, head: &Head<'_>, bytes: u64) -> io::Result<()> {
        let reason = format!(
            "the message is {bytes} bytes long, and more than {MESSAGE_BYTES_MAX} are not taken. To let lightningd make this \
             change, take backup-recorder out of its configuration, start it, stop it, and put the plugin back: the next \
             start takes a snapshot, unless \"on_gap\" is \"stop\" in backup.lock"
        );
        match head {
            Head { id: Some(id), method: Some(method) } if method == DB_WRITE => {
                self.refuse_write(id, Code::InvalidRequest, &reason)
            }
            _ => self.refuse(head.id, Code::InvalidRequest, format!("backup-recorder refuses a message: {reason}")),
        }
    }

    fn refuse_write(&mut self, id: &str, code: Code, reason: &str) -> io::Result<()> {
        self.refuse(
            Some(id),
            code,
            format!("backup-recorder did not record this write, so lightningd must not commit it: {reason}"),
        )
    }

    /// Logs before it answers: after the answer `lightningd` is gone.
    fn refuse(&mut self, id: Option<&str>, code: Code, text: String) -> io::Result<()> {
        log::error!("{text}");
        log::logger().flush();
        self.error(id, code, &text)?;
        self.status.problem(text);
        Ok(())
    }

    fn error(&mut self, id: Option<&str>, code: Code, text: &str) -> io::Result<()> {
        reply::write_error(&mut self.reply, id, code, &text);
        self.outgoing.send(&self.reply)
    }
}
