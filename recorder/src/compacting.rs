//! Dropping old history: by the policy of `backup.lock`, or by `backup-compact`.
//!
//! The sealing thread does it between two rounds. The caller of `backup-compact` waits for the answer; the node never waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::Timestamp;
use common::compact::{ClockInDoubt, CompactProgress, Compaction, CompactionFields, Force};
use common::{BackupUrl, BackupUrlError, KeepPolicy};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::plugin::MethodError;
use common::with_causes;

/// The parameters of `backup-compact`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CompactParams {
    /// The policy; if it is empty, that of `backup.lock` is used.
    pub policy: KeepPolicy,
    /// Whether to report only what would be dropped.
    pub dry_run: bool,
    /// Whether to trust the clock although it has leapt.
    pub force: Force,
}

/// The names of the parameters of `backup-compact`, in the order of unnamed parameters.
pub const PARAMS: [&str; 6] = ["keep_within", "keep_hourly", "keep_daily", "keep_weekly", "dry_run", "force"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    #[serde(default)]
    keep_within: Option<Value>,
    #[serde(default)]
    keep_hourly: Option<Value>,
    #[serde(default)]
    keep_daily: Option<Value>,
    #[serde(default)]
    keep_weekly: Option<Value>,
    #[serde(default)]
    dry_run: Option<Value>,
    #[serde(default)]
    force: Option<Value>,
}

impl CompactParams {
    /// Parses the parameters of the method: named, or in the order of [`PARAMS`].
    ///
    /// # Errors
    /// The fault, as text.
    pub fn from_json(params: &Value) -> Result<Self, String> {
        let named = match params {
            Value::Array(spans) if spans.len() > PARAMS.len() => {
                return Err(format!(
                    "there are {} parameters; backup-compact takes {}, in this order",
                    spans.len(),
                    PARAMS.join(", ")
                ));
            }
            Value::Array(spans) => {
                let at = |position: usize| spans.get(position).cloned();
                Named {
                    keep_within: at(0),
                    keep_hourly: at(1),
                    keep_daily: at(2),
                    keep_weekly: at(3),
                    dry_run: at(4),
                    force: at(5),
                }
            }
            Value::Null => Named::deserialize(json!({})).map_err(|error| error.to_string())?,
            params => Named::deserialize(params).map_err(|error| error.to_string())?,
        };
        let span = |value: Option<Value>| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => text.parse().map(Some).map_err(|error| format!("{error}")),
            Some(other) => Err(format!("{other} is no span of time; write for example 90d")),
        };
        let policy = KeepPolicy {
            within: span(named.keep_within)?,
            hourly: span(named.keep_hourly)?,
            daily: span(named.keep_daily)?,
            weekly: span(named.keep_weekly)?,
        };
        let flag = |name: &str, value: Option<Value>| match value {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(Value::String(text)) if text == "true" => Ok(true),
            Some(Value::String(text)) if text == "false" => Ok(false),
            Some(other) => Err(format!("{name} is true or false, not {other}")),
        };
        let force = if flag("force", named.force)? { Force::Yes } else { Force::No };
        Ok(Self { policy, dry_run: flag("dry_run", named.dry_run)?, force })
    }
}

/// A request for a compaction.
#[derive(Debug)]
pub struct Asked {
    /// The policy.
    pub policy: KeepPolicy,
    /// Whether to trust the clock although it has leapt.
    pub force: Force,
    /// Receives the answer; its receiver may be dropped before that.
    pub answer: oneshot::Sender<Result<Compaction, String>>,
}

/// The state of compactions, shared by the sealing thread, which does them, and the callers of `backup-compact`.
#[derive(Debug, Default)]
pub struct Compactions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The policy of `backup.lock`.
    policy: Option<KeepPolicy>,
    asked: Option<Asked>,
    under_way: Option<CompactProgress>,
    last: Option<Last>,
    problem: Option<String>,
    clock_in_doubt: Option<ClockInDoubt>,
}

