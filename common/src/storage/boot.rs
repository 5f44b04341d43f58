//! Which boot of the machine this is.

use std::fs;

use uuid::Uuid;

use format::commit_note::CommitNote;
use format::version_rules::Commit;

/// The boot of this machine, as the kernel names it (Linux `Documentation/admin-guide/sysctl/kernel.rst`, `random`); nil when it
/// cannot be read, as in a container without `/proc`.
///
/// What was committed to a database in this boot is there: only a power cut can undo it, and that begins another boot.
pub(crate) fn current_boot() -> Uuid {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    id.and_then(|id| Uuid::parse_str(id.trim()).ok()).unwrap_or_else(Uuid::nil)
}

/// What the note of a commit is worth in a boot: only a power cut can undo what was seen to be committed.
pub(crate) fn commit_in_boot(commit: Commit, note: Option<CommitNote>, boot: Uuid) -> Commit {
    match (commit, note) {
        (Commit::Seen, Some(note)) if note.boot == boot && !boot.is_nil() => Commit::Certain,
        (commit, _) => commit,
    }
}
