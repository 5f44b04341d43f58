//! The invariants of every state of a disk.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::disk::{Disk, Tree};
use super::home::{BACKUP, Home, LIGHTNING_DIR, LIMITS, drain};
use super::model::{Existence, Promise, State};
use super::onward::{BEGINS_A_LOG, Next};
use crate::backup::Backup;
use crate::backup::views::Views;
use crate::history::History;
use crate::pages::MountedOverlay;
use crate::parity::mending::first_member;
use crate::parity::set_file::ParitySet;
use crate::recording::BackupWriter;
use crate::seal::Sealer;
use crate::segment::version::Origin;
use crate::spool::{SpoolMarker, SpoolNote};
use crate::storage::causes::with_causes;
use crate::testing::contents;
use format::names;
use format::parity::Protected;
use format::units::DataVersion;
use format::version_rules::Commit;

/// The depth of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Versions, their statements, and further recording.
    Records,
    /// Also the database of every version, before and after sealing.
    Databases,
}

/// Checks that parity is sound where there is any, is of the files that are there, and had nothing to mend.
fn expect_parity(disk: &Disk, backup: &Backup) -> Result<(), String> {
    if let Some(healed) = backup.healed().first() {
        return Err(format!("parity had to mend {healed:?}"));
    }
    let directory = disk.directory(BACKUP).ok_or("there is no backup")?;
    for first in directory.list().map_err(|error| with_causes(&error))?.iter().filter_map(|name| first_member(name)) {
        let set = ParitySet::open(&*directory, first).map_err(|error| with_causes(&error))?;
        // The manifest and the note of checks are replaced before their parity is.
        let is_replaced = matches!(first, Protected::Manifest | Protected::Checked);
        if set.damaged_parity().next().is_some() || !is_replaced && set.damaged_data(&*directory).next().is_some() {
            return Err(format!("{} is not what its members need", set.path().display()));
        }
    }
    Ok(())
}

/// The state that a reader finds.
struct Found {
    /// By version: seq, whether it is a snapshot, statements.
    versions: BTreeMap<u32, (u64, bool, Vec<String>)>,
    newest_commit: Option<Commit>,
    history: History,
    backup: Arc<Backup>,
}

impl Found {
    fn read(home: &Home, disk: &Disk) -> Result<Self, String> {
        let backup = home.backup(disk)?;
        let (history, read) = backup.read_history();
        read.map_err(|error| with_causes(&error))?;
        let (mut listed, mut addresses) = (Vec::new(), Vec::new());
        let mut unreadable = Ok(());
        let all = history.for_versions_after(None, &mut |version| match history.records_of(version) {
            Ok(records) => {
                addresses.extend(records);
                listed.push(version.clone());
                ControlFlow::Continue(())
            }
            Err(error) => {
                unreadable = Err(with_causes(&error));
                ControlFlow::Break(())
            }
        });
        unreadable.and(all.map_err(|error| with_causes(&error)))?;
        let mut statements = backup.statements(&addresses).map_err(|error| with_causes(&error))?.into_iter();
        let mut versions = BTreeMap::new();
        for version in listed {
            let own = statements.by_ref().take(usize::try_from(version.statements).unwrap_or(usize::MAX)).collect();
            let is_snapshot = matches!(version.origin, Origin::Snapshot(_));
            versions.insert(version.data_version.get(), (version.seq.get(), is_snapshot, own));
        }
        let newest_commit = history.newest().map(|newest| newest.commit);
        expect_parity(disk, &backup)?;
        Ok(Self { versions, newest_commit, history, backup })
    }

    fn is(&self, state: &State) -> bool {
        self.versions.len() == state.versions.len()
            && self.versions.iter().zip(&state.versions).all(
                |((number, (seq, is_snapshot, statements)), (of, held))| {
                    (number, seq, is_snapshot, statements) == (of, &held.seq, &held.is_snapshot, &held.statements)
                },
            )
            && (!state.is_noted || self.newest_commit.is_some_and(|commit| commit != Commit::Unknown))
    }

    /// The newest matching state of these.
    fn expect(&self, possible: &[Arc<State>], who: &str) -> Result<Arc<State>, String> {
        possible.iter().rev().find(|state| self.is(state)).cloned().ok_or_else(|| {
            let short = |number: &u32, seq: u64, statements: usize| format!("{number} (seq {seq}, {statements})");
            let found: Vec<_> =
                self.versions.iter().rev().take(4).map(|(n, (seq, _, s))| short(n, *seq, s.len())).collect();
            let list = |state: &Arc<State>| {
                let newest: Vec<_> = state
                    .versions
                    .iter()
                    .rev()
                    .take(4)
                    .map(|(n, held)| short(n, held.seq, held.statements.len()))
                    .collect();
                let other = self.versions.iter().zip(&state.versions).find(
                    |((number, (seq, is_snapshot, statements)), (of, held))| {
                        (*number, seq, is_snapshot, statements) != (*of, &held.seq, &held.is_snapshot, &held.statements)
                    },
                );
                let other = other.map(|((number, (seq, is_snapshot, _)), (of, held))| {
                    format!(
                        "{number} (seq {seq}, snapshot {is_snapshot}) is not {of} (seq {}, snapshot {})",
                        held.seq, held.is_snapshot
                    )
                });
                format!("{} versions, newest {newest:?}, noted {}, {other:?}", state.versions.len(), state.is_noted)
            };
            let expected: Vec<_> = possible.iter().map(list).collect();
            format!(
                "{who} finds {} versions, newest {found:?}, {:?}; expected one of {expected:?}",
                self.versions.len(),
                self.newest_commit
            )
        })
    }

