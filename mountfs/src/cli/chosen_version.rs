//! The version that is named on the command line.

use anyhow::anyhow;
use common::{DataVersion, History, ReadError, Version};

use super::Failure;
use super::restore::why_not_there;

/// The version with this number.
///
/// # Errors
/// Exit code 2 when it does not exist, with the reason and the nearest versions; 1 when it is in a damaged part.
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
