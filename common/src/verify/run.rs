//! A verification, from the manifest to the totals.

mod newest;
mod totals;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use super::baseline::{Baseline, open};
use super::directory::{InUse, check_names};
use super::finding::{Note, NoteAbout, Wrong};
use super::impact::Costs;
use super::jobs::{Found, Job, Progress, check_all};
use super::references::Reach;
use super::sealed::{self, Sealed};
use super::version_ranges::OPEN;
use super::{Depth, Report, Scope, VerifyError, VersionRanges, logs, spool, thinned};
use crate::backup::Backup;
use crate::backup::source::Source;
use crate::backup::view::View;
use crate::history::{NeededBy, Start};
use crate::log::torn_len;
use crate::parity::mending::first_member;
use crate::parity::set_file::ParitySet;
use crate::segment::live_record::LiveKind;
use crate::segment::timeline::PrecedingVersion;
use crate::segment::version::{Version, VersionOrdinal};
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Healed};
use format::names;
use format::pruned_directory::Thinned;
use format::segment::SnapshotId;
use format::snapshot_ref::DeltaBase;
use format::units::{DataVersion, Seq};

/// Verifies the backup at `source`. `watch` gets the number of verified bytes, and the total, from any thread.
///
/// # Errors
/// When the backup cannot be verified at all. Faults of a backup are in the report.
pub fn verify(
    source: impl Into<Source>,
    scope: Scope,
    watch: &(dyn Fn(u64, u64) + Sync),
) -> Result<Report, VerifyError> {
    let began = Instant::now();
    let mut found = Found::default();
    let (backup, manifest) = open(&source.into(), &mut found.findings)?;
    let baseline = Baseline::take(&backup)?;
    let oldest = baseline.oldest_ordinal(&backup);
    let behind = baseline.history.unsealed_versions().next().map(|version| version.ordinal.0);
    let mut firsts: BTreeSet<Seq> = baseline.history.sealed().iter().copied().collect();
    firsts.extend(baseline.names.iter().filter_map(|name| names::parse_segment(name)));
    let pruned = backup.segments().pruned();
    firsts.retain(|&first| pruned.as_ref().is_none_or(|pruned| pruned.range_of(first).is_none()));
    // While a segment cannot be read, its log counts if it still exists.
    let is_instead = |first: &Seq| baseline.history.oldest_log().is_none_or(|log| first < &log);
    let firsts: Vec<Seq> = firsts.into_iter().filter(is_instead).collect();
    let sealed = sealed::open_all(&backup, &firsts, (oldest, behind), scope.depth, &mut found.findings);
    found.unreadable.segments.extend(sealed.iter().filter(|one| one.file.is_none()).map(|one| one.first));
    let mut verification = Verification {
        backup,
        baseline,
        sealed,
        thinned: Vec::new(),
        oldest,
        depth: scope.depth,
        ordinals: (0, OPEN),
        found,
        lost: VersionRanges::default(),
    };
    verification.ordinals = verification.ordinals_of(scope)?;
    verification.thinned = thinned::asked_for(&pruned, verification.ordinals);
    let mut report = verification.run(scope, watch);
    if let Some(manifest) = manifest {
        let all = verification.all_versions();
        verification.found.findings.cost(&manifest, |finding| finding.lost.extend(&all));
        verification.lost.extend(&all);
    }
    // Dropped versions are not lost, although only `pruned` shows the difference.
    let dropped = verification.dropped();
    report.lost = verification.lost.without(&dropped);
    report.versions_lost = report.lost.count();
    verification.add_parity();
    report.findings = verification.found.findings.into_vec();
    for finding in &mut report.findings {
        (finding.lost, finding.in_doubt) = (finding.lost.without(&dropped), finding.in_doubt.without(&dropped));
    }
    report.findings.iter().for_each(|finding| report.in_doubt.extend(&finding.in_doubt));
    report.notes.extend(verification.found.notes);
    report.notes.sort_by(|a, b| a.file.cmp(&b.file));
    report.duration = began.elapsed();
    Ok(report)
}

