//! The segments of a backup against each other: their expected versions, and whether each continues the one before it.

use std::sync::Arc;

use super::finding::{Findings, Where, Wrong};
use super::version_ranges::OPEN;
use super::{Depth, VersionRanges};
use crate::backup::Backup;
use crate::segment::timeline::Timeline;
use crate::segment::{SegmentFile, ends_of};
use crate::storage::Access;
use crate::storage::read_error::ReadError;
use format::pruned_directory::PrunedRange;
use format::record::first_link;
use format::segment::{FollowedBy, SegmentFooter};
use format::snapshot_ref::DeltaBase;
use format::units::Seq;
use format::{Damage, names};

/// An expected segment.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) first: Seq,
    /// `None` when it cannot be opened.
    pub(super) file: Option<Arc<SegmentFile>>,
    /// The range of ordinals of its versions, as far as known; empty when the first is greater than the last.
    pub(super) ordinals: (u64, u64),
    /// Number of its versions, if known.
    pub(super) versions: Option<u64>,
    /// The finding that explains why it cannot be opened.
    pub(super) why: Option<Where>,
}

impl Sealed {
    /// Whether it has versions in this range of ordinals.
    pub(super) fn is_within(&self, first: u64, last: u64) -> bool {
        self.ordinals.0 <= self.ordinals.1 && self.ordinals.0 <= last && self.ordinals.1 >= first
    }

    fn footer(&self) -> Option<&SegmentFooter> {
        self.file.as_deref().map(SegmentFile::footer)
    }
}

/// The number of segments whose beginnings and ends are fetched at once.
const FETCHED_AT_ONCE: usize = 512;

/// Has the beginnings and ends of these segments fetched at once, where each read has a long way.
fn fetch_ends(backup: &Backup, firsts: &[Seq]) {
    let directory = &**backup.directory();
    let mut wanted = Vec::with_capacity(firsts.len() * 2);
    for name in firsts.iter().map(|&first| names::segment(first)) {
        // Whatever is wrong with it is found when it is opened.
        let Ok(len) = directory.open(&name, Access::Read).and_then(|file| file.read_len()) else { continue };
        wanted.extend(ends_of(&name, len));
    }
    directory.will_need(&wanted);
}

/// Opens the segments that begin with these seqs, ascending. `oldest` is the ordinal of the first version of the backup, `behind`
/// that of the first unsealed version.
pub(super) fn open_all(
    backup: &Backup,
    firsts: &[Seq],
    (oldest, behind): (u64, Option<u64>),
    depth: Depth,
    findings: &mut Findings,
) -> Vec<Sealed> {
    let mut all: Vec<Sealed> = Vec::new();
    let pruned = backup.segments().pruned();
    // Dropped segments are not missing.
    let behind_range = |next: Seq| {
        let range = pruned.as_ref().and_then(|pruned| pruned.range_at(next));
        range.map_or(next, |range| range.last_seq.next())
    };
    for (at, &first) in firsts.iter().enumerate() {
        if depth == Depth::Chain && at % FETCHED_AT_ONCE == 0 {
            fetch_ends(backup, &firsts[at..firsts.len().min(at + FETCHED_AT_ONCE)]);
        }
        let opened = backup.segments().open(first);
        let expected = match all.last() {
            None => Some(Seq::FIRST),
            Some(before) => before.footer().map(|footer| footer.last_seq.next()),
        };
        let expected = expected.map(behind_range).filter(|&expected| expected < first);
        if let (Ok(file), Some(expected)) = (&opened, expected) {
            all.push(missing(expected, file.footer(), findings));
        }
        let why = opened.as_ref().err().map(|error| findings.add_read(error));
        all.push(Sealed { first, file: opened.ok(), ordinals: (1, 0), versions: None, why });
    }
    set_places(&mut all, oldest, behind);
    all
}

/// A missing segment before the one with this footer.
fn missing(first: Seq, next: &SegmentFooter, findings: &mut Findings) -> Sealed {
    debug_assert!(next.last_seq > first);
    let why = Some(findings.add(&names::segment(first), None, Wrong::Missing));
    Sealed { first, file: None, ordinals: (1, 0), versions: None, why }
}

