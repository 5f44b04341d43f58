//! A backup that is to be replaced while changes are in its spool.

use super::*;
use crate::create::Created;
use crate::create::replace::ReplaceError;
use crate::create::replace::StaleDatabase;
use crate::create::{CreateError, DamagedDatabase, replace_backup};
use crate::storage::unused_name::unused_name;
use format::units::Timestamp;

impl Spooled {
    fn replace(&self) -> Result<Created, CreateError> {
        let (url, database) = (&self.node.backup_lock.backend_url, self.node.database());
        replace_backup(
            url,
            self.node.dir.path(),
            Some(&database),
            DamagedDatabase::Refuse,
            StaleDatabase::Refuse,
            &mut |_| ControlFlow::Continue(()),
        )
    }

    fn refusal(&self) -> ReplaceError {
        match self.replace() {
            Err(CreateError::Replace(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    /// As if the database had been restored from the backup, which is behind the spool.
    fn put_database_back(&self, version: u32) {
        self.node.connection.execute("UPDATE vars SET intval = ? WHERE name = 'data_version'", [version]).unwrap();
    }
}

/// A regression: a database restored from a backup that was behind its spool was taken for the newest state, and the node could
/// start on it.
#[test]
fn a_database_that_is_older_than_the_spool_is_no_beginning_of_a_new_backup() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 4);
    drop(recording);
    it.put_database_back(11);
    let refused = it.refusal();
    let text = refused.to_string();
    assert!(matches!(refused, ReplaceError::DatabaseIsBehindSpool { .. }), "{text}");
    assert!(text.contains("version 15") && text.contains("at version 11"), "{text}");
    // Nor while the backup is unreachable, or was renamed already when power failed.
    it.node.backup_lock.create(it.node.dir.path()).unwrap();
    let away = it.node.dir.path().join("away");
    fs::rename(it.node.backup_path(), &away).unwrap();
    assert!(matches!(it.refusal(), ReplaceError::NothingThere { .. }));
    let aside = unused_name(it.node.backup_path(), Timestamp::now()).unwrap();
    fs::rename(&away, &aside).unwrap();
    assert!(matches!(it.refusal(), ReplaceError::DatabaseIsBehindSpool { .. }));
    assert!(!it.node.backup_path().exists());
    fs::rename(&aside, it.node.backup_path()).unwrap();
    // Nor when the newest version of the spool is unknown.
    let disk = it.node.dir.path().join("disk");
    fs::rename(&it.root, &disk).unwrap();
    let refused = it.refusal();
    assert!(matches!(refused, ReplaceError::Spool { source: SpoolError::NotThere { .. }, .. }), "{refused}");
    assert!(refused.to_string().contains("backup.spool"), "{refused}");
    fs::rename(&disk, &it.root).unwrap();
    // Nothing was changed: with the right database the node continues.
    it.put_database_back(15);
    drain(&mut it.reopened().unwrap()).unwrap();
    it.expect_all_once("after the refusals");
}

/// A regression: a recorder that spools does not hold the lock of the backup.
#[test]
fn a_recorder_that_spools_uses_the_backup() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 1);
    let refused = it.refusal();
    assert!(matches!(&refused, ReplaceError::InUse { path } if *path == it.spool()), "{refused}");
    drop(recording);
    let created = it.replace().unwrap();
    assert_eq!(created.left_spool, Some(it.spool()), "it is the operator's to keep or to delete");
    assert_eq!(it.node.newest_contents(), (it.node.version, contents(&it.node.connection)));
    it.node.backup_lock.backup_uuid = Some(created.uuid);
    assert!(it.reopened().is_none(), "the spool of the old backup does not matter");
    assert_eq!(it.replace().unwrap().left_spool, None);
}