struct Verification {
    backup: Arc<Backup>,
    baseline: Baseline,
    sealed: Vec<Sealed>,
    /// The thinned segments with requested versions.
    thinned: Vec<Thinned>,
    /// Ordinal of the first version.
    oldest: u64,
    depth: Depth,
    /// The range of ordinals that is verified, first and last.
    ordinals: (u64, u64),
    found: Found,
    lost: VersionRanges,
}

impl Verification {
    fn run(&mut self, scope: Scope, watch: &(dyn Fn(u64, u64) + Sync)) -> Report {
        let mut report = Report::default();
        let is_whole = scope.from.is_none() && scope.to.is_none();
        let parts = self.parts();
        let total_bytes = parts.iter().map(|(_, bytes)| bytes).sum();
        let progress = Progress { done_bytes: AtomicU64::new(0), total_bytes, watch };
        let found = std::mem::take(&mut self.found);
        self.found = check_all(&self.backup, &parts, self.depth, found, &progress);
        sealed::check_links(&self.backup, &self.sealed, self.ordinals, self.depth, &mut self.found.findings);
        if self.depth != Depth::Chain {
            self.reach(is_whole);
        }
        self.check_logs();
        let lost = sealed::cost_of_unopened(&self.sealed, self.ordinals, &mut self.found.findings);
        self.lost.extend(&lost);
        if self.depth != Depth::Chain {
            self.open_what_damage_reaches();
        }
        if is_whole {
            self.check_names();
            spool::check(&self.backup, &mut self.found.findings);
        }
        (report.newest, report.warnings) = self.check_newest();
        if is_whole {
            report.warnings.extend(self.damaged_snapshots());
        }
        (report.files, report.bytes) = self.sizes(&parts);
        report.versions = self.count_versions();
        report
    }

    /// The requested range of ordinals.
    fn ordinals_of(&self, scope: Scope) -> Result<(u64, u64), VerifyError> {
        let from = scope.from.map(|version| self.ordinal_of(version)).transpose()?;
        let to = scope.to.map(|version| self.ordinal_of(version)).transpose()?;
        match (scope.from, scope.to, from.unwrap_or(0), to.unwrap_or(OPEN)) {
            (Some(from), Some(to), first, last) if first > last => Err(VerifyError::Backwards { from, to }),
            (_, _, first, last) => Ok((first, last)),
        }
    }

    /// Ordinal of a version, also of one in a damaged file.
    fn ordinal_of(&self, version: DataVersion) -> Result<u64, VerifyError> {
        let found = self.baseline.history.version(version);
        if let Ok(Some(found)) = &found {
            return Ok(found.ordinal.0);
        }
        let newest = match self.baseline.history.newest_ordinal() {
            PrecedingVersion::Version(ordinal) => ordinal,
            PrecedingVersion::Nothing | PrecedingVersion::Unknown => VersionOrdinal(u32::MAX.into()),
        };
        let damaged = |ordinal: &VersionOrdinal| {
            self.sealed.iter().any(|one| one.file.is_none() && one.is_within(ordinal.0, ordinal.0))
        };
        let ordinal = newest.candidates(version).find(|ordinal| found.is_err() || damaged(ordinal));
        ordinal.map(|ordinal| ordinal.0).ok_or(VerifyError::UnknownVersion { version })
    }

    /// Adds what parity has mended, and damage of the parity itself.
    fn add_parity(&mut self) {
        let findings = &mut self.found.findings;
        for Healed { name, offset } in self.backup.healed() {
            findings.add(&name, Some(offset), Wrong::Mended);
        }
        for first in self.baseline.names.iter().filter_map(|name| first_member(name)) {
            match ParitySet::open(&**self.backup.directory(), first) {
                Ok(set) if set.table().uuid != self.backup.manifest().uuid => {
                    findings.add(&names::parity(&first.name()), None, Wrong::DamagedParity);
                }
                Ok(set) => {
                    for offset in set.damaged_parity() {
                        findings.add(&names::parity(&first.name()), Some(offset), Wrong::DamagedParity);
                    }
                }
                // It may have been replaced meanwhile.
                Err(ReadError::Storage(error)) if error.is_not_found() => {}
                Err(error) => {
                    log::debug!("{}", error.in_words());
                    findings.add(&names::parity(&first.name()), None, Wrong::DamagedParity);
                }
            }
        }
    }