fn set_places(all: &mut [Sealed], oldest: u64, behind: Option<u64>) {
    let mut next = oldest;
    // An unopened segment has the ordinals between its neighbours.
    for position in 0..all.len() {
        let (ordinals, versions) = match all[position].footer() {
            Some(footer) if footer.versions == 0 => ((1, 0), Some(0)),
            Some(footer) if footer.versions_before == 0 => ((oldest, footer.ordinal), Some(footer.versions.into())),
            Some(footer) => ((footer.ordinal_before + 1, footer.ordinal), Some(footer.versions.into())),
            None => {
                let later = all.iter().skip(position + 1).find_map(Sealed::footer);
                let last = later.map(|footer| footer.ordinal_before).or(behind.map(|first| first.saturating_sub(1)));
                ((next, last.unwrap_or(OPEN)), None)
            }
        };
        if let Some(footer) = all[position].footer() {
            next = footer.ordinal.saturating_add(1).max(next);
        }
        (all[position].ordinals, all[position].versions) = (ordinals, versions);
    }
}

/// Records the impact of segments that cannot be opened.
pub(super) fn cost_of_unopened(sealed: &[Sealed], (first, last): (u64, u64), findings: &mut Findings) -> VersionRanges {
    let mut lost = VersionRanges::default();
    for one in sealed {
        let mut of_one = VersionRanges::default();
        if let Some(why) = &one.why {
            of_one.add(one.ordinals.0, one.ordinals.1);
            let of_one = of_one.within(first, last);
            findings.cost(why, |finding| finding.lost.extend(&of_one));
            lost.extend(&of_one);
        }
    }
    lost
}

/// Checks that each segment of `sealed` with versions in this range of ordinals continues the one before it.
/// What a segment builds on is compared with its first record, unless only the chain is asked for.
pub(super) fn check_links(
    backup: &Backup,
    sealed: &[Sealed],
    (first, last): (u64, u64),
    depth: Depth,
    findings: &mut Findings,
) {
    for (position, one) in sealed.iter().enumerate() {
        if (first, last) != (0, OPEN) && !one.is_within(first, last) {
            continue;
        }
        let before = position.checked_sub(1).and_then(|position| sealed.get(position));
        let Some(file) = &one.file else { continue };
        let mut problems = Vec::new();
        let mut before = match before {
            None => Before::Beginning,
            Some(Sealed { file: Some(before), .. }) => Before::Segment(Arc::clone(before)),
            Some(_) => Before::Unknown,
        };
        if let Some(range) = range_before(backup, &before) {
            let fits = before.link(backup).is_none_or(|link| {
                link == (range.first_seq, range.previous_checksum, range.versions_before, range.ordinal_before)
            });
            let end = backup.segments().open(range.last_segment);
            let fits = fits && end.as_ref().is_ok_and(|end| is_end_of(end.footer(), &range));
            if !fits {
                let what = "what it says of dropped segments does not fit between those beside them";
                problems.push(ReadError::damaged(&backup.path().join(names::PRUNED), 0, Damage::Contradiction(what)));
            }
            before = end.map_or(Before::Unknown, Before::Segment);
        }
        if let Some(link) = before.link(backup) {
            check_link(file, link, &mut problems);
        }
        if depth != Depth::Chain {
            problems.extend(check_base(backup, file, before.segment()).err());
        }
        for problem in problems {
            let at = findings.add_read(&problem);
            findings.cost(&at, |finding| finding.in_doubt.add(one.ordinals.0, one.ordinals.1));
        }
    }
}

/// The predecessor of a segment.
enum Before {
    /// None: it is the first one.
    Beginning,
    /// This segment, whole or pruned.
    Segment(Arc<SegmentFile>),
    /// Unknown, because it cannot be opened.
    Unknown,
}

/// The state behind a segment or range: next seq, checksum of the last record, number of versions so far, and ordinal of the newest
/// of them.
type Link = (Seq, u32, u64, u64);

impl Before {
    fn segment(&self) -> Option<&SegmentFile> {
        match self {
            Self::Segment(file) => Some(file),
            Self::Beginning | Self::Unknown => None,
        }
    }

    /// The state that the next segment, or range, must continue; `None` when unknown.
    fn link(&self, backup: &Backup) -> Option<Link> {
        match self {
            Self::Beginning => Some((Seq::FIRST, first_link(backup.manifest().uuid), 0, 0)),
            Self::Segment(file) => {
                let footer = file.footer();
                let versions = footer.versions_before.saturating_add(footer.versions.into());
                Some((footer.last_seq.next(), footer.last_checksum, versions, footer.ordinal))
            }
            Self::Unknown => None,
        }
    }
}

