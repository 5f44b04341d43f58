//! The impact of damage: the versions that cannot be opened because of it.
//!
//! That is determined by opening: every version that damage may affect is opened as a mount would open it, and those of its pages
//! are read that may be affected. All other versions are skipped.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::RangeInclusive;

use super::VersionRanges;
use super::finding::{Findings, Where};
use crate::backup::Backup;
use crate::backup::view::{BuildError, View};
use crate::check::page_map::own_part;
use crate::history::History;
use crate::history::{ReplayPlan, Start};
use crate::log::RecordAddress;
use crate::pages::PageSource as _;
use crate::replay::ReplayError;
use crate::segment::version::Version;
use crate::storage::read_error::ReadError;
use format::page_map::{FAN_OUT, HEIGHT_MAX};
use format::segment::{Location, MapRoot};
use format::snapshot_ref::DeltaBase;
use format::units::{PageNo, Seq};

/// The unreadable parts of the files with pages.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    /// Segments that cannot be opened.
    pub(super) segments: BTreeSet<Seq>,
    /// Images, and nodes of page maps.
    pub(super) blocks: BTreeSet<(Seq, u64)>,
    /// Pages of snapshots.
    pub(super) snapshots: BTreeMap<Seq, Vec<RangeInclusive<u32>>>,
}

impl Unreadable {
    fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.blocks.is_empty() && self.snapshots.is_empty()
    }
}

/// Location of unreadable pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Segment(Seq),
    Block(Seq, u64),
    Snapshot(Seq, u32),
}

/// The pages that damage may affect, by location.
type Reached = BTreeMap<Source, Vec<RangeInclusive<u32>>>;

/// Determines the impact of damage.
pub(super) struct Costs<'a> {
    backup: &'a Backup,
    history: &'a History,
    unreadable: &'a Unreadable,
    findings: &'a mut Findings,
    /// Nodes below which everything is readable.
    sound: HashSet<(Seq, u64)>,
}

impl<'a> Costs<'a> {
    pub(super) fn new(
        backup: &'a Backup,
        history: &'a History,
        unreadable: &'a Unreadable,
        findings: &'a mut Findings,
    ) -> Self {
        Self { backup, history, unreadable, findings, sound: HashSet::new() }
    }

    /// Whether damage may affect the start pages of a replay.
    pub(super) fn reaches(&mut self, start: &Start) -> bool {
        !self.reached(start).is_empty()
    }

    /// Opens consecutive versions, and records for each why it cannot be opened; returns those.
    pub(super) fn open(&mut self, versions: &[Version]) -> VersionRanges {
        let mut lost = VersionRanges::default();
        let mut run: Option<Run> = None;
        for version in versions {
            let why = match self.history.plan(version) {
                Err(error) => vec![self.findings.add_read(&error)],
                Ok(plan) => {
                    let run = match run.as_mut().filter(|run| run.start == plan.start) {
                        Some(run) => run,
                        None => run.insert(Run {
                            start: plan.start,
                            reached: self.reached(&plan.start),
                            newest: None,
                            failed: None,
                        }),
                    };
                    self.open_one(run, &plan)
                }
            };
            for at in &why {
                self.findings.cost(at, |finding| finding.lost.add_ordinal(version.ordinal));
            }
            if !why.is_empty() {
                lost.add_ordinal(version.ordinal);
            }
        }
        lost
    }

    /// Records that none of the requested versions with the ordinals `own` can be opened.
    pub(super) fn whole(&mut self, error: &ReadError, own: (u64, u64), asked: (u64, u64)) -> VersionRanges {
        let mut lost = VersionRanges::default();
        lost.add(own.0, own.1);
        let lost = lost.within(asked.0, asked.1);
        let at = self.findings.add_read(error);
        self.findings.cost(&at, |finding| finding.lost.extend(&lost));
        lost
    }

    fn open_one(&mut self, run: &mut Run, plan: &ReplayPlan) -> Vec<Where> {
        if let Some((seq, at)) = &run.failed
            && plan.changes.iter().any(|change| change.seq() == *seq)
        {
            return vec![at.clone()];
        }
        let view = match View::build(self.backup, plan, run.newest.as_ref()) {
            Ok(view) => view,
            Err(BuildError { at, reason }) => {
                let found = self.why(plan, at, &reason);
                run.failed = at.map(|seq| (seq, found.clone()));
                return vec![found];
            }
        };
        let mut why = Vec::new();
        for pages in run.reached.values() {
            if let Err(error) = read_some(&view, pages) {
                why.push(self.findings.add_read(&error));
            }
        }
        run.newest = Some(view);
        why
    }

    /// The finding for a failed replay.
    fn why(&mut self, plan: &ReplayPlan, at: Option<Seq>, reason: &ReplayError) -> Where {
        let change = plan.changes.iter().find(|change| Some(change.seq()) == at);
        let (file, offset) = change.map_or_else(Default::default, |change| {
            let offset = match change.address {
                RecordAddress::Log { offset, .. } => Some(offset),
                RecordAddress::Segment { segment, interval, .. } => {
                    let timeline = self.backup.segments().timeline(segment).ok();
                    timeline.and_then(|timeline| timeline.interval(interval).map(|interval| interval.block.offset))
                }
            };
            (change.address.file_name(), offset)
        });
        self.findings.add_replay(&file, offset, reason)
    }

