//! [`Faults`]: which calls of a [`FaultFs`](super::FaultFs) are delayed, fail or hang, and how many there were.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// Nothing hangs for longer, whatever a test forgot: a process that waits for us cannot even be killed.
const HANGS_FOR: Duration = Duration::from_secs(120);

/// The calls that can be told apart. Each is a request of the kernel, not always a system call of the process: `open(2)` is
/// some lookups and an open or a create; `close(2)` is a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Finding a name in a directory.
    Lookup,
    /// `stat`.
    GetAttr,
    /// `chmod`, `chown`, `utimensat`.
    SetAttr,
    /// `ftruncate`, `truncate`, and `open` with `O_TRUNC`.
    Truncate,
    /// Making a file.
    Create,
    /// Opening one that is there.
    Open,
    /// Reading bytes.
    Read,
    /// Writing bytes.
    Write,
    /// `fsync` and `fdatasync` of a file.
    Fsync,
    /// `fsync` of a directory.
    FsyncDir,
    /// Closing.
    Flush,
    /// `fallocate`.
    Allocate,
    /// `rename`, matched by either name.
    Rename,
    /// Removing a file.
    Unlink,
    /// Making a directory.
    MkDir,
    /// Removing one.
    RmDir,
    /// Opening a directory, for a listing or for a sync.
    OpenDir,
    /// Listing one.
    ReadDir,
    /// `statfs`.
    StatFs,
}

/// Which names a rule is about: the last part of a path. The directory that is mounted has the empty name.
#[derive(Debug, Clone)]
pub enum Names {
    /// All.
    Any,
    /// This one.
    Exactly(String),
    /// Those that begin so.
    Beginning(String),
    /// Those that end so.
    Ending(String),
    /// Those of which this is true; none that is not UTF-8.
    Where(fn(&str) -> bool),
}

impl Names {
    fn matches(&self, name: &OsStr) -> bool {
        let bytes = name.as_encoded_bytes();
        match self {
            Self::Any => true,
            Self::Exactly(exactly) => bytes == exactly.as_bytes(),
            Self::Beginning(beginning) => bytes.starts_with(beginning.as_bytes()),
            Self::Ending(ending) => bytes.ends_with(ending.as_bytes()),
            Self::Where(is_so) => name.to_str().is_some_and(is_so),
        }
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is done after so long.
    Delay(Duration),
    /// It is not done.
    Fail(Errno),
    /// It is done, and said to have failed: its answer was lost on the way.
    FailOnceDone(Errno),
    /// It waits until its rule is [removed](Faults::remove), and is then done. A process that is killed meanwhile does not
    /// end before that, just as with a network file system that is gone.
    Hang,
}

/// What becomes of which calls.
#[derive(Debug, Clone)]
pub struct Rule {
    effect: Effect,
    calls: Vec<Call>,
    names: Names,
    skipped: u64,
    times: u64,
}

impl Rule {
    /// Concerns every call, from now on.
    pub fn new(effect: Effect) -> Self {
        Self { effect, calls: Vec::new(), names: Names::Any, skipped: 0, times: u64::MAX }
    }

    /// Only these calls.
    #[must_use]
    pub fn calls(mut self, calls: &[Call]) -> Self {
        self.calls = calls.to_vec();
        self
    }

    /// Only files of these names.
    #[must_use]
    pub fn names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// Lets so many calls that match pass first.
    #[must_use]
    pub fn after(mut self, calls: u64) -> Self {
        self.skipped = calls;
        self
    }

    /// Takes effect so many times.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    fn matches(&self, call: Call, names: &[&OsStr]) -> bool {
        (self.calls.is_empty() || self.calls.contains(&call)) && names.iter().any(|name| self.names.matches(name))
    }
}

/// A rule that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(u64);

/// What is to be done with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is done.
    Pass,
    /// It comes under this rule.
    Rule(RuleId, Effect),
}

/// The rules, shared by the file system and the test.
#[derive(Debug, Default)]
pub struct Faults {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Active>,
    next_id: u64,
    calls: BTreeMap<Call, u64>,
    hanging: usize,
    free_bytes: Option<u64>,
}

#[derive(Debug)]
struct Active {
    id: RuleId,
    rule: Rule,
    matched: u64,
    fired: u64,
}