/// The range that follows.
fn range_before(backup: &Backup, before: &Before) -> Option<PrunedRange> {
    let (first, ..) = before.link(backup)?;
    backup.segments().pruned()?.range_at(first).cloned()
}

/// Whether a range ends with this segment.
fn is_end_of(footer: &SegmentFooter, range: &PrunedRange) -> bool {
    let versions = footer.versions_before.saturating_add(footer.versions.into());
    (footer.last_seq, versions) == (range.last_seq, range.versions_before.saturating_add(range.versions))
}

/// Offsets of two fields of a segment header.
const FIRST_SEQ_AT: u64 = 32;
const PREVIOUS_CHECKSUM_AT: u64 = 40;

fn check_link(file: &SegmentFile, (first, checksum, versions, ordinal): Link, problems: &mut Vec<ReadError>) {
    let (header, footer) = (file.header(), file.footer());
    let mut check = |fits: bool, offset, what| {
        if !fits {
            problems.push(file.damaged(offset, Damage::Contradiction(what)));
        }
    };
    check(header.first_seq == first, FIRST_SEQ_AT, "it does not begin with the record behind the segment before it");
    check(header.previous_checksum == checksum, PREVIOUS_CHECKSUM_AT, "it does not continue the segment before it");
    let fits = (footer.versions_before, footer.ordinal_before) == (versions, ordinal);
    check(fits, file.footer_offset(), "it says other versions to be before it than there are");
}

/// Checks the base of a segment against its first record.
fn check_base(backup: &Backup, file: &SegmentFile, before: Option<&SegmentFile>) -> Result<(), ReadError> {
    let (first, footer) = (file.first_seq(), file.footer());
    // Faults of its records are reported elsewhere.
    let Ok(timeline) = backup.segments().timeline(first) else { return Ok(()) };
    let before = before.map(|before| (before.first_seq(), before.footer()));
    let (base, snapshot, newest) = match timeline.snapshot() {
        None => match before {
            Some((first, footer)) => (Some(first), footer.snapshot, footer.newest_snapshot),
            // Unreadable, or absent: then it begins from nothing.
            None => (footer.base, footer.snapshot, footer.newest_snapshot),
        },
        Some(snapshot) => match snapshot.base {
            None => {
                let of_footer = footer.snapshot.filter(|id| id.footer_checksum == snapshot.footer_checksum);
                (None, of_footer.filter(|id| id.seq == first), Some(first))
            }
            Some(DeltaBase::Snapshot(id)) => (None, Some(id), Some(first)),
            Some(DeltaBase::Segment(base)) => {
                let of_base = backup.segments().footer(base).map_or(footer.snapshot, |base| base.snapshot);
                (Some(base), of_base, Some(first))
            }
        },
    };
    let needs_snapshot = timeline.snapshot().is_some_and(|snapshot| snapshot.base.is_none());
    let follows = match &before {
        Some((before, _)) => what_follows(backup, *before, &timeline),
        None => None,
    };
    let what = if (base, snapshot, newest) != (footer.base, footer.snapshot, footer.newest_snapshot)
        || needs_snapshot && footer.snapshot.is_none()
    {
        "it builds on something else than its first record says"
    } else if before.is_some_and(|(_, before)| follows.is_some_and(|follows| before.followed_by != follows)) {
        "the segment before it says that something else follows"
    } else {
        return Ok(());
    };
    Err(file.damaged(file.footer_offset(), Damage::Contradiction(what)))
}

/// The expected `followed_by` of a segment, according to the timeline behind it; `None` when unknown, because all its changes are
/// void, or the segment cannot be read.
fn what_follows(backup: &Backup, segment: Seq, next: &Timeline) -> Option<FollowedBy> {
    let newest = backup.segments().timeline(segment).ok()?.records().last().map(|record| record.about.data_version)?;
    match next.snapshot() {
        Some(_) => {
            let snapshot = next.records().first()?.about.data_version;
            Some(if snapshot == newest { FollowedBy::SameVersion } else { FollowedBy::Snapshot })
        }
        None if next.begins_with_gap() => Some(FollowedBy::Snapshot),
        None => next.has_newest().then_some(FollowedBy::Change),
    }
}