    fn reached(&mut self, start: &Start) -> Reached {
        let mut reached = Reached::new();
        if self.unreadable.is_empty() {
            return reached;
        }
        match *start {
            Start::Nothing(_) => {}
            Start::Segment(first, _) => self.reached_of_segment(first, &mut reached),
            Start::Snapshot(seq, snapshot) => {
                self.reached_of_snapshot(seq, &mut reached);
                match snapshot.base {
                    Some(DeltaBase::Snapshot(id)) => self.reached_of_snapshot(id.seq, &mut reached),
                    Some(DeltaBase::Segment(first)) => self.reached_of_segment(first, &mut reached),
                    None => {}
                }
            }
        }
        reached
    }

    fn reached_of_snapshot(&self, seq: Seq, reached: &mut Reached) {
        for (number, pages) in (0..).zip(self.unreadable.snapshots.get(&seq).into_iter().flatten()) {
            reached.insert(Source::Snapshot(seq, number), vec![pages.clone()]);
        }
    }

    fn reached_of_segment(&mut self, first: Seq, reached: &mut Reached) {
        let footer = match self.backup.segments().footer(first) {
            Ok(footer) if !self.unreadable.segments.contains(&first) => footer,
            _ => {
                reached.insert(Source::Segment(first), vec![1..=u32::MAX]);
                return;
            }
        };
        self.walk(footer.map, reached);
        // Pages that the segment changed later are read from before the segment.
        match footer.base.map(|base| (base, self.backup.segments().footer(base))) {
            Some((base, Err(_))) => {
                let own = self.backup.segments().open(first).map(|file| own_part(self.backup.segments(), &file).images);
                let pages = own.unwrap_or_default().into_iter().map(|(page, _)| page.get()..=page.get());
                reached.entry(Source::Segment(base)).or_default().extend(pages);
            }
            Some((_, Ok(base))) => self.walk(base.map, reached),
            None => {}
        }
        if let Some(id) = footer.snapshot {
            self.reached_of_snapshot(id.seq, reached);
        }
    }

    fn walk(&mut self, root: Option<MapRoot>, reached: &mut Reached) {
        if let Some(root) = root {
            self.node(root.location, root.height.min(HEIGHT_MAX), 0, &mut HashSet::new(), reached);
        }
    }

    /// Whether everything below a node is readable; unreadable pages are added to `reached`.
    fn node(
        &mut self,
        at: Location,
        height: u8,
        skipped: u64,
        seen: &mut HashSet<(Seq, u64)>,
        reached: &mut Reached,
    ) -> bool {
        let key = (at.segment, at.block.offset);
        let pages_below = u64::from(FAN_OUT).pow(height.into());
        if self.sound.contains(&key) || !seen.insert(key) {
            return true;
        }
        if self.is_unreadable(at, skipped, pages_below * u64::from(FAN_OUT), reached) {
            return false;
        }
        let Ok(node) = self.backup.segments().node(at) else {
            let pages = page(skipped)..=page(skipped + pages_below * u64::from(FAN_OUT) - 1);
            reached.entry(Source::Block(at.segment, at.block.offset)).or_default().push(pages);
            return false;
        };
        let mut sound = true;
        for slot in 0..FAN_OUT as usize {
            let Some(entry) = node.get(slot) else { continue };
            let skipped = skipped + slot as u64 * pages_below;
            sound &= match height.checked_sub(1) {
                Some(height) => self.node(entry, height, skipped, seen, reached),
                None => !self.is_unreadable(entry, skipped, 1, reached),
            };
        }
        if sound {
            self.sound.insert(key);
        }
        sound
    }

    /// Whether the images or the node at a location are unreadable; if so, all pages below it are added to `reached`.
    fn is_unreadable(&self, at: Location, skipped: u64, pages: u64, reached: &mut Reached) -> bool {
        let source = if self.unreadable.segments.contains(&at.segment) {
            Source::Segment(at.segment)
        } else if self.unreadable.blocks.contains(&(at.segment, at.block.offset)) {
            Source::Block(at.segment, at.block.offset)
        } else {
            return false;
        };
        reached.entry(source).or_default().push(page(skipped)..=page(skipped + pages - 1));
        true
    }
}

/// Versions whose replay begins with the same pages.
struct Run {
    start: Start,
    reached: Reached,
    /// The newest opened version.
    newest: Option<View>,
    /// The change that does not replay, with its finding.
    failed: Option<(Seq, Where)>,
}

fn page(skipped: u64) -> u32 {
    u32::try_from(skipped + 1).unwrap_or(u32::MAX)
}

/// Reads pages of a version until one fails. Pages that were written or truncated since are read elsewhere or not at all.
fn read_some(view: &View, pages: &[RangeInclusive<u32>]) -> Result<(), ReadError> {
    let mut out = vec![0; view.page_size().bytes()];
    for pages in pages {
        let pages = *pages.start()..=(*pages.end()).min(view.page_count());
        pages.filter_map(PageNo::new).try_for_each(|page| view.pages().read_page(page, &mut out))?;
    }
    Ok(())
}
