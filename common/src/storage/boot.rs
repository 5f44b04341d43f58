//! The current boot of the machine.

use std::fs;

use uuid::Uuid;

use format::commit_note::CommitNote;
use format::version_rules::Commit;

/// Boot ID of the machine (Linux `Documentation/admin-guide/sysctl/kernel.rst`, `random`); nil when it cannot be read, as in a
/// container without `/proc`.
///
/// A commit of this boot is on disk: only a power cut can undo it, and that begins another boot.
pub(crate) fn current_boot() -> Uuid {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    id.and_then(|id| Uuid::parse_str(id.trim()).ok()).unwrap_or_else(Uuid::nil)
}

/// The commit state in a boot: within the boot of the note, a commit that was seen is certain.
pub(crate) fn commit_in_boot(commit: Commit, note: Option<CommitNote>, boot: Uuid) -> Commit {
    match (commit, note) {
        (Commit::Seen, Some(note)) if note.boot == boot && !boot.is_nil() => Commit::Certain,
        (commit, _) => commit,
    }
}