#[derive(Debug)]
struct Last {
    at: Timestamp,
    compaction: Compaction,
}

impl Compactions {
    /// Sets the policy of `backup.lock`.
    pub fn set_policy(&self, policy: Option<KeepPolicy>) {
        self.known().policy = policy;
    }

    /// The policy of `backup.lock`.
    pub fn policy(&self) -> Option<KeepPolicy> {
        self.known().policy
    }

    /// Requests a compaction; its outcome comes through the receiver.
    ///
    /// # Errors
    /// When one is requested already, or is under way.
    pub fn ask(
        &self,
        policy: KeepPolicy,
        force: Force,
    ) -> Result<oneshot::Receiver<Result<Compaction, String>>, String> {
        let mut known = self.known();
        if known.asked.as_ref().is_some_and(|asked| !asked.answer.is_closed()) || known.under_way.is_some() {
            return Err("a compaction is under way already; backup-status says how far it is".to_owned());
        }
        let (answer, answered) = oneshot::channel();
        known.asked = Some(Asked { policy, force, answer });
        Ok(answered)
    }

    /// Whether a compaction is requested.
    pub fn is_asked(&self) -> bool {
        self.known().asked.is_some()
    }

    /// Takes the request, if there is one and its caller still waits.
    pub fn take_asked(&self) -> Option<Asked> {
        self.known().asked.take().filter(|asked| !asked.answer.is_closed())
    }

    /// Sets the doubt in the clock, during which the policy of `backup.lock` is not applied. Returns whether the doubt is new.
    pub fn doubt_clock(&self, doubt: Option<ClockInDoubt>) -> bool {
        let before = std::mem::replace(&mut self.known().clock_in_doubt, doubt);
        doubt.is_some_and(|doubt| before.is_none_or(|before| before.before != doubt.before))
    }

    /// Sets the progress of the compaction that is under way.
    pub fn progress(&self, progress: CompactProgress) {
        self.known().under_way = Some(progress);
    }

    /// A compaction has ended; `None` for one that was interrupted.
    pub fn ended(&self, outcome: Option<&Result<Compaction, String>>) {
        let mut known = self.known();
        known.under_way = None;
        match outcome {
            Some(Ok(compaction)) => {
                known.problem = None;
                if compaction.dropped_segments > 0 {
                    known.last = Some(Last { at: Timestamp::now(), compaction: compaction.clone() });
                }
            }
            Some(Err(problem)) => known.problem = Some(problem.clone()),
            None => {}
        }
    }

