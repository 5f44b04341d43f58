//! What an off-site copy says about how current it is, in words.

use std::path::Path;

use common::{Timestamp, counted};
use offsite::copy::statements::{LastWord, Statements};
use serde_json::{Value, json};

use crate::mount::readme_text::shell_word;

fn time(word: &LastWord) -> String {
    in_words(word.time)
}

fn in_words(micros: i64) -> String {
    Timestamp::from_micros(micros).map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
}

/// The three statements.
pub(super) fn text(statements: &Statements) -> String {
    let holds = statements.holds.saturating_sub(1);
    let missing = match statements.missing_through {
        0 => String::new(),
        through => format!(
            " It LACKS some of the records up to {through}: they were not shipped yet, or were lost. Versions that need them cannot be \
             opened."
        ),
    };
    let Some(word) = &statements.last_word else {
        return format!("The copy goes up to record {holds}.{missing} It does not say how far the node was.");
    };
    let at = time(word);
    let acknowledged = match statements.missing() {
        0 => format!("At {at} it had all that the node had recorded."),
        missing => format!("At {at} the node had recorded {} more, which the copy LACKS.", counted(missing, "record")),
    };
    let degraded = word.degraded_since.map_or_else(String::new, |since| {
        format!(" Since {} the node went on without waiting for the copy.", in_words(since))
    });
    let goodbye = match word.goodbye {
        true => {
            "Then the node stopped: as far as it knew, nothing followed. If it ran again after that time, this is an OLD STATE."
        }
        false => "It has not said goodbye since: more may have followed, which the copy does not have.",
    };
    let holds = match missing.as_str() {
        "" => format!("The copy holds everything up to record {holds}, and its chain of checksums is whole."),
        missing => format!("The copy goes up to record {holds}.{missing}"),
    };
    format!("{holds}\n{acknowledged}{degraded}\n{goodbye}")
}

/// The three statements, as JSON.
pub(super) fn to_json(statements: &Statements) -> Value {
    let word = statements.last_word.as_ref();
    json!({
        "holds_through": statements.holds.saturating_sub(1),
        "missing_through": (statements.missing_through > 0).then_some(statements.missing_through),
        "acknowledged_through": word.map(|word| word.acknowledged.saturating_sub(1)),
        "at": word.and_then(|word| Timestamp::from_micros(word.time)).map(|at| at.to_string()),
        "goodbye": word.is_some_and(|word| word.goodbye),
        "complete": statements.is_complete(),
        "degraded_since": word.and_then(|word| word.degraded_since).and_then(Timestamp::from_micros).map(|at| at.to_string()),
    })
}

/// Why the copy does not show that it has the newest state.
pub(super) fn doubt(statements: &Statements) -> String {
    match (&statements.last_word, statements.missing()) {
        (None, _) => "the copy does not say how far the node was".to_owned(),
        (Some(word), 0) => {
            format!("the node recorded until {} at least, and did not say that it stopped then", time(word))
        }
        (Some(word), missing) => {
            format!("at {} the node had recorded {} that the copy lacks", time(word), counted(missing, "record"))
        }
    }
}

/// How to go on recording after a restore from a copy.
pub(super) fn going_on(directory: &Path) -> String {
    let directory = shell_word(&directory.display().to_string());
    format!(
        "- to go on recording: `backupfs init --lightning-dir {directory} /path/to/node.bkp` begins a new backup; give it off-site \
         copies of its own with `backupfs offsite add`. Keep this copy until then"
    )
}
