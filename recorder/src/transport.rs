//! The conversation with `lightningd`: one thread reads its messages and answers them in order, until it is over.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::answer::{Answering, Control, Record};
use crate::splitter::Splitter;

/// The time without a message after the `shutdown` notification after which the recorder exits.
///
/// `lightningd` keeps committing after it; in 40 measured stops the last write came 26 ms after the notification. A
/// plugin that left at once took the node down with it in 15 of 40 stops.
pub const QUIET_AFTER_SHUTDOWN: Duration = Duration::from_millis(300);

/// The time from the `shutdown` notification on after which the recorder exits even though `lightningd` is in a transaction: on
/// a slow disk a COMMIT takes longer than [`QUIET_AFTER_SHUTDOWN`], and more may come after it.
///
/// `lightningd` gives its plugins 30 s from the notification on, and ends them then.
pub const STAY_FOR_TRANSACTION: Duration = Duration::from_secs(25);

/// The end of a conversation. None of them is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `lightningd` closed its end.
    EndOfInput,
    /// `lightningd` announced its stop, sent nothing for [`QUIET_AFTER_SHUTDOWN`], and is in no transaction.
    Quiet,
    /// `lightningd` reads no answers any more.
    OutputClosed,
}

/// Reads from `input` and has every message answered, until the conversation ends. Then it closes the destination.
///
/// # Errors
/// When `input` cannot be read.
pub fn converse<R: Record>(input: impl AsFd, answering: Answering<R>) -> io::Result<End> {
    converse_staying(STAY_FOR_TRANSACTION, input, answering)
}

fn converse_staying<R: Record>(stay: Duration, input: impl AsFd, mut answering: Answering<R>) -> io::Result<End> {
    let end = answer_until_the_end(stay, &input, &mut answering);
    answering.end();
    end
}

