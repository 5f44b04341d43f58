//! The options of `backupfs offsite add` by which answers to `lightningd` wait for a copy, and how that stands, in words.

use clap::Args;
use common::{OffsiteWait, OffsiteWaitError, WaitState, WaitStatus, WaitThen, counted};

/// How answers wait for a copy: all options, or none.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Hold an answer to the node while the copy lacks more changes than this; 0: each change is in the copy before it is answered.
    /// A slow store slows the node: docs/offsite.md says what to think of. Without it, no answer waits for the copy
    #[arg(long, value_name = "N", requires_all = ["wait_seconds", "wait_then"], allow_negative_numbers = true)]
    pub wait_changes: Option<u64>,
    /// For how many seconds at most, 1 to 600
    #[arg(long, value_name = "S", requires_all = ["wait_changes", "wait_then"], allow_negative_numbers = true)]
    pub wait_seconds: Option<u64>,
    /// What happens then: `go_on` without the copy until it has caught up, or `stop` the node
    #[arg(long, value_name = "go_on|stop", requires_all = ["wait_changes", "wait_seconds"])]
    pub wait_then: Option<WaitThen>,
}

impl WaitArgs {
    /// The key `wait` of `backup.lock`.
    ///
    /// # Errors
    /// When a number is out of its range.
    pub(super) fn to_wait(&self) -> Result<Option<OffsiteWait>, OffsiteWaitError> {
        let Self { wait_changes, wait_seconds, wait_then } = self;
        match (wait_changes, wait_seconds, wait_then) {
            (Some(changes), Some(seconds), Some(then)) => OffsiteWait::new(*changes, *seconds, *then).map(Some),
            _ => Ok(None),
        }
    }
}

/// Whether answers wait for the copy.
pub(super) fn in_words(wait: &WaitStatus) -> String {
    let then = match wait.rule.then() {
        WaitThen::GoOn => "the node goes on without it",
        WaitThen::Stop => "the node stops",
    };
    let rule = format!(
        "answers wait for it while it lacks more than {}, for {} s at most; then {then}",
        counted(wait.rule.changes(), "change"),
        wait.rule.longest().as_secs()
    );
    match (wait.state, &wait.degraded_since) {
        (Some(WaitState::Degraded), Some(since)) => {
            format!("{rule}\n  DEGRADED since {since}: answers do not wait for it now")
        }
        _ => rule,
    }
}
