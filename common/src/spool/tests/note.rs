//! The note in the backup with the location of its spool.

use super::*;

impl Spooled {
    fn rename_its_machine(&self) {
        let note = self.node.backup_path().join(names::SPOOL_NOTE);
        let text = fs::read_to_string(&note).unwrap();
        let renamed = text.replace(&format!(r#""host":"{}""#, this_host()), r#""host":"it-was-called-so""#);
        assert_ne!(renamed, text);
        fs::write(note, renamed).unwrap();
    }

    /// As a recorder of which the `backup.lock` names no spool.
    fn record_without_spool(&self) -> Result<BackupWriter, OpenRecordingError> {
        let lock = crate::config::backup_lock::BackupLock {
            on_unreachable: OnUnreachable::Stop,
            ..self.node.backup_lock.clone()
        };
        let directory = Arc::new(RealDirectory::new(self.node.backup_path()));
        BackupWriter::open_in(directory, &lock, self.node.dir.path(), SHORT)
    }
}

/// A regression: a renamed machine took its own spool for one on another machine.
#[test]
fn a_spool_that_exists_belongs_to_this_machine_under_any_host_name() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 4);
    drop(recording);
    it.rename_its_machine();
    let sight = it.node.backup().spool_sight();
    assert!(matches!(&sight, SpoolStatus::Behind(behind) if behind.changes == 4), "{sight:?}");
    let forgotten = it.record_without_spool();
    assert!(matches!(&forgotten, Err(OpenRecordingError::ForgottenSpool { changes: 4, .. })), "{forgotten:?}");
    // Damage does not make it another's.
    let first = contents::logs(&RealDirectory::new(it.spool())).unwrap()[0];
    fs::write(it.spool().join(names::log(first)), "damaged").unwrap();
    let sight = it.node.backup().spool_sight();
    assert!(matches!(sight, SpoolStatus::Unreadable { .. }), "{sight:?}");
    assert!(it.record_without_spool().is_err());
    fs::rename(&it.root, it.node.dir.path().join("elsewhere")).unwrap();
    let sight = it.node.backup().spool_sight();
    assert!(matches!(&sight, SpoolStatus::OutOfSight { host, .. } if host == "it-was-called-so"), "{sight:?}");
    it.record_without_spool().unwrap();
}

/// A regression: an unreadable note was ignored, and the backup reported as complete.
#[test]
fn a_note_that_cannot_be_read_is_not_no_note() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 1);
    let note = it.node.backup_path().join(names::SPOOL_NOTE);
    let unreadable = |it: &Spooled| match it.node.backup().spool_sight() {
        SpoolStatus::Unreadable { path, reason } => (path, reason),
        other => panic!("{other:?}"),
    };
    fs::remove_file(&note).unwrap();
    fs::create_dir(&note).unwrap();
    let (path, reason) = unreadable(&it);
    assert_eq!(path, note);
    assert!(reason.contains("not a regular file"), "{reason}");
    let refused = it.record_without_spool().unwrap_err();
    assert!(matches!(refused, OpenRecordingError::Storage(_)) && refused.is_trouble(), "{refused}");
    fs::remove_dir(&note).unwrap();
    fs::write(&note, "{").unwrap();
    let (_, reason) = unreadable(&it);
    assert!(reason.contains("not understood"), "{reason}");
    // Its contents are unknown; the next recorder writes it again.
    it.record();
    assert!(matches!(it.node.backup().spool_sight(), SpoolStatus::Behind(_)));
    fs::write(&note, "{").unwrap();
    it.record_without_spool().unwrap();
    assert!(!note.exists());
}