impl Faults {
    /// Adds a rule. Of several that concern a call, the one that was added first takes effect.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut state = self.state();
        let id = RuleId(state.next_id);
        state.next_id += 1;
        state.rules.push(Active { id, rule, matched: 0, fired: 0 });
        id
    }

    /// Every call fails so from now on, whatever other rules say.
    pub fn fail_everything(&self, errno: Errno) -> RuleId {
        let id = self.add(Rule::new(Effect::Fail(errno)));
        let mut state = self.state();
        state.rules.sort_by_key(|active| active.id != id);
        id
    }

    /// Takes a rule away; what hangs because of it goes on.
    pub fn remove(&self, rule: RuleId) {
        self.state().rules.retain(|active| active.id != rule);
        self.changed.notify_all();
    }

    /// Takes all rules away; everything that hangs goes on. `statfs` tells the truth again.
    pub fn heal(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.free_bytes = None;
        drop(state);
        self.changed.notify_all();
    }

    /// From now on `statfs` says that so many bytes are free; writing still works.
    pub fn pretend_free_bytes(&self, bytes: u64) {
        self.state().free_bytes = Some(bytes);
    }

    /// How many calls of a kind there were so far, whatever became of them.
    pub fn count(&self, call: Call) -> u64 {
        self.state().calls.get(&call).copied().unwrap_or_default()
    }

    /// How often a rule took effect; 0 once it was removed.
    pub fn fired(&self, rule: RuleId) -> u64 {
        self.state().rules.iter().find(|active| active.id == rule).map_or(0, |active| active.fired)
    }

    /// Calls that hang at this moment.
    pub fn hanging(&self) -> usize {
        self.state().hanging
    }

    /// Waits until a rule took effect so often; says whether it came to that.
    pub fn wait_until_fired(&self, rule: RuleId, times: u64, timeout: Duration) -> bool {
        crate::wait::until(timeout, || self.fired(rule) >= times)
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        self.state().free_bytes
    }

    /// What becomes of a call on these names; counts it.
    pub(super) fn judge(&self, call: Call, names: &[&OsStr]) -> Verdict {
        let mut state = self.state();
        *state.calls.entry(call).or_default() += 1;
        let mut verdict = Verdict::Pass;
        for active in state.rules.iter_mut().filter(|active| active.rule.matches(call, names)) {
            let at = active.matched;
            active.matched += 1;
            let due = at >= active.rule.skipped && at - active.rule.skipped < active.rule.times;
            if due && verdict == Verdict::Pass {
                active.fired += 1;
                verdict = Verdict::Rule(active.id, active.rule.effect);
            }
        }
        verdict
    }

    /// Does not return while a call under this rule hangs.
    pub(super) fn hang(&self, rule: RuleId) {
        let deadline = Instant::now() + HANGS_FOR;
        let mut state = self.state();
        state.hanging += 1;
        while state.rules.iter().any(|active| active.id == rule) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.hanging -= 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(faults: &Faults, call: Call, name: &str) -> Option<Effect> {
        match faults.judge(call, &[OsStr::new(name)]) {
            Verdict::Pass => None,
            Verdict::Rule(_, effect) => Some(effect),
        }
    }

    #[test]
    fn a_rule_concerns_its_calls_and_names_after_some_and_so_many_times() {
        let faults = Faults::default();
        let effect = Effect::Fail(Errno::IO);
        let names = Names::Beginning("log-".to_owned());
        let rule = faults.add(Rule::new(effect).calls(&[Call::Write, Call::Fsync]).names(names).after(1).times(2));
        assert_eq!(judge(&faults, Call::Read, "log-1"), None);
        assert_eq!(judge(&faults, Call::Write, "segment-1"), None);
        assert_eq!(judge(&faults, Call::Write, "log-1"), None, "the first passes");
        assert_eq!(judge(&faults, Call::Write, "log-1"), Some(effect));
        assert_eq!(judge(&faults, Call::Fsync, "log-2"), Some(effect));
        assert_eq!(judge(&faults, Call::Write, "log-1"), None, "twice is all");
        assert_eq!(faults.fired(rule), 2);
        assert_eq!(faults.count(Call::Write), 4);
        assert_eq!(faults.count(Call::Rename), 0);
    }

    #[test]
    fn the_first_rule_decides_unless_everything_fails() {
        let faults = Faults::default();
        let slow = Effect::Delay(Duration::from_secs(1));
        faults.add(Rule::new(slow).names(Names::Ending(".tmp".to_owned())));
        faults.add(Rule::new(Effect::Hang).names(Names::Exactly("x.tmp".to_owned())));
        assert_eq!(judge(&faults, Call::Open, "x.tmp"), Some(slow));
        assert_eq!(judge(&faults, Call::Open, "x.tmp2"), None);
        let all = faults.fail_everything(Errno::STALE);
        assert_eq!(judge(&faults, Call::Open, "x.tmp"), Some(Effect::Fail(Errno::STALE)));
        assert_eq!(judge(&faults, Call::StatFs, ""), Some(Effect::Fail(Errno::STALE)));
        faults.remove(all);
        assert_eq!(judge(&faults, Call::Open, "x.tmp"), Some(slow));
        faults.heal();
        assert_eq!(judge(&faults, Call::Open, "x.tmp"), None);
    }

    #[test]
    fn either_name_of_a_rename_counts() {
        let faults = Faults::default();
        faults.add(Rule::new(Effect::Hang).names(Names::Exactly("manifest".to_owned())));
        let names = ["manifest.tmp", "manifest"].map(OsStr::new);
        assert!(matches!(faults.judge(Call::Rename, &names), Verdict::Rule(_, Effect::Hang)));
        assert_eq!(faults.judge(Call::Rename, &names[..1]), Verdict::Pass);
    }
}