    /// Whether every version opens to what the node had.
    fn expect_databases(&self, state: &State) -> Result<(), String> {
        let views = Views::new(Arc::clone(&self.backup), 1 << 20);
        for (&number, held) in state.versions.iter().filter(|(_, held)| !held.contents.is_empty()) {
            let version = self.history.version(DataVersion::new(number)).map_err(|error| with_causes(&error))?;
            let plan = self.history.plan(&version.ok_or("a version is listed and not found")?);
            let view = views.open(&plan.map_err(|error| with_causes(&error))?).map_err(|error| with_causes(&error))?;
            let mounted = MountedOverlay::new(view.pages().clone());
            let rows = contents(&mounted.connect().map_err(|error| error.to_string())?);
            if rows != *held.contents {
                return Err(format!("version {number} has other rows: {rows:?} instead of {:?}", held.contents));
            }
        }
        Ok(())
    }
}

/// The state after draining the spool into the backup, of these; the disk is unchanged.
pub(super) fn state_of(home: &Home, tree: &Tree, possible: &[Arc<State>]) -> Result<Arc<State>, String> {
    let disk = Disk::of(tree.clone(), Vec::new());
    let mut recording = home.open_alone(&disk)?;
    drain(&disk, &mut recording)?;
    Found::read(home, &disk)?.expect(possible, "the next recorder")
}

/// The versions that a reader finds.
pub(super) fn versions(home: &Home, disk: &Disk) -> Result<Vec<u32>, String> {
    Ok(Found::read(home, disk)?.versions.into_keys().collect())
}

/// Checks the state after a power cut.
pub(super) fn check(home: &Home, tree: &Tree, promise: &Promise, depth: Depth) -> Result<(), String> {
    let disk = Disk::of(tree.clone(), Vec::new());
    if disk.directory(BACKUP).is_none() {
        let allowed = promise.existence == Existence::Maybe;
        return if allowed { Ok(()) } else { Err("there is no backup".to_owned()) };
    }
    let found = Found::read(home, &disk).map_err(|error| format!("a reader: {error}"))?;
    found.expect(&promise.backup, "a reader")?;
    let is_behind = !promise.whole.iter().any(|state| found.is(state));
    if is_behind && !tree.paths().contains_key(&format!("/{LIGHTNING_DIR}/{}", SpoolMarker::FILE_NAME)) {
        return Err("changes are in the spool, and nothing beside backup.lock says so".to_owned());
    }

    let opened = home.open_alone(&disk).map_err(|error| format!("recovery: {error}"))?;
    drop(opened);
    let once = disk.tree().paths();
    let mut recording = home.open_alone(&disk).map_err(|error| format!("a second recovery: {error}"))?;
    if once != disk.tree().paths() {
        return Err("recovering twice differs from once".to_owned());
    }
    let backup = disk.directory(BACKUP).ok_or("there is no backup")?;
    if recording.spooled().is_some() && !matches!(SpoolNote::read(&*backup), Ok(Some(_))) {
        return Err("the backup does not say where its spool is".to_owned());
    }
    drain(&disk, &mut recording).map_err(|error| format!("draining: {error}"))?;
    let left = disk.tree().paths();
    let is_left = |path: &String| path.ends_with(".tmp") || path.ends_with(names::PREALLOCATED);
    if let Some(path) = left.keys().filter(|path| path.starts_with(&format!("/{BACKUP}/"))).find(|path| is_left(path)) {
        return Err(format!("{path} is left"));
    }
    let found = Found::read(home, &disk).map_err(|error| format!("after recovery: {error}"))?;
    let state = found.expect(&promise.whole, "after recovery a reader")?;
    if depth == Depth::Databases {
        found.expect_databases(&state)?;
    }
    let grown = go_on(&mut recording, &state).map_err(|error| format!("going on: {error}"))?;
    let found = Found::read(home, &disk).map_err(|error| format!("behind what follows: {error}"))?;
    found.expect(std::slice::from_ref(&grown), "behind what follows a reader")?;
    if depth == Depth::Databases {
        let newest = recording.newest().ok_or("nothing is recorded")?.seq;
        let mut sealer = Sealer::new(found.backup, LIMITS).map_err(|error| with_causes(&error))?;
        sealer
            .advance(newest, &mut |_| ControlFlow::Continue(()))
            .map_err(|error| format!("sealing: {}", with_causes(&error)))?;
        let found = Found::read(home, &disk).map_err(|error| format!("sealed: {error}"))?;
        found.expect(&[grown], "sealed, a reader")?;
        found.expect_databases(&state)?;
    }
    Ok(())
}

/// Records three more changes, the last of which begins a log.
fn go_on(recording: &mut BackupWriter, state: &Arc<State>) -> Result<Arc<State>, String> {
    let mut state = Arc::clone(state);
    for bytes in [10, 10, BEGINS_A_LOG] {
        let next = Next::after(&state, recording, bytes);
        next.record(recording)?;
        state = next.state;
    }
    Ok(state)
}
