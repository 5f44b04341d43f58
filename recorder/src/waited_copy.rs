//! [`WaitedCopy`]: an off-site copy that answers wait for: whether the next one does. Pure, with the time passed in.

use std::time::{Duration, Instant};

use common::{OffsiteWait, Timestamp, WaitState, WaitStatus, WaitThen};

/// The least time that a node gets to give the key of a copy after its start.
const NEEDS_NODE_AT_LEAST: Duration = Duration::from_secs(120);

/// The last record of a write, which is durable in the backup or in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRecord {
    /// The number of the record.
    pub seq: u64,
    /// Its checksum, which covers all records before it.
    pub checksum: u32,
}

/// The record up to which a restore from the copy would come, as the process that ships has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shipped {
    /// The number of the record.
    pub through: u64,
    /// Its checksum, if that is known.
    pub checksum: Option<u32>,
}

/// What becomes of an answer, as far as this copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is given.
    Given,
    /// It is held.
    Held,
}

/// A change that the operator and the copy have to know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Answers wait from now on, for the first time in this run.
    Began,
    /// They do not any more.
    Degraded,
    /// They do again. They have not done so since the time given.
    Recovered(Timestamp),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The recorder has just started, and the process that ships has not said how far the copy is.
    Starting {
        /// Answers may be given until then.
        until: Instant,
        /// Whether the process needs the node: the key of an encrypted `hsm_secret` comes from the node, which cannot give it while an
        /// answer is held.
        needs_node: bool,
    },
    /// Every answer that was given waited.
    InStep,
    /// Answers were given although the copy lacks too much.
    Degraded {
        since: Timestamp,
        /// A record that was made meanwhile, and when.
        probe: Option<(u64, Instant)>,
        /// Whether such a record came to the copy in good time: answers are held again. The copy is in step with the first one
        /// that is given for it.
        rejoins: bool,
    },
}

/// A copy that answers wait for.
#[derive(Debug, Clone)]
pub struct WaitedCopy {
    rule: OffsiteWait,
    shipped: Option<Shipped>,
    /// The newest record of this run; `None` before its first write. What earlier runs have answered is known with it only.
    newest: Option<LastRecord>,
    phase: Phase,
}

impl WaitedCopy {
    /// A copy by its rule in `backup.lock`, at the start of the recorder.
    pub fn new(rule: OffsiteWait, now: Instant) -> Self {
        Self {
            rule,
            shipped: None,
            newest: None,
            phase: Phase::Starting { until: now + rule.longest(), needs_node: false },
        }
    }

    /// The rule.
    pub fn rule(&self) -> OffsiteWait {
        self.rule
    }