fn answer_until_the_end<R: Record>(stay: Duration, input: &impl AsFd, answering: &mut Answering<R>) -> io::Result<End> {
    let mut splitter = Splitter::default();
    // Since the shutdown notification: until when a transaction of lightningd is waited for.
    let mut stops: Option<Instant> = None;
    loop {
        // Every message starts the wait anew: it begins when all that came has been answered.
        if let Some(until) = stops
            && wait_readable(input, Some(QUIET_AFTER_SHUTDOWN))? == Wait::TimedOut
        {
            if Instant::now() >= until || !answering.is_in_transaction() {
                return Ok(End::Quiet);
            }
            continue;
        }
        let count = match rustix::io::read(input, splitter.space()) {
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            // The other end may have made a shared pipe non-blocking.
            Err(Errno::AGAIN) => {
                if stops.is_none() {
                    wait_readable(input, None)?;
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        splitter.filled(count);
        while let Some(message) = if count == 0 { splitter.finish() } else { splitter.next_message() } {
            match answering.answer(&message) {
                Ok(Control::Shutdown) => stops = stops.or_else(|| Some(Instant::now() + stay)),
                Ok(Control::Continue) => {}
                Err(_gone) => return Ok(End::OutputClosed),
            }
        }
        if count == 0 {
            return Ok(End::EndOfInput);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wait {
    Readable,
    TimedOut,
}

fn wait_readable(input: &impl AsFd, timeout: Option<Duration>) -> io::Result<Wait> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(input, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) if left.is_some() => return Ok(Wait::TimedOut),
            // Also when the other end is closed: the read returns 0 then.
            Ok(_) => return Ok(Wait::Readable),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::{self, JoinHandle};

    use common::{DataVersion, Timestamp};
    use tokio::sync::mpsc::UnboundedReceiver;

    use crate::answer::Refusal;
    use crate::hook::IncomingWrite;
    use crate::outgoing::Outgoing;
    use crate::plugin::PluginInbox;
    use crate::status::Status;
    use crate::waited_copy::LastRecord;

    /// Records in memory and refuses version 13.
    struct Notebook {
        in_transaction: Arc<AtomicBool>,
        seen: std::sync::mpsc::Sender<String>,
        answers: PipeWriter,
        unread: std::sync::mpsc::Sender<u64>,
    }

    impl Record for Notebook {
        fn open(&mut self) -> Result<(), Refusal> {
            self.seen.send("open".to_owned()).unwrap();
            Err(Refusal("nothing to open".to_owned()))
        }

        fn record(&mut self, write: &IncomingWrite<'_>, _received_at: Timestamp) -> Result<(), Refusal> {
            if write.data_version == DataVersion::new(13) {
                return Err(Refusal("the disk is full; make room".to_owned()));
            }
            self.seen.send(format!("{}: {}", write.data_version, write.statements.join("; "))).unwrap();
            Ok(())
        }

        fn last_record(&self) -> Option<LastRecord> {
            None
        }

        fn after_reply(&mut self) {
            self.unread.send(rustix::io::ioctl_fionread(&self.answers).unwrap()).unwrap();
        }

        fn is_in_transaction(&self) -> bool {
            self.in_transaction.load(Ordering::Relaxed)
        }

        fn end(&mut self) {}
    }

    /// A conversation in another thread, with the other ends of its pipes.
    struct Talk {
        say: PipeWriter,
        hear: PipeReader,
        seen: std::sync::mpsc::Receiver<String>,
        /// The bytes of unread answers, at each call of `after_reply`.
        unread: std::sync::mpsc::Receiver<u64>,
        forwarded: UnboundedReceiver<Vec<u8>>,
        status: Arc<Status>,
        /// Whether `lightningd` is to be seen in a transaction.
        in_transaction: Arc<AtomicBool>,
        end: JoinHandle<io::Result<End>>,
    }

    fn talk() -> Talk {
        talk_staying(STAY_FOR_TRANSACTION)
    }

    fn talk_staying(stay: Duration) -> Talk {
        let (input, say) = io::pipe().unwrap();
        let (hear, output) = io::pipe().unwrap();
        let (sender, seen) = std::sync::mpsc::channel();
        let (inbox, forwarded) = PluginInbox::new();
        let status = Arc::new(Status::default());
        let (unread_sender, unread) = std::sync::mpsc::channel();
        let in_transaction = Arc::new(AtomicBool::new(false));
        let notebook = Notebook {
            in_transaction: Arc::clone(&in_transaction),
            seen: sender,
            answers: output.try_clone().unwrap(),
            unread: unread_sender,
        };
        let outgoing = Arc::new(Outgoing::new(output));
        let answering = Answering::new(notebook, outgoing, inbox, Arc::clone(&status), Arc::default());
        let end = thread::spawn(move || converse_staying(stay, input, answering));
        Talk { say, hear, seen, unread, forwarded, status, in_transaction, end }
    }

    impl Talk {
        /// Sends the messages, closes the input, and returns the replies.
        fn finish(mut self, messages: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
            self.say.write_all(messages.as_bytes()).unwrap();
            drop(self.say);
            let mut replies = String::new();
            self.hear.read_to_string(&mut replies).unwrap();
            assert_eq!(self.end.join().unwrap().unwrap(), End::EndOfInput);
            let mut forwarded = Vec::new();
            while let Ok(message) = self.forwarded.try_recv() {
                forwarded.push(String::from_utf8(message).unwrap());
            }
            (replies.split_terminator("\n\n").map(str::to_owned).collect(), self.seen.iter().collect(), forwarded)
        }
    }

    fn db_write(id: u32, data_version: u32) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":"w{id}","method":"db_write","params":{{"data_version":{data_version},"writes":["A","B"]}}}}"#
        )
    }

    fn go_on(id: u32) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":"w{id}","result":{{"result":"continue"}}}}"#)
    }

    #[test]
    fn writes_are_answered_in_order_and_the_rest_is_forwarded_as_it_came() {
        let manifest = r#"{"jsonrpc":"2.0","id":"m","method":"getmanifest","params":{}}"#;
        let init = r#"{"jsonrpc":"2.0","id":"i","method":"init","params":{"options":{}}}"#;
        let talk = talk();
        let status = Arc::clone(&talk.status);
        let all = [db_write(1, 5), manifest.to_owned(), db_write(2, 6), init.to_owned(), db_write(3, 7)].join("\n\n");
        let (replies, seen, forwarded) = talk.finish(&all);
        assert_eq!(replies, [go_on(1), go_on(2), go_on(3)]);
        assert_eq!(seen, ["5: A; B", "6: A; B", "open", "7: A; B"]);
        assert_eq!(forwarded, [format!("{manifest}\n\n"), format!("{init}\n\n")]);
        let problem = status.to_json()["last_problem"]["text"].to_string();
        assert!(problem.contains("nothing to open"), "{problem}");
    }

    #[test]
    fn bad_messages_are_refused_by_their_id_and_the_next_write_is_recorded() {
        let bad = [
            ("nonsense", "null", -32700),
            (r#"{"id":"x1","method":"db_write","params":{"data_version":1"#, "\"x1\"", -32700),
            (r#"{"id":"x2","method":"db_write"}"#, "\"x2\"", -32602),
            (r#"{"id":"x3","method":"db_write","params":{"data_version":"1","writes":["A"]}}"#, "\"x3\"", -32602),
            (r#"{"id":"x4","method":"db_write","params":{"data_version":1,"writes":[]}}"#, "\"x4\"", -32602),
            (r#"{"method":"db_write","params":{"data_version":1,"writes":["A"]}}"#, "null", -32600),
            (r#"{"id":"x5"}"#, "\"x5\"", -32600),
            (r#"{"id":"x6","method":"no-such-method","params":{}}"#, "\"x6\"", -32601),
            (r#"{"id":"x7","method":"init"}"#, "\"x7\"", -32602),
            (r#"{"id":"x9","method":"init","params":{}}"#, "\"x9\"", -32600),
            (r#"{"id":"x9","method":"backup-status","params":{}}"#, "\"x9\"", -32600),
            (r#"{"id":"x8","method":"db_write","params":{"data_version":13,"writes":["A"]}}"#, "\"x8\"", -32000),
        ];
        for (message, id, code) in bad {
            let (replies, seen, forwarded) = talk().finish(&format!("{message}\n\n{}\n\n", db_write(2, 9)));
            let error: serde_json::Value = serde_json::from_str(&replies[0]).unwrap();
            assert_eq!(error["id"].to_string(), id, "{message}");
            assert_eq!(error["error"]["code"], code, "{message}");
            assert!(error["error"]["message"].as_str().unwrap().len() > 20, "{message}: {error}");
            assert_eq!(replies[1..], [go_on(2)], "{message}");
            assert_eq!(seen, ["9: A; B"], "{message}");
            assert_eq!(forwarded, [""; 0], "{message}");
        }
    }

    #[test]
    fn a_refusal_says_what_happened_and_becomes_the_last_problem() {
        let talk = talk();
        let status = Arc::clone(&talk.status);
        let (replies, seen, _) = talk.finish(&db_write(1, 13));
        assert!(replies[0].contains("must not commit it: the disk is full; make room"), "{}", replies[0]);
        assert!(seen.is_empty());
        assert!(status.to_json()["last_problem"]["text"].as_str().unwrap().contains("the disk is full"));
    }

    #[test]
    fn notifications_are_never_answered_and_reach_cln_plugin_after_the_handshake() {
        let shutdown = r#"{"jsonrpc":"2.0","method":"shutdown","params":{}}"#;
        let handshake = [r#"{"id":1,"method":"getmanifest","params":{}}"#, r#"{"id":2,"method":"init","params":{}}"#];
        let others = [r#"{"method":"shutdown"}"#, r#"{"method":"x","params":{}}"#];
        let all = [shutdown, handshake[0], shutdown, handshake[1], shutdown, others[0], others[1]].join("\n\n");
        let (replies, _, forwarded) = talk().finish(&all);
        assert_eq!(replies, [""; 0]);
        assert_eq!(forwarded, [handshake[0], handshake[1], shutdown].map(|message| format!("{message}\n\n")));
    }

    #[test]
    fn requests_are_answered_with_an_error_when_cln_plugin_has_ended() {
        let mut talk = talk();
        talk.forwarded.close();
        let all = format!("{}\n\n{}", r#"{"id":1,"method":"getmanifest","params":{}}"#, db_write(2, 9));
        let (replies, seen, _) = talk.finish(&all);
        assert!(replies[0].starts_with(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603"#), "{}", replies[0]);
        assert_eq!(replies[1..], [go_on(2)]);
        assert_eq!(seen, ["9: A; B"]);
    }

    /// Status, sealing and log lines come after the answer.
    #[test]
    fn an_answer_is_sent_before_anything_else_is_done() {
        let mut talk = talk();
        let all = [db_write(1, 5), db_write(2, 6), db_write(3, 13), db_write(4, 7)].join("\n\n");
        talk.say.write_all(all.as_bytes()).unwrap();
        drop(talk.say);
        assert_eq!(talk.end.join().unwrap().unwrap(), End::EndOfInput);
        let unread: Vec<u64> = talk.unread.iter().collect();
        let answer = go_on(1).len() as u64 + 2;
        assert_eq!(unread[..2], [answer, 2 * answer]);
        assert!(unread.len() == 3 && unread[2] > 3 * answer, "{unread:?}: a refusal is between them");
    }

    const SHUTDOWN: &str = r#"{"jsonrpc":"2.0","method":"shutdown","params":{}}"#;

    /// The tolerance for delays on a busy machine.
    const LEEWAY: Duration = Duration::from_millis(1200);

    fn stayed(since: Instant) {
        let stayed = since.elapsed();
        assert!((QUIET_AFTER_SHUTDOWN..QUIET_AFTER_SHUTDOWN + LEEWAY).contains(&stayed), "{stayed:?}");
    }

    #[test]
    fn after_a_shutdown_it_stays_until_nothing_has_come_for_a_while() {
        let mut talk = talk();
        talk.say.write_all(format!("{SHUTDOWN}\n\n").as_bytes()).unwrap();
        let mut last = Instant::now();
        for id in 1..=5 {
            thread::sleep(QUIET_AFTER_SHUTDOWN / 2);
            last = Instant::now();
            talk.say.write_all(format!("{}\n\n", db_write(id, id)).as_bytes()).unwrap();
        }
        assert_eq!(talk.end.join().unwrap().unwrap(), End::Quiet);
        stayed(last);
        assert_eq!(talk.seen.iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5].map(|id| format!("{id}: A; B")));
        let mut replies = String::new();
        talk.hear.read_to_string(&mut replies).unwrap();
        assert_eq!(replies.split_terminator("\n\n").collect::<Vec<_>>(), [1, 2, 3, 4, 5].map(go_on));
    }

    #[test]
    fn after_a_shutdown_it_stays_as_long_as_lightningd_is_in_a_transaction() {
        let mut talk = talk();
        talk.in_transaction.store(true, Ordering::Relaxed);
        talk.say.write_all(format!("{SHUTDOWN}\n\n{}\n\n", db_write(1, 5)).as_bytes()).unwrap();
        // The COMMIT takes so long; another write follows.
        thread::sleep(4 * QUIET_AFTER_SHUTDOWN);
        talk.say.write_all(format!("{}\n\n", db_write(2, 6)).as_bytes()).unwrap();
        thread::sleep(2 * QUIET_AFTER_SHUTDOWN);
        assert!(!talk.end.is_finished());
        talk.in_transaction.store(false, Ordering::Relaxed);
        assert_eq!(talk.end.join().unwrap().unwrap(), End::Quiet);
        assert_eq!(talk.seen.iter().collect::<Vec<_>>(), ["5: A; B", "6: A; B"]);
    }

    #[test]
    fn a_transaction_without_end_is_not_waited_for_for_ever_nor_after_lightningd_has_gone() {
        let mut endless = talk_staying(3 * QUIET_AFTER_SHUTDOWN);
        endless.in_transaction.store(true, Ordering::Relaxed);
        let before = Instant::now();
        endless.say.write_all(format!("{SHUTDOWN}\n\n").as_bytes()).unwrap();
        assert_eq!(endless.end.join().unwrap().unwrap(), End::Quiet);
        assert!(before.elapsed() >= 3 * QUIET_AFTER_SHUTDOWN && before.elapsed() < STAY_FOR_TRANSACTION);
        let mut gone = talk();
        gone.in_transaction.store(true, Ordering::Relaxed);
        gone.say.write_all(format!("{SHUTDOWN}\n\n").as_bytes()).unwrap();
        thread::sleep(2 * QUIET_AFTER_SHUTDOWN);
        drop(gone.say);
        assert_eq!(gone.end.join().unwrap().unwrap(), End::EndOfInput);
    }

    #[test]
    fn half_a_message_after_a_shutdown_is_not_waited_for_any_longer() {
        let mut talk = talk();
        let all = format!("{SHUTDOWN}\n\n{}\n\n{}", db_write(1, 5), &db_write(2, 6)[..40]);
        let last = Instant::now();
        talk.say.write_all(all.as_bytes()).unwrap();
        assert_eq!(talk.end.join().unwrap().unwrap(), End::Quiet);
        stayed(last);
        assert_eq!(talk.seen.iter().collect::<Vec<_>>(), ["5: A; B"]);
    }

    #[test]
    fn without_a_shutdown_it_waits_however_quiet_it_is() {
        let mut talk = talk();
        thread::sleep(QUIET_AFTER_SHUTDOWN * 2);
        talk.say.write_all(format!("{}\n\n", db_write(1, 5)).as_bytes()).unwrap();
        assert_eq!(talk.seen.recv().unwrap(), "5: A; B");
        thread::sleep(QUIET_AFTER_SHUTDOWN * 2);
        let (replies, seen, _) = talk.finish(&db_write(2, 6));
        assert_eq!((replies, seen), (vec![go_on(1), go_on(2)], vec!["6: A; B".to_owned()]));
    }

    #[test]
    fn it_ends_when_the_output_is_closed() {
        let mut talk = talk();
        drop(talk.hear);
        talk.say.write_all(format!("{}\n\n", db_write(1, 5)).as_bytes()).unwrap();
        assert_eq!(talk.end.join().unwrap().unwrap(), End::OutputClosed);
    }
}
