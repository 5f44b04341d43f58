//! A missing spool is not an empty one.

use super::*;
use format::change_flags::{ChangeFlags, RunStart};
use format::spool::SpoolHeader;

impl Spooled {
    fn open_spool(&self) -> Result<Option<BackupWriter>, SpoolError> {
        BackupWriter::open_spool(&self.node.backup_lock, self.node.dir.path(), SHORT, &Arc::default())
    }

    fn marker(&self) -> PathBuf {
        self.node.dir.path().join(SpoolMarker::FILE_NAME)
    }

    /// As if the disk were not mounted that the spool is on: the mount point is there, and maybe something below it.
    fn unmount(&self, below: impl FnOnce(&Path)) {
        fs::rename(&self.root, self.node.dir.path().join("disk")).unwrap();
        below(&self.root);
    }

    fn mount(&self) {
        if self.root.exists() {
            fs::remove_dir_all(&self.root).unwrap();
        }
        fs::rename(self.node.dir.path().join("disk"), &self.root).unwrap();
    }
}

/// A regression: the recorder continued with the backup, behind acknowledged changes that it could not see.
#[test]
fn changes_on_a_disk_that_is_not_mounted_are_a_refusal_that_names_it() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 3);
    drop(recording);
    let uuid = it.uuid();
    let nothing = |_: &Path| {};
    let mount_point = |root: &Path| fs::create_dir(root).unwrap();
    // What a start without changes leaves there.
    let made = |root: &Path| drop(spool_directory(root, uuid).unwrap());
    for below in [&nothing as &dyn Fn(&Path), &mount_point, &made] {
        it.unmount(below);
        let refused = it.open_spool().unwrap_err();
        assert!(matches!(refused, SpoolError::NotThere { .. }), "{refused}");
        let text = refused.to_string();
        assert!(text.contains(&it.spool().display().to_string()) && text.contains("backup.spool"), "{text}");
        it.mount();
    }
    let mut recording = it.reopened().unwrap();
    assert_eq!(recording.spooled().unwrap().1.changes, 3);
    drain(&mut recording).unwrap();
    assert!(!it.marker().exists());
    it.unmount(nothing);
    assert!(it.open_spool().unwrap().is_none(), "nothing is missing any more");
}

#[test]
fn another_spool_in_its_place_is_not_taken_for_it() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 1);
    drop(recording);
    let header = contents::read_header(&RealDirectory::new(it.spool())).unwrap().unwrap();
    let uuid = it.uuid();
    it.unmount(|root| {
        let header = SpoolHeader { begun: Timestamp::from_micros(1).unwrap(), ..header };
        fs::write(spool_directory(root, uuid).unwrap().path().join(names::SPOOL_HEADER), header.encode()).unwrap();
    });
    let refused = it.open_spool().unwrap_err();
    assert!(matches!(refused, SpoolError::NotThere { .. }), "{refused}");
}

#[test]
fn a_spool_that_is_not_named_any_more_is_found_without_the_backup() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 2);
    drop(recording);
    let elsewhere = OnUnreachable::Spool { directory: it.node.dir.path().join("other"), wait: Duration::ZERO };
    for policy in [OnUnreachable::Stop, elsewhere] {
        it.node.backup_lock.on_unreachable = policy;
        let refused = it.open_spool().unwrap_err();
        assert!(matches!(refused, SpoolError::Forgotten { changes: 2, .. }), "{refused}");
        assert!(refused.to_string().contains(&it.spool().display().to_string()), "{refused}");
    }
    it.node.backup_lock.on_unreachable = OnUnreachable::Stop;
    it.unmount(|_| {});
    let refused = it.open_spool().unwrap_err();
    assert!(matches!(refused, SpoolError::NotThere { .. }), "{refused}");
}