    fn has(&self, version: &Version) -> bool {
        (self.ordinals.0..=self.ordinals.1).contains(&version.ordinal.0)
    }

    /// Whether the range includes unsealed versions.
    fn has_logs(&self) -> bool {
        self.ordinals.1 == OPEN || self.baseline.history.unsealed_versions().any(|version| self.has(version))
    }

    /// The segments with requested versions, as far as they can be opened.
    fn segments(&self) -> impl Iterator<Item = &Sealed> {
        let (first, last) = self.ordinals;
        let is_whole = (first, last) == (0, OPEN);
        self.sealed.iter().filter(move |one| one.file.is_some() && (is_whole || one.is_within(first, last)))
    }

    /// The files to be checked on their own, with their lengths, the longest first.
    fn parts(&self) -> Vec<(Job, u64)> {
        let mut snapshots: BTreeMap<Seq, (SnapshotId, Option<DataVersion>)> = BTreeMap::new();
        let mut parts = Vec::new();
        for one in self.segments() {
            let Some(file) = &one.file else { continue };
            if let Some(id) = file.footer().snapshot {
                snapshots.entry(id.seq).or_insert_with(|| (id, self.version_of_sealed(id.seq)));
            }
            parts.push(Job::Segment(Arc::clone(file)));
        }
        if self.baseline.names.iter().any(|name| name == names::PRUNED) {
            parts.push(Job::Pruned);
        }
        for (seq, snapshot) in self.baseline.history.unsealed_snapshots().filter(|_| self.has_logs()) {
            let version = self.baseline.history.unsealed_records().find(|record| record.seq() == seq);
            let id = SnapshotId { seq, footer_checksum: snapshot.footer_checksum };
            snapshots.insert(seq, (id, version.map(|record| record.about.data_version)));
            if let Some(DeltaBase::Snapshot(id)) = snapshot.base {
                snapshots.entry(id.seq).or_insert_with(|| (id, self.version_of_sealed(id.seq)));
            }
        }
        parts.extend(snapshots.into_values().map(|(id, version)| Job::Snapshot(id, version)));
        let mut parts: Vec<_> = parts
            .into_iter()
            .map(|part| {
                let bytes = self.len_of(&part.file_name());
                (part, bytes)
            })
            .collect();
        parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        parts
    }

    /// The version of the snapshot at the beginning of a segment.
    fn version_of_sealed(&self, seq: Seq) -> Option<DataVersion> {
        let timeline = self.backup.segments().timeline(seq).ok()?;
        let first = timeline.records().first().filter(|record| record.kind == LiveKind::Snapshot);
        first.map(|record| record.about.data_version)
    }

    fn len_of(&self, name: &str) -> u64 {
        let file = self.backup.directory().open(name, Access::Read);
        file.and_then(|file| file.read_len()).unwrap_or(0)
    }

