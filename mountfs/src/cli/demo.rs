//! `backupfs demo`.

use super::init::{RECORDER_NAME, beside_this_program};
use super::{DemoArgs, Failure};
use crate::demo::{End, demo};

/// Shows it all.
///
/// # Errors
/// Exit code 2 when something needed for it is missing, 1 when a check fails.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let end = if args.once { End::ByItself } else { End::OnSignal };
    demo(&beside_this_program(RECORDER_NAME), end)
}
