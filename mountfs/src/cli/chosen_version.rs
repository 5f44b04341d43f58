//! The version that a command is asked about.

use anyhow::anyhow;
use common::{DataVersion, History, ReadError, Version};

use super::Failure;
use super::restore::why_not_there;

/// The version with this number.
///
/// # Errors
/// Exit code 2 when there is none, with what became of it and which ones are near; 1 when it is in what is damaged.
pub(super) fn find(history: &History, problem: Option<&ReadError>, wanted: DataVersion) -> Result<Version, Failure> {
    if let Some(version) = history.version(wanted).map_err(Failure::no)? {
        return Ok(version);
    }
    let why = why_not_there(history, wanted);
    Err(match problem {
        Some(problem) => Failure::No(anyhow!("{why}; what comes after the damage is not known: {problem}")),
        None => Failure::Failed(anyhow!(why)),
    })
}