    /// The field `compaction` of `backup-status`.
    pub fn to_json(&self) -> Value {
        let known = self.known();
        json!({
            "policy": known.policy,
            "under_way": known.under_way.map(|progress| json!({
                "stage": progress.stage.name(),
                "done_bytes": progress.done_bytes,
                "total_bytes": progress.total_bytes,
            })),
            "last": known.last.as_ref().map(|last| {
                let mut json = json!(CompactionFields::from(&last.compaction));
                json["at"] = json!(last.at.to_string());
                json
            }),
            "problem": known.problem,
            "clock_in_doubt": known.clock_in_doubt.map(|doubt| doubt.to_string()),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change is a plain assignment, so the state is valid after a panic, too.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers `backup-compact`: compacts, or reports what it would do.
///
/// # Errors
/// The reason why it cannot be done.
pub async fn answer(params: Value, status: Arc<crate::status::Status>) -> Result<Value, MethodError> {
    let CompactParams { policy, dry_run, force } = CompactParams::from_json(&params).map_err(MethodError::params)?;
    let compactions = status.compactions();
    let policy = if policy == KeepPolicy::default() { compactions.policy().unwrap_or(policy) } else { policy };
    policy.check().map_err(MethodError::params)?;
    let Some(url) = status.backup_at_hand() else {
        return Err(MethodError::internal("the backup is out of reach; backup-status says more"));
    };
    compact(url, policy, dry_run, force, &status).await.map_err(MethodError::internal)
}

async fn compact(
    url: String,
    policy: KeepPolicy,
    dry_run: bool,
    force: Force,
    status: &crate::status::Status,
) -> Result<Value, String> {
    let compaction = if dry_run {
        tokio::task::spawn_blocking(move || {
            let url: BackupUrl = url.parse().map_err(|error: BackupUrlError| error.to_string())?;
            let planned = common::compact::plan_compaction(&url, &policy, &mut || std::ops::ControlFlow::Continue(()));
            let planned = planned.map_err(|error| with_causes(&error))?;
            planned.ok_or_else(|| "interrupted".to_owned())
        })
        .await
        .map_err(|error| error.to_string())??
    } else {
        status
            .compactions()
            .ask(policy, force)?
            .await
            .map_err(|_| "interrupted: what is kept is as it was".to_owned())??
    };
    Ok(json!(CompactionFields { dry_run, ..CompactionFields::from(&compaction) }))
}

#[cfg(test)]
mod tests {
    use common::compact::Stage;

    use super::*;

    #[test]
    fn parameters_come_by_name_or_in_order() {
        let policy = |within: &str| KeepPolicy { within: Some(within.parse().unwrap()), ..KeepPolicy::default() };
        let read = |json: Value| CompactParams::from_json(&json);
        assert_eq!(read(json!({})), Ok(CompactParams::default()));
        assert_eq!(read(json!([])), Ok(CompactParams::default()));
        assert_eq!(
            read(json!({"keep_within": "90d"})),
            Ok(CompactParams { policy: policy("90d"), ..CompactParams::default() })
        );
        assert_eq!(read(json!(["90d"])), Ok(CompactParams { policy: policy("90d"), ..CompactParams::default() }));
        let dry = read(json!({"keep_within": "90d", "keep_daily": "1y", "dry_run": true})).unwrap();
        assert_eq!(dry.policy, KeepPolicy { daily: Some("1y".parse().unwrap()), ..policy("90d") });
        assert!(dry.dry_run && dry.force == Force::No);
        for forced in [json!({"force": "true"}), json!({"force": true}), json!([null, null, null, null, false, true])] {
            assert_eq!(read(forced).unwrap().force, Force::Yes);
        }
        assert!(read(json!({"force": 1})).unwrap_err().contains("force is true or false"));
        assert!(read(json!({"keep_witin": "90d"})).unwrap_err().contains("keep_witin"));
        assert!(read(json!({"keep_within": 90})).unwrap_err().contains("90 is no span"));
        assert!(read(json!(["90"])).unwrap_err().contains("`90` is no span"));
        assert!(read(json!({"dry_run": 3})).is_err());
        assert!(read(json!("90d")).is_err());
        assert!(read(json!(["1d", "1d", "1d", "1d", true, true, 1])).unwrap_err().contains("there are 7 parameters"));
    }

    #[test]
    fn only_one_is_asked_for_at_a_time_unless_who_asked_has_gone() {
        let compactions = Compactions::default();
        let first = compactions.ask(KeepPolicy::default(), Force::No).unwrap();
        assert!(compactions.ask(KeepPolicy::default(), Force::No).is_err());
        drop(first);
        let _second = compactions.ask(KeepPolicy::default(), Force::No).unwrap();
        assert!(compactions.take_asked().is_some() && compactions.take_asked().is_none());
        compactions.progress(CompactProgress { stage: Stage::Writing, done_bytes: 1, total_bytes: 2 });
        assert!(compactions.ask(KeepPolicy::default(), Force::No).is_err());
        assert_eq!(compactions.to_json()["under_way"], json!({"stage": "writing", "done_bytes": 1, "total_bytes": 2}));
        compactions.ended(Some(&Err("no room".to_owned())));
        let json = compactions.to_json();
        assert_eq!((&json["under_way"], &json["problem"]), (&Value::Null, &json!("no room")));
    }
}