    /// Since when answers do not wait, although they should.
    pub fn degraded_since(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Degraded { since, .. } => Some(since),
            Phase::Starting { .. } | Phase::InStep => None,
        }
    }

    /// The state, for `backup-status`.
    pub fn status(&self) -> WaitStatus {
        let state = match self.phase {
            Phase::Starting { .. } => WaitState::Starting,
            Phase::InStep => WaitState::Waiting,
            Phase::Degraded { .. } => WaitState::Degraded,
        };
        WaitStatus::new(self.rule, Some(state), self.degraded_since().map(Timestamp::as_micros))
    }

    /// How many records up to this one the copy lacks.
    ///
    /// A seq alone does not say that the copy has the record: after a failed sync another one may have got its seq. So the last one
    /// counts only by its checksum.
    fn lacks(&self, last: LastRecord) -> u64 {
        let through = self.shipped.map_or(0, |shipped| shipped.through);
        match last.seq.checked_sub(through) {
            Some(0) => u64::from(self.shipped.and_then(|shipped| shipped.checksum) != Some(last.checksum)),
            Some(lacks) => lacks,
            // Of records that this run has not made.
            None => last.seq,
        }
    }

    fn lacks_too_much(&self, last: LastRecord) -> bool {
        self.lacks(last) > self.rule.changes()
    }

    /// Whether so much is missing that it is to be shipped at once.
    pub fn is_shipped_at_once(&self, last: LastRecord) -> bool {
        self.lacks(last) >= self.rule.ships_from()
    }

    /// A write is durable, and is to be answered.
    pub fn recorded(&mut self, last: LastRecord, now: Instant) -> (Verdict, Option<Turn>) {
        self.newest = Some(last);
        if !self.lacks_too_much(last) {
            return (Verdict::Given, self.caught_up());
        }
        if self.is_given_at_start(now) {
            return (Verdict::Given, None);
        }
        let verdict = match &mut self.phase {
            Phase::Degraded { probe, rejoins: false, .. } => {
                probe.get_or_insert((last.seq, now));
                Verdict::Given
            }
            Phase::Starting { .. } | Phase::InStep | Phase::Degraded { .. } => Verdict::Held,
        };
        (verdict, None)
    }

    /// Whether an answer is given because it is not known yet how far the copy is.
    ///
    /// A node that is to stop without the copy must not run for a while at each start: only one that is needed for the key does.
    fn is_given_at_start(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Starting { until, needs_node } => {
                let may_go_on = self.rule.then() == WaitThen::GoOn || needs_node;
                self.shipped.is_none() && may_go_on && now < until
            }
            Phase::InStep | Phase::Degraded { .. } => false,
        }
    }

    /// The process that ships needs the node before it can say how far the copy is. The node may be slow to start.
    pub fn node_is_needed(&mut self, now: Instant) {
        if let Phase::Starting { until, needs_node: needs_node @ false } = &mut self.phase {
            *needs_node = true;
            *until = now + self.rule.longest().max(NEEDS_NODE_AT_LEAST);
        }
    }

    /// Looks again at an answer that is held.
    pub fn look_again(&mut self, last: LastRecord, now: Instant) -> (Verdict, Option<Turn>) {
        if !self.lacks_too_much(last) {
            return (Verdict::Given, self.caught_up());
        }
        (if self.is_given_at_start(now) { Verdict::Given } else { Verdict::Held }, None)
    }

    /// An answer was held for as long as it may be, and is given.
    pub fn give_up(&mut self, at: Timestamp) -> Option<Turn> {
        let before = self.degraded_since();
        self.phase = Phase::Degraded { since: before.unwrap_or(at), probe: None, rejoins: false };
        before.is_none().then_some(Turn::Degraded)
    }

    /// The process that ships has said how far the copy is.
    pub fn acknowledge(&mut self, shipped: Shipped, now: Instant) -> Option<Turn> {
        self.shipped = Some(shipped);
        if self.newest.is_some_and(|last| !self.lacks_too_much(last)) {
            return self.caught_up();
        }
        if let Phase::Degraded { probe, rejoins, .. } = &mut self.phase
            && let Some((seq, made)) = *probe
            && seq <= shipped.through
        {
            // A node that is never silent is always ahead of the copy by some records: what counts is how soon they come.
            *rejoins = now.saturating_duration_since(made) <= self.rule.longest() / 2;
            *probe = None;
        }
        None
    }

    fn caught_up(&mut self) -> Option<Turn> {
        match std::mem::replace(&mut self.phase, Phase::InStep) {
            Phase::Starting { .. } => Some(Turn::Began),
            Phase::InStep => None,
            Phase::Degraded { since, .. } => Some(Turn::Recovered(since)),
        }
    }

    /// The longest that an answer is held.
    pub fn longest(&self) -> Duration {
        self.rule.longest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: u64 = 30;

    fn copy(changes: u64, now: Instant) -> WaitedCopy {
        WaitedCopy::new(OffsiteWait::new(changes, SECONDS, WaitThen::GoOn).unwrap(), now)
    }

    fn record(seq: u64) -> LastRecord {
        LastRecord { seq, checksum: checksum(seq) }
    }

    fn checksum(seq: u64) -> u32 {
        u32::try_from(seq).unwrap() * 7
    }

    fn shipped(through: u64) -> Shipped {
        Shipped { through, checksum: Some(checksum(through)) }
    }

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros).unwrap()
    }

    /// What happens, and what comes of it.
    enum Step {
        /// A write ends with this record, after so many seconds.
        Write(u64, u64, Verdict, Option<Turn>),
        /// The process that ships has said this, after so many seconds.
        Said(u64, u64, Option<Turn>),
        /// It is looked at an answer again.
        Again(u64, Verdict, Option<Turn>),
        /// The time of an answer is over.
        Over(i64, Option<Turn>),
    }

    use Step::{Again, Over, Said, Write};
    use Verdict::{Given, Held};

    fn play(situation: &str, changes: u64, steps: &[Step]) -> WaitedCopy {
        let began = Instant::now();
        let mut copy = copy(changes, began);
        let after = |seconds| began + Duration::from_secs(seconds);
        for (number, step) in steps.iter().enumerate() {
            match *step {
                Write(seq, seconds, verdict, turn) => {
                    let came = copy.recorded(record(seq), after(seconds));
                    assert_eq!(came, (verdict, turn), "{situation}, step {number}");
                }
                Said(through, seconds, turn) => {
                    let came = copy.acknowledge(shipped(through), after(seconds));
                    assert_eq!(came, turn, "{situation}, step {number}");
                }
                Again(seq, verdict, turn) => {
                    assert_eq!(copy.look_again(record(seq), began), (verdict, turn), "{situation}, step {number}");
                }
                Over(micros, turn) => assert_eq!(copy.give_up(at(micros)), turn, "{situation}, step {number}"),
            }
        }
        copy
    }

    #[test]
    fn every_situation_has_its_verdict() {
        let began = Some(Turn::Began);
        play(
            "each change is waited for",
            0,
            &[
                Write(5, 0, Given, None),
                Said(5, 0, began),
                Write(6, 1, Held, None),
                Again(6, Held, None),
                Said(6, 2, None),
                Again(6, Given, None),
                Write(7, 3, Held, None),
            ],
        );
        play(
            "some may be missing, and that of the answer counts",
            2,
            &[
                Write(5, 0, Given, None),
                Said(5, 0, began),
                Write(6, 1, Given, None),
                Write(7, 1, Given, None),
                Write(8, 1, Held, None),
                Said(6, 2, None),
                Again(8, Given, None),
                Write(9, 3, Held, None),
            ],
        );
        play(
            "a start: nothing is held before it is known how far the copy is",
            0,
            &[
                Write(6, 0, Given, None),
                Write(7, SECONDS - 1, Given, None),
                Said(5, SECONDS - 1, None),
                Write(8, SECONDS - 1, Held, None),
                Said(8, SECONDS, began),
                Again(8, Given, None),
            ],
        );
        play(
            "a start: a process that says nothing is not waited for without end",
            0,
            &[
                Write(6, SECONDS - 1, Given, None),
                Write(7, SECONDS, Held, None),
                Over(1, Some(Turn::Degraded)),
                Write(8, SECONDS * 2, Given, None),
            ],
        );
        play(
            "a start behind others: it begins with the answer that has waited",
            0,
            &[Said(3, 0, None), Write(8, 1, Held, None), Said(8, 2, began), Again(8, Given, None)],
        );
        let recovered = Some(Turn::Recovered(at(1)));
        play(
            "degraded, nothing is held until it has caught up",
            0,
            &[
                Write(5, 0, Given, None),
                Said(5, 0, began),
                Write(6, 1, Held, None),
                Over(1, Some(Turn::Degraded)),
                Write(7, 40, Given, None),
                Write(8, 41, Given, None),
                Said(6, 42, None),
                Write(9, 43, Given, None),
                Said(9, 90, recovered),
                Write(10, 91, Held, None),
            ],
        );
        play(
            "a node that is never silent: a record that comes soon is enough to hold answers again",
            0,
            &[
                Write(5, 0, Given, None),
                Said(5, 0, began),
                Write(6, 1, Held, None),
                Over(1, Some(Turn::Degraded)),
                Write(7, 40, Given, None),
                Write(8, 41, Given, None),
                Said(7, 41, None),
                Write(9, 42, Held, None),
                Said(8, 43, None),
                Again(9, Held, None),
                Said(9, 44, recovered),
                Again(9, Given, None),
            ],
        );
        play(
            "one that comes late is not",
            0,
            &[
                Write(5, 0, Given, None),
                Said(5, 0, began),
                Write(6, 1, Held, None),
                Over(1, Some(Turn::Degraded)),
                Write(7, 40, Given, None),
                Write(8, 41, Given, None),
                Said(7, 40 + SECONDS / 2 + 1, None),
                Write(9, 60, Given, None),
            ],
        );
        play(
            "a second failure is part of the first",
            0,
            &[
                Write(5, 0, Given, None),
                Said(5, 0, began),
                Write(6, 1, Held, None),
                Over(1, Some(Turn::Degraded)),
                Write(7, 40, Given, None),
                Write(8, 40, Given, None),
                Said(7, 41, None),
                Write(9, 42, Held, None),
                Over(9, None),
                Write(10, 80, Given, None),
                Said(10, 81, recovered),
            ],
        );
    }

    #[test]
    fn a_node_that_is_to_stop_waits_from_its_first_answer_unless_it_is_needed() {
        let now = Instant::now();
        let mut copy = WaitedCopy::new(OffsiteWait::new(0, SECONDS, WaitThen::Stop).unwrap(), now);
        assert_eq!(copy.recorded(record(6), now).0, Held);
        copy.node_is_needed(now);
        assert_eq!(copy.look_again(record(6), now).0, Given, "the key comes from the node");
        let late = now + NEEDS_NODE_AT_LEAST;
        // It starts once.
        copy.node_is_needed(late);
        assert_eq!(copy.recorded(record(7), late).0, Held);
        assert_eq!(copy.look_again(record(7), late).0, Held);
        copy.acknowledge(shipped(7), late);
        assert_eq!(copy.look_again(record(7), late).0, Given);
        copy.node_is_needed(now);
        assert_eq!(copy.recorded(record(8), now).0, Held, "it is known how far the copy is");
    }

    #[test]
    fn another_record_of_the_same_seq_is_not_the_one_that_is_waited_for() {
        let now = Instant::now();
        let mut copy = copy(0, now);
        copy.acknowledge(shipped(5), now);
        assert_eq!(copy.recorded(record(6), now).0, Held);
        for other in [Some(1), None] {
            copy.acknowledge(Shipped { through: 6, checksum: other }, now);
            assert_eq!(copy.look_again(record(6), now).0, Held, "{other:?}");
        }
        copy.acknowledge(shipped(7), now);
        assert_eq!(copy.look_again(record(6), now).0, Held, "it is ahead of the node");
        copy.acknowledge(shipped(6), now);
        assert_eq!(copy.look_again(record(6), now).0, Given);
    }

    #[test]
    fn the_state_is_said() {
        let wait = |copy: &WaitedCopy| copy.status().state;
        let now = Instant::now();
        let mut copy = copy(100, now);
        assert_eq!(wait(&copy), Some(WaitState::Starting));
        copy.acknowledge(shipped(3), now);
        assert_eq!(wait(&copy), Some(WaitState::Starting), "what was answered before is not known");
        copy.recorded(record(3), now);
        assert_eq!(wait(&copy), Some(WaitState::Waiting));
        assert!(!copy.is_shipped_at_once(record(53)) && copy.is_shipped_at_once(record(54)));
        copy.recorded(record(104), now);
        copy.give_up(at(5));
        assert_eq!((wait(&copy), copy.degraded_since()), (Some(WaitState::Degraded), Some(at(5))));
        assert!(copy.status().degraded_since.unwrap().starts_with("1970-01-01T00:00:00.000005"));
    }
}
