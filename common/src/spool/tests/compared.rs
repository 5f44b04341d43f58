//! What a run that begins in the spool cannot compare.

use super::*;

/// What was invented: when such a run died between hook and COMMIT, the next one rewound its last change, noted at its end
/// that all was committed, and the change that had never been compared stayed in the backup for good.
#[test]
fn what_could_not_be_compared_is_compared_though_the_run_died_in_the_hook() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.node.write(&mut recording, "recorded", Fate::Lost).unwrap();
    drop(recording);
    // Without the recorder another transaction takes its number.
    let mut nobody = it.reopened().unwrap();
    it.node.write(&mut nobody, "another", Fate::Unseen).unwrap();
    drop(nobody);
    let mut recording = it.reopened().unwrap();
    it.write(&mut recording, "next");
    drain(&mut recording).unwrap();
    it.node.write(&mut recording, "dies in the hook", Fate::Lost).unwrap();
    drop(recording);
    let mut recording = it.record();
    let rewound = it.node.write(&mut recording, "instead", Fate::Committed).unwrap();
    assert_eq!(rewound, Some(crate::Recorded::Rewound { data_version: DataVersion::new(14) }));
    recording.note_commit().unwrap();
    drop(recording);
    let mut recording = it.record();
    let replaced = it.node.write(&mut recording, "the next run", Fate::Committed).unwrap();
    assert_eq!(replaced, Some(crate::Recorded::Replaced { data_version: DataVersion::new(14) }));
    assert_eq!(it.node.newest_contents(), (it.node.version, contents(&it.node.connection)));
}
