//! [`Holding`]: answers to `lightningd` are held until the off-site copies have enough of what was recorded.
//!
//! Only a write that is durable already comes here. The process that ships says how far each copy is, on a pipe; on another one it is
//! told what to ship at once. Neither of them, nor the store, can hold an answer for longer than `backup.lock` allows: time is
//! measured by a clock that never leaps, and nothing here waits for a process.

use std::io::{BufRead, Write as _};
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::ship_words::{FromShip, ToShip, from_line, to_line};
use common::{OffsiteEntry, OffsiteStatus, Timestamp, WaitStatus, WaitThen};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::answer::Refusal;
use crate::status::Status;
use crate::waited_copy::{LastRecord, Shipped, Turn, Verdict, WaitedCopy};

/// The interval at which a held answer is looked at although nothing was said: `lightningd` may be gone, and a process that ships may
/// have been started that was told nothing.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Whether a held answer is still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// `lightningd` waits for it.
    Yes,
    /// `lightningd` is gone.
    No,
}

/// The copies that answers wait for, shared by the thread that answers and those that follow the process that ships.
#[derive(Debug)]
pub struct Holding {
    lightning_dir: PathBuf,
    status: Arc<Status>,
    copies: Mutex<Vec<(String, WaitedCopy)>>,
    /// How far a copy is has changed.
    changed: Condvar,
    /// Standard input of the process that ships, which never blocks; `None` while there is no such process.
    to_ship: Mutex<Option<ChildStdin>>,
}

impl Holding {
    /// The copies among these that answers wait for; `None` when there is none.
    pub fn new(lightning_dir: &Path, copies: &[OffsiteEntry], status: &Arc<Status>) -> Option<Arc<Self>> {
        let now = Instant::now();
        let waited = |entry: &OffsiteEntry| Some((entry.url.clone(), WaitedCopy::new(entry.wait?, now)));
        let copies: Vec<_> = copies.iter().filter_map(waited).collect();
        (!copies.is_empty()).then(|| {
            Arc::new(Self {
                lightning_dir: lightning_dir.to_owned(),
                status: Arc::clone(status),
                copies: Mutex::new(copies),
                changed: Condvar::new(),
                to_ship: Mutex::default(),
            })
        })
    }

    /// Whether answers wait for the copy with this URL; `None` when they never do.
    pub fn status_of(&self, url: &str) -> Option<WaitStatus> {
        self.copies().iter().find(|(known, _)| known == url).map(|(_, copy)| copy.status())
    }

