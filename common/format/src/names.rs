//! Names of the files in a backup directory.

use crate::units::Seq;

/// The manifest.
pub const MANIFEST: &str = "manifest";

/// The file that a recorder locks exclusively with `flock`; always empty.
pub const LOCK: &str = "LOCK";

/// The preallocated file that becomes the next log; zeros until then.
pub const PREALLOCATED: &str = "preallocated";

/// The file with the blocks of dropped segments that kept segments and versions need.
pub const PRUNED: &str = "pruned";

/// A text about missing data; it exists only in a backup that was rescued from a damaged file of the Python plugin.
pub const RESCUED: &str = "RESCUED.txt";
/// Results of SQLite's check of the snapshots.
pub const CHECKED: &str = "checked";

/// Header of a spool.
pub const SPOOL_HEADER: &str = "spool";

/// Path of the spool, as a file in the backup.
pub const SPOOL_NOTE: &str = "spool-note";

const LOG_PREFIX: &str = "log-";
const PARITY_PREFIX: &str = "parity-";
const DAMAGED_PREFIX: &str = "damaged-";
const SNAPSHOT_PREFIX: &str = "snapshot-";
const SEGMENT_PREFIX: &str = "segment-";
const DIGITS: usize = 20;

/// Name of the log whose first record has this seq.
pub fn log(first: Seq) -> String {
    format!("{LOG_PREFIX}{first:0DIGITS$}", first = first.get())
}

/// Name of the snapshot whose record has this seq.
pub fn snapshot(seq: Seq) -> String {
    format!("{SNAPSHOT_PREFIX}{seq:0DIGITS$}", seq = seq.get())
}

/// Name of the segment whose first record has this seq.
pub fn segment(first: Seq) -> String {
    format!("{SEGMENT_PREFIX}{first:0DIGITS$}", first = first.get())
}

/// Name of the parity file whose first member has this name.
pub fn parity(first_member: &str) -> String {
    format!("{PARITY_PREFIX}{first_member}")
}

/// Name of the first member of a parity file, from its name; `None` for any other name.
pub fn parse_parity(name: &str) -> Option<&str> {
    name.strip_prefix(PARITY_PREFIX)
}

/// Name under which a damaged file is kept once it was replaced by the mended one.
pub fn damaged(name: &str) -> String {
    format!("{DAMAGED_PREFIX}{name}")
}

/// Name that a damaged file had, from the name under which it is kept; `None` for any other name.
pub fn parse_damaged(name: &str) -> Option<&str> {
    name.strip_prefix(DAMAGED_PREFIX)
}

/// The first seq of a log, from its name; `None` for any other name.
pub fn parse_log(name: &str) -> Option<Seq> {
    parse(name, LOG_PREFIX)
}

/// The seq of a snapshot, from its name; `None` for any other name.
pub fn parse_snapshot(name: &str) -> Option<Seq> {
    parse(name, SNAPSHOT_PREFIX)
}

/// The first seq of a segment, from its name; `None` for any other name.
pub fn parse_segment(name: &str) -> Option<Seq> {
    parse(name, SEGMENT_PREFIX)
}

fn parse(name: &str, prefix: &str) -> Option<Seq> {
    let digits = name.strip_prefix(prefix)?;
    let canonical = digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
    canonical.then(|| digits.parse().ok().and_then(Seq::new)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_sort_like_their_seq() {
        let (a, b) = (Seq::new(9).unwrap(), Seq::new(u64::MAX).unwrap());
        assert_eq!(log(a), "log-00000000000000000009");
        assert_eq!(parse_log(&log(b)), Some(b));
        assert_eq!(parse_snapshot(&snapshot(b)), Some(b));
        assert_eq!(parse_segment(&segment(a)), Some(a));
        assert!(log(a) < log(b));
    }

    #[test]
    fn anything_else_is_no_name_of_ours() {
        for name in ["log-1", "log-00000000000000000000", "log-99999999999999999999", "log-0000000000000000000x", "x"] {
            assert_eq!(parse_log(name), None, "{name}");
        }
        assert_eq!(parse_snapshot("log-00000000000000000009"), None);
        assert_eq!(parse_log("log-00000000000000000009.tmp"), None);
    }
}