    /// Checks what the requested versions need of other segments: of dropped ones, and unless it `is_whole` of those outside of
    /// the range.
    fn reach(&mut self, is_whole: bool) {
        let whole: BTreeSet<Seq> = self.segments().map(|one| one.first).collect();
        let bases = self.segments().filter_map(|one| one.file.as_ref()?.footer().base);
        let unsealed = self.baseline.history.unsealed_snapshots().filter_map(|(_, snapshot)| match snapshot.base {
            Some(DeltaBase::Segment(base)) => Some(base),
            _ => None,
        });
        let thinned: BTreeMap<Seq, NeededBy> = self
            .thinned
            .iter()
            .filter_map(|one| Some((one.segment, super::thinned::needed(one, &self.backup).ok()?)))
            .collect();
        let of_thinned = thinned.iter().flat_map(|(&first, needed)| {
            let footer = self.backup.segments().footer(first).ok();
            [Some(first), footer.and_then(|footer| footer.base).filter(|_| needed.reads_base())]
        });
        let bases = bases.chain(of_thinned.flatten());
        let mut needed: BTreeSet<Seq> =
            bases.chain(unsealed.filter(|_| self.has_logs())).filter(|base| !whole.contains(base)).collect();
        if self.has_logs() && !is_whole {
            needed.extend(self.baseline.history.sealed().last());
        }
        let Found { findings, unreadable, .. } = &mut self.found;
        let mut reach = Reach::new(&self.backup, (&whole, &thinned), findings, unreadable);
        needed.into_iter().for_each(|first| reach.end_of(first));
    }

    /// Checks the logs. Everything behind unreadable records is lost.
    fn check_logs(&mut self) {
        if !self.has_logs() {
            return;
        }
        let directory = &**self.backup.directory();
        let Err(error) = &self.baseline.read else {
            let logs: BTreeSet<Seq> =
                self.baseline.history.logs().chain(self.baseline.end.map(|(log, _)| log)).collect();
            let uuid = self.backup.manifest().uuid;
            logs::check_lengths(directory, uuid, logs, |name| name, &mut self.found.findings);
            self.note_torn_write();
            return;
        };
        let first_lost = match self.baseline.history.newest_ordinal() {
            PrecedingVersion::Version(ordinal) => ordinal.0.saturating_add(1),
            PrecedingVersion::Nothing => self.oldest,
            PrecedingVersion::Unknown => {
                self.sealed.iter().map(|one| one.ordinals.1).filter(|&last| last != OPEN).max().unwrap_or(0) + 1
            }
        };
        // A fault of a segment is reported for the segment.
        let of_segment = self.baseline.next_seq.is_some_and(|next| self.found.unreadable.segments.contains(&next));
        let at = (!of_segment).then(|| self.found.findings.add_read(error));
        let mut logs: Vec<Seq> = self.baseline.names.iter().filter_map(|name| names::parse_log(name)).collect();
        logs.sort_unstable();
        let from = match (error, self.baseline.end) {
            (ReadError::Damaged { path, offset, .. }, _) => {
                let log = path.file_name().and_then(|name| names::parse_log(name.to_str()?));
                log.filter(|log| logs.contains(log)).map(|log| (log, *offset))
            }
            (ReadError::Storage(_) | ReadError::NewestUnreadable { .. }, end) => end,
        };
        if from.is_none() {
            let next = self.baseline.next_seq;
            logs.retain(|log| next.is_some_and(|next| *log >= next));
        }
        let behind = logs::look_behind(directory, self.backup.manifest().uuid, from, &logs, &mut self.found.findings);
        let before = VersionOrdinal(first_lost.saturating_sub(1));
        let last_lost = behind.newest.map_or(OPEN, |version| match version.distance_from(before.data_version()) {
            1.. => before.of_later(version).0,
            // Only commits of versions that were read.
            _ => before.0,
        });
        let mut lost = VersionRanges::default();
        lost.add(first_lost, last_lost);
        let lost = lost.within(self.ordinals.0, self.ordinals.1);
        for at in at.iter().chain(&behind.found) {
            self.found.findings.cost(at, |finding| finding.lost.extend(&lost));
        }
        self.lost.extend(&lost);
    }

    fn note_torn_write(&mut self) {
        let Some((log, offset)) = self.baseline.end else { return };
        let name = names::log(log);
        let file = self.backup.directory().open(&name, Access::Read);
        let torn = file.map_err(ReadError::from).and_then(|file| torn_len(&*file, offset));
        // A running recorder has written more since.
        let is_at_work =
            self.backup.look_at_lock().is_ok_and(|look| look != crate::backup::lock_status::LockStatus::NotSeen);
        if let Ok(bytes @ 1..) = torn
            && !is_at_work
        {
            self.found.notes.push(Note { file: name, about: NoteAbout::TornWrite { bytes } });
        }
    }

