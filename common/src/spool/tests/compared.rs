//! A comparison that a run in the spool cannot make stays pending, however that run ends.

use super::*;
use crate::log::DbWrite;

/// A run that began in the spool, after another transaction took the number of the previous run's newest change unnoticed.
fn run_with_a_debt() -> (Spooled, BackupWriter) {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.node.write(&mut recording, "recorded", Fate::Lost).unwrap();
    drop(recording);
    let mut unused = it.reopened().unwrap();
    it.node.write(&mut unused, "another", Fate::Unseen).unwrap();
    drop(unused);
    let mut recording = it.reopened().unwrap();
    it.write(&mut recording, "next");
    (it, recording)
}

fn expect_repaid(it: &mut Spooled, expected: crate::history::Recorded) {
    let mut recording = it.record();
    let recorded = it.node.write(&mut recording, "instead", Fate::Committed).unwrap();
    assert_eq!(recorded, Some(expected));
    assert_eq!(it.node.newest_contents(), (it.node.version, contents(&it.node.connection)));
}

/// A regression: when such a run died between hook and COMMIT, the next one rewound its last change and recorded a commit at its
/// end, and the change that had never been compared stayed in the backup for good. The policy of the next run may be another one.
#[test]
fn it_is_paid_by_the_next_run_though_the_run_died_in_the_hook() {
    for policy in [None, Some(OnUnreachable::Stop)] {
        let (mut it, mut recording) = run_with_a_debt();
        // It is drained, and has not written to the backup itself, when it dies.
        it.node.write(&mut recording, "dies in the hook", Fate::Lost).unwrap();
        drain(&mut recording).unwrap();
        drop(recording);
        it.node.backup_lock.on_unreachable = policy.unwrap_or(it.node.backup_lock.on_unreachable.clone());
        let [before, lost] = [13, 14].map(DataVersion::new);
        expect_repaid(&mut it, crate::history::Recorded::Replaced { data_version: before, rewound: Some(lost) });
    }
}

/// A rider makes the previous version certain, and proves nothing about its contents.
#[test]
fn it_is_paid_by_the_next_run_though_the_run_ended_with_a_rider() {
    let (mut it, mut recording) = run_with_a_debt();
    let data_version = DataVersion::new(it.node.version);
    let statements = ["PRAGMA foreign_keys = ON;".into()];
    recording.record(&DbWrite { data_version, statements: &statements, received_at: Timestamp::now() }).unwrap();
    drain(&mut recording).unwrap();
    recording.note_commit().unwrap();
    drop(recording);
    expect_repaid(&mut it, crate::history::Recorded::Replaced { data_version: DataVersion::new(13), rewound: None });
}