#[test]
fn a_marker_that_is_not_understood_or_cannot_be_read_is_not_passed_over() {
    let it = Spooled::new();
    for (bytes, expected) in [("{", "EOF"), (r#"{"backup_uuid":"x","path":"/s","begun_us":1}"#, "`x`")] {
        fs::write(it.marker(), bytes).unwrap();
        let refused = it.open_spool().unwrap_err();
        assert!(matches!(refused, SpoolError::BadMarker { .. }), "{refused}");
        assert!(refused.to_string().contains(expected) && refused.to_string().contains("backup.spool"), "{refused}");
    }
    fs::remove_file(it.marker()).unwrap();
    fs::create_dir(it.marker()).unwrap();
    let refused = it.open_spool().unwrap_err();
    assert!(matches!(refused, SpoolError::Marker(_)), "{refused}");
}

#[test]
fn the_marker_of_another_backup_says_nothing_and_stays() {
    let it = Spooled::new();
    let text = format!(r#"{{"backup_uuid":"{}","path":"/s","begun_us":1}}"#, uuid::Uuid::from_u128(7));
    fs::write(it.marker(), &text).unwrap();
    assert!(it.open_spool().unwrap().is_none());
    it.record();
    clear_spool(&RealDirectory::new(it.spool()), &RealDirectory::new(it.node.dir.path())).unwrap();
    assert_eq!(fs::read_to_string(it.marker()).unwrap(), text);
}

/// Spool and marker are on two disks: whichever call to either is the last before a power cut, the state is not refused, and
/// while a change is only in the spool the marker exists.
#[test]
fn no_power_cut_leaves_a_marker_alone_or_a_change_without_one() {
    /// Begins a spool, puts a change in it, and empties it. Whether the change was acknowledged, and is not drained.
    fn play(
        it: &Spooled,
        spool: &Arc<FaultyDirectory>,
        beside_lock: &FaultyDirectory,
    ) -> Result<(), (bool, SpoolError)> {
        let manifest = it.node.backup().manifest().clone();
        let (from, begun) = ((format::units::Seq::new(9).unwrap(), 7), Timestamp::now());
        let header = SpoolHeader { from, attempted: Vec::new(), newest: None, begun, manifest };
        let begun = HeldSpool::begin(Arc::clone(spool) as _, beside_lock, header, SHORT);
        let mut held = begun.map_err(|error| (false, error))?;
        let (version, statements) = (DataVersion::new(11), it.node.statements("spooled"));
        let first = ChangeFlags::verified(RunStart::First);
        let bump = format::version_rules::Bump::Present;
        held.log.push_change(version, Timestamp::now(), first, bump, &statements).unwrap();
        held.log.commit().map_err(|error| (false, error.into()))?;
        // From here on the backup has it, once one log is gone.
        clear_spool(&**spool, beside_lock).map_err(|error| (!contents::logs(&**spool).unwrap().is_empty(), error))
    }
    let on_both = |which: usize, nth: u64| {
        let it = Spooled::new();
        let spool = spool_directory(&it.root, it.uuid()).unwrap();
        let disks = [Arc::new(FaultyDirectory::new(spool.path())), Arc::new(FaultyDirectory::new(it.node.dir.path()))];
        disks[which].fail_nth(nth);
        let played = play(&it, &disks[0], &disks[1]);
        (it, disks[which].calls(), played)
    };
    for which in [0, 1] {
        let (_, calls, played) = on_both(which, u64::MAX / 2);
        played.unwrap();
        assert!(calls >= 6, "{calls} calls");
        for nth in 0..calls {
            let (it, _, played) = on_both(which, nth);
            let what = format!("disk {which}, call {nth}");
            let (in_spool_alone, _) = played.expect_err(&what);
            let there = it.open_spool().unwrap_or_else(|error| panic!("{what}: {error}")).is_some();
            assert!(there || !in_spool_alone, "{what}");
            assert_eq!(it.marker().exists(), there, "{what}: none is left for an empty spool");
        }
    }
}

#[test]
fn the_lightning_dir_knows_that_the_backup_is_not_all_there_is() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 1);
    drop(recording);
    let beside = |it: &Spooled| it.node.backup().spool_sight_beside(it.node.dir.path());
    assert!(matches!(beside(&it), SpoolStatus::Behind(_)));
    it.unmount(|_| {});
    let SpoolStatus::Unreadable { path, reason } = beside(&it) else { panic!("it is not known to be all") };
    assert_eq!(path, it.spool());
    assert!(reason.contains("backup.spool"), "{reason}");
    assert!(
        matches!(it.node.backup().spool_sight(), SpoolStatus::OutOfSight { .. }),
        "the spool of another machine is out of sight"
    );
    it.mount();
    drain(&mut it.reopened().unwrap()).unwrap();
    assert_eq!(beside(&it), SpoolStatus::Complete);
}

/// A regression: restoring an older copy of a backup, into the lightning-dir with the location of the spool, gave an old state
/// without a warning.
#[test]
fn a_copy_of_the_backup_without_a_note_is_behind_the_spool_that_the_lightning_dir_names() {
    let mut it = Spooled::new();
    let (mut recording, _) = it.spooling();
    it.spool_more(&mut recording, 3);
    drop(recording);
    fs::remove_file(it.node.backup_path().join(names::SPOOL_NOTE)).unwrap();
    assert_eq!(it.node.backup().spool_sight(), SpoolStatus::Complete, "the spool of another machine is out of sight");
    let sight = it.node.backup().spool_sight_beside(it.node.dir.path());
    assert!(matches!(&sight, SpoolStatus::Behind(behind) if behind.changes == 3), "{sight:?}");
    drain(&mut it.reopened().unwrap()).unwrap();
    assert_eq!(it.node.backup().spool_sight_beside(it.node.dir.path()), SpoolStatus::Complete);
}