    /// Holds the answer to a write until all copies have enough, or their time is over. `held` is called now and then while it is
    /// held, with the copies that it is held for.
    ///
    /// # Errors
    /// When the time of a copy is over without which the node must not go on.
    pub fn hold(
        &self,
        last: LastRecord,
        held: &mut dyn FnMut(Duration, &dyn Fn() -> String) -> Wanted,
    ) -> Result<(), Refusal> {
        let began = Instant::now();
        let mut copies = self.copies();
        let mut pending = Vec::new();
        for (index, (url, copy)) in copies.iter_mut().enumerate() {
            let (verdict, turn) = copy.recorded(last, began);
            self.take_turn(url, copy, turn);
            if verdict == Verdict::Held {
                pending.push(index);
            }
        }
        if copies.iter().any(|(_, copy)| copy.is_shipped_at_once(last)) {
            self.tell(&ToShip::Recorded(last.seq));
        }
        let mut said = Duration::ZERO;
        loop {
            let waited = began.elapsed();
            let mut refused = None;
            pending.retain(|&index| {
                let (url, copy) = &mut copies[index];
                let (verdict, turn) = copy.look_again(last, Instant::now());
                self.take_turn(url, copy, turn);
                if verdict == Verdict::Given {
                    return false;
                }
                if waited < copy.longest() {
                    return true;
                }
                match copy.rule().then() {
                    WaitThen::Stop => refused = Some((url.clone(), copy.rule().longest())),
                    WaitThen::GoOn => {
                        let turn = copy.give_up(Timestamp::now());
                        self.take_turn(url, copy, turn);
                    }
                }
                false
            });
            if let Some((url, longest)) = refused {
                drop(copies);
                return Err(self.refusal(&url, longest));
            }
            let Some(left) = pending.iter().map(|&index| copies[index].1.longest().saturating_sub(waited)).min() else {
                return Ok(());
            };
            if waited >= said + LOOK_EVERY {
                said = waited;
                let urls = || pending.iter().map(|&index| copies[index].0.as_str()).collect::<Vec<_>>().join(", ");
                if held(waited, &urls) == Wanted::No {
                    return Ok(());
                }
                self.tell(&ToShip::Recorded(last.seq));
            }
            let woken = self.changed.wait_timeout(copies, left.min(LOOK_EVERY));
            copies = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Follows what a process that ships says, until it ends.
    pub fn follow(&self, lines: impl BufRead) {
        for line in lines.lines().map_while(Result::ok) {
            match from_line(&line) {
                Some(FromShip::Shipped { url, through, checksum }) => {
                    let shipped = Shipped { through, checksum };
                    self.change(&url, |copy| copy.acknowledge(shipped, Instant::now()));
                }
                Some(FromShip::NeedsNode { url }) => self.change(&url, |copy| {
                    copy.node_is_needed(Instant::now());
                    None
                }),
                // Of another release.
                None => log::debug!("offsite: a line is not understood: {line}"),
            }
        }
    }

    fn change(&self, url: &str, change: impl FnOnce(&mut WaitedCopy) -> Option<Turn>) {
        let mut copies = self.copies();
        if let Some((_, copy)) = copies.iter_mut().find(|(known, _)| known == url) {
            let turn = change(copy);
            self.take_turn(url, copy, turn);
        }
        drop(copies);
        self.changed.notify_all();
    }

    /// A process that ships has started, and takes orders here.
    ///
    /// # Errors
    /// When the pipe cannot be made one that never blocks.
    pub fn begin_telling(&self, to_ship: ChildStdin) -> std::io::Result<()> {
        fcntl_setfl(&to_ship, fcntl_getfl(&to_ship)? | OFlags::NONBLOCK)?;
        *self.to_ship() = Some(to_ship);
        for (url, copy) in self.copies().iter().filter(|(_, copy)| copy.degraded_since().is_some()) {
            self.tell_degraded(url, copy);
        }
        Ok(())
    }

    /// The process that ships has ended.
    pub fn end_telling(&self) {
        *self.to_ship() = None;
    }

    fn tell(&self, words: &ToShip) {
        let mut to_ship = self.to_ship();
        let told = to_ship.as_mut().map_or(Ok(()), |pipe| pipe.write_all(to_line(words).as_bytes()));
        if let Err(error) = told {
            // The pipe is full, because the process hangs. When it goes on, it finds the pipe closed and ends; the next one gets all orders.
            log::warn!("offsite: the process that ships takes no orders ({error}); it is to end");
            *to_ship = None;
        }
    }

    fn tell_degraded(&self, url: &str, copy: &WaitedCopy) {
        let degraded_since = copy.degraded_since().map(Timestamp::as_micros);
        self.tell(&ToShip::Answers { url: url.to_owned(), degraded_since });
    }

    /// Says a change to the operator and to the process that ships, which says it in the copy.
    fn take_turn(&self, url: &str, copy: &WaitedCopy, turn: Option<Turn>) {
        let Some(turn) = turn else { return };
        match turn {
            Turn::Began => log::info!("answers to lightningd wait for {url} from now on"),
            Turn::Degraded => {
                let text = format!(
                    "lightningd goes on without {url}, which has not got the newest changes within {} s: until it has caught up, no \
                     answer waits for it, and what is recorded meanwhile is on this machine only{}",
                    copy.longest().as_secs(),
                    self.reason(url)
                );
                log::error!("{text}");
                self.status.problem(text);
            }
            Turn::Recovered(since) => {
                log::warn!("{url} has caught up: answers to lightningd wait for it again. They had not since {since}");
            }
        }
        self.tell_degraded(url, copy);
    }

    fn refusal(&self, url: &str, longest: Duration) -> Refusal {
        Refusal(format!(
            "backup-recorder refuses this write, so lightningd must not commit it: {url} has not got it within {} s, and backup.lock \
             says to \"stop\" then{}. Make the copy reachable again, or write \"then\": \"go_on\" into its `wait` in backup.lock (or \
             leave `wait` out), then start lightningd: nothing is lost",
            longest.as_secs(),
            self.reason(url)
        ))
    }

    /// Why a copy is behind, if the process that ships has said so.
    fn reason(&self, url: &str) -> String {
        let known = OffsiteStatus::read(&self.lightning_dir, url).and_then(|status| status.last_error);
        known.map_or_else(String::new, |error| format!(" ({error})"))
    }

    fn copies(&self) -> MutexGuard<'_, Vec<(String, WaitedCopy)>> {
        // Each change of a copy is complete by itself.
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_ship(&self) -> MutexGuard<'_, Option<ChildStdin>> {
        self.to_ship.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const LEEWAY: Duration = Duration::from_millis(900);

    fn holding(copies: &[(&str, u64, u64, &str)]) -> Arc<Holding> {
        let entry = |&(url, changes, seconds, then): &(&str, u64, u64, &str)| {
            let wait = serde_json::json!({"changes": changes, "seconds": seconds, "then": then});
            serde_json::from_value(serde_json::json!({"url": url, "wait": wait})).unwrap()
        };
        let entries: Vec<OffsiteEntry> = copies.iter().map(entry).collect();
        Holding::new(Path::new("/nowhere"), &entries, &Arc::default()).unwrap()
    }

    fn say(holding: &Holding, url: &str, through: u64) {
        let words = FromShip::Shipped { url: url.to_owned(), through, checksum: Some(9) };
        holding.follow(to_line(&words).as_bytes());
    }

    fn record(seq: u64) -> LastRecord {
        LastRecord { seq, checksum: 9 }
    }

    fn hold(holding: &Holding, seq: u64) -> (Result<(), Refusal>, Duration) {
        let began = Instant::now();
        (holding.hold(record(seq), &mut |_, _| Wanted::Yes), began.elapsed())
    }

    fn is_degraded(holding: &Holding, url: &str) -> bool {
        holding.status_of(url).unwrap().degraded_since.is_some()
    }

    #[test]
    fn without_a_copy_that_is_waited_for_there_is_nothing_to_ask() {
        let entry: OffsiteEntry = serde_json::from_str(r#"{"url": "/a"}"#).unwrap();
        assert!(Holding::new(Path::new("/nowhere"), &[entry], &Arc::default()).is_none());
    }

    #[test]
    fn an_answer_is_held_until_every_copy_has_the_change() {
        let holding = holding(&[("/a", 0, 60, "stop"), ("/b", 1, 60, "go_on")]);
        say(&holding, "/a", 5);
        say(&holding, "/b", 4);
        thread::scope(|scope| {
            let held = scope.spawn(|| hold(&holding, 6));
            for (url, through) in [("/a", 6), ("/elsewhere", 9)] {
                thread::sleep(Duration::from_millis(150));
                assert!(!held.is_finished());
                say(&holding, url, through);
            }
            thread::sleep(Duration::from_millis(150));
            assert!(!held.is_finished(), "the other one lacks two");
            say(&holding, "/b", 5);
            let (answer, took) = held.join().unwrap();
            assert!(answer.is_ok() && took < Duration::from_secs(30), "{took:?}");
        });
    }

    #[test]
    fn an_answer_is_held_for_as_long_as_it_may_be_and_then_each_copy_has_its_own_end() {
        let one = holding(&[("/a", 0, 1, "go_on"), ("/b", 0, 60, "go_on")]);
        say(&one, "/a", 5);
        say(&one, "/b", 6);
        let (answer, took) = hold(&one, 6);
        assert!(
            answer.is_ok() && (Duration::from_secs(1)..Duration::from_secs(1) + LEEWAY).contains(&took),
            "{took:?}"
        );
        assert!(is_degraded(&one, "/a") && !is_degraded(&one, "/b"));
        say(&one, "/b", 7);
        let (answer, took) = hold(&one, 7);
        assert!(answer.is_ok() && took < LEEWAY, "{took:?}: it is degraded");
        say(&one, "/a", 7);
        assert!(!is_degraded(&one, "/a"));
        let stop = holding(&[("/a", 0, 1, "stop")]);
        say(&stop, "/a", 5);
        let (answer, took) = hold(&stop, 6);
        let Refusal(text) = answer.unwrap_err();
        assert!((Duration::from_secs(1)..Duration::from_secs(1) + LEEWAY).contains(&took), "{took:?}");
        assert!(text.contains("/a has not got it within 1 s") && text.contains("\"go_on\""), "{text}");
    }

    #[test]
    fn a_held_answer_that_is_not_wanted_any_more_is_let_go() {
        let holding = holding(&[("/a", 0, 60, "stop")]);
        say(&holding, "/a", 5);
        let mut seen = String::new();
        let began = Instant::now();
        let answer = holding.hold(record(6), &mut |_, urls| {
            seen = urls();
            Wanted::No
        });
        assert!(answer.is_ok() && began.elapsed() < Duration::from_secs(30));
        assert_eq!(seen, "/a");
        assert!(!is_degraded(&holding, "/a"));
    }
}
