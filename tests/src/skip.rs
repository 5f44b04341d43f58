//! What is said when a test cannot be run here.

use std::fmt;
use std::io::Write;

/// Says so past the test harness, which shows what a test prints only when it fails.
pub fn skipped(why: impl fmt::Display) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {why}");
}