    /// Opens every version that damage may affect, and the unsealed ones through the last of them.
    fn open_what_damage_reaches(&mut self) {
        let of_segments: Vec<Seq> = self.segments().map(|one| one.first).collect();
        let ordinals = self.ordinals;
        let Found { findings, unreadable, damaged, .. } = &mut self.found;
        let mut lost = VersionRanges::default();
        let mut costs = Costs::new(&self.backup, &self.baseline.history, unreadable, findings);
        for one in &self.thinned {
            lost.extend(&thinned::open(&self.backup, one, self.depth, damaged, &mut costs));
        }
        for first in of_segments {
            let start = Start::Segment(first, crate::segment::SealedState::End);
            if !damaged.contains(&first) && !costs.reaches(&start) {
                continue;
            }
            match self.backup.segments().timeline(first) {
                Ok(timeline) => {
                    let versions = timeline.versions().iter();
                    let versions: Vec<_> =
                        versions.filter(|it| (ordinals.0..=ordinals.1).contains(&it.ordinal.0)).cloned().collect();
                    lost.extend(&costs.open(&versions));
                }
                Err(error) => {
                    let one = self.sealed.iter().find(|one| one.first == first);
                    lost.extend(&costs.whole(&error, one.map_or((1, 0), |one| one.ordinals), ordinals));
                }
            }
        }
        let mut runs: Vec<(Start, Vec<Version>)> = Vec::new();
        for version in self.baseline.history.unsealed_versions() {
            let Ok(plan) = self.baseline.history.plan(version) else { continue };
            match runs.last_mut().filter(|(start, _)| *start == plan.start) {
                Some((_, versions)) => versions.push(version.clone()),
                None => runs.push((plan.start, vec![version.clone()])),
            }
        }
        for (start, versions) in runs {
            let asked: Vec<_> =
                versions.into_iter().filter(|it| (ordinals.0..=ordinals.1).contains(&it.ordinal.0)).collect();
            // Opening the last version replays all of them.
            let opens = |version: &Version| {
                let plan = self.baseline.history.plan(version);
                plan.is_ok_and(|plan| View::build(&self.backup, &plan, None).is_ok())
            };
            let replays = self.depth == Depth::Quick || asked.last().is_none_or(opens);
            if !replays || costs.reaches(&start) {
                lost.extend(&costs.open(&asked));
            }
        }
        self.lost.extend(&lost);
    }

    fn check_names(&mut self) {
        let mut in_use = InUse::default();
        in_use.segments.extend(self.sealed.iter().map(|one| one.first));
        let is_file = |first: &&Seq| !self.thinned.iter().any(|one| one.segment == **first);
        in_use.segments.extend(self.baseline.history.sealed().iter().filter(is_file));
        in_use.logs.extend(self.baseline.history.logs());
        in_use.logs.extend(self.baseline.end.map(|(log, _)| log));
        if self.baseline.read.is_err() {
            // Logs behind damage are reported with it.
            in_use.logs.extend(self.baseline.names.iter().filter_map(|name| names::parse_log(name)).filter(|log| {
                self.baseline.history.oldest_log().or(self.baseline.next_seq).is_none_or(|first| *log >= first)
            }));
        }
        in_use.snapshots.extend(self.baseline.history.unsealed_snapshots().map(|(seq, _)| seq));
        in_use.snapshots.extend(self.sealed.iter().filter_map(|one| Some(one.file.as_ref()?.footer().snapshot?.seq)));
        let bases = self.baseline.history.unsealed_snapshots().filter_map(|(_, snapshot)| snapshot.base);
        in_use.snapshots.extend(bases.map(DeltaBase::seq));
        if let Some(pruned) = self.backup.segments().pruned() {
            in_use.dropped = pruned.ranges().to_vec();
        }
        let Found { findings, notes, .. } = &mut self.found;
        check_names(&self.backup, &self.baseline.names, &in_use, findings, notes);
    }
}
