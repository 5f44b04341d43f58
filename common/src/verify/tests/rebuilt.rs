//! A segment with valid checksums that contradicts its records.

use super::*;
use crate::check::log_replay::{Image, LogReplay};
use crate::check::segment_body::{check_body, read_images};
use crate::check::segment_replay::compare_with_replay;
use crate::history::Start;
use crate::log::NextLog;
use crate::seal::begin;
use crate::segment::SegmentWriter;
use format::page_images::ImageCodec;
use format::page_map::MapNode;
use format::record_index::{IndexedBody, RecordIndex};
use format::segment::{BlockHandle, Location, MapRoot, SegmentFooter, SegmentHeader};
use format::units::Keyframe;
use format::units::{PageNo, Seq};

/// What a page has in a segment, the oldest image first.
type Images = Vec<(Keyframe, Vec<u8>)>;

/// What is changed in a segment.
struct Changes<'a> {
    header: &'a dyn Fn(&mut SegmentHeader),
    images: &'a mut dyn FnMut(PageNo, &mut Images),
    map: &'a dyn Fn(&mut MapNode),
    index: &'a dyn Fn(&mut RecordIndex),
    footer: &'a dyn Fn(&mut SegmentFooter),
    /// A block that nothing leads to.
    extra: Option<&'a [u8]>,
}

impl Changes<'_> {
    /// Nothing.
    fn none(images: &mut dyn FnMut(PageNo, &mut Images)) -> Changes<'_> {
        Changes { header: &|_| (), images, map: &|_| (), index: &|_| (), footer: &|_| (), extra: None }
    }
}

fn as_they_are(_: PageNo, _: &mut Images) {}

/// Writes a segment anew.
fn rebuild(copy: &Copy, first: Seq, changes: Changes<'_>) {
    let backup = Backup::open(&copy.url()).unwrap();
    let (segments, file) = (backup.segments(), backup.segments().open(first).unwrap());
    let mut footer = file.footer().clone();
    let snapshot = footer.snapshot.map(|id| backup.full_snapshot(id).unwrap());
    let body = check_body(segments, &file, snapshot.as_ref());
    let root = footer.map.unwrap();
    assert!(body.problems.is_empty() && root.height == 0, "a small database has one node");
    let mut node = MapNode::clone(&segments.node(root.location).unwrap());
    let mut header = file.header().clone();
    (changes.header)(&mut header);
    footer.header_checksum = u32::from_le_bytes(*header.encode().last_chunk().unwrap());
    let mut writer = SegmentWriter::create(&**backup.directory(), header).unwrap();
    if let Some(extra) = changes.extra {
        writer.push(extra).unwrap();
    }
    let copied = |writer: &mut SegmentWriter<'_>, block| {
        let bytes = file.read_block(block, |bytes| Ok(bytes.to_vec())).unwrap();
        writer.push(&bytes).unwrap().block
    };
    footer.templates = copied(&mut writer, footer.templates);
    let mut changed = body.index.unwrap();
    for interval in &mut changed.intervals {
        interval.block = copied(&mut writer, interval.block);
    }
    for (page, block) in body.images {
        let mut all: Images = Vec::new();
        read_images(segments, &file, snapshot.as_ref(), (page, block), |each| {
            each(&mut |keyframe, image| all.insert(0, (keyframe, image.to_vec())))
        })
        .unwrap();
        (changes.images)(page, &mut all);
        let borrowed: Vec<_> = all.iter().map(|(keyframe, image)| (*keyframe, &image[..])).collect();
        let encoded = ImageCodec::new().unwrap().encode(page, first, &borrowed, None).unwrap();
        node.set(usize::try_from((page.get() - 1) % 32).unwrap(), writer.push(&encoded).unwrap());
    }
    (changes.map)(&mut node);
    footer.map = Some(MapRoot { location: writer.push(&node.encode(first)).unwrap(), height: 0 });
    // Those of the segment as it was: they lead elsewhere now.
    footer.read_sets = copied(&mut writer, footer.read_sets);
    (changes.index)(&mut changed);
    footer.index = writer.push(&zstd::bulk::compress(&changed.encode(), 3).unwrap()).unwrap().block;
    (changes.footer)(&mut footer);
    writer.complete(&footer).unwrap().publish().unwrap();
}

/// The newest segment: nothing sealed builds on it.
fn newest(copy: &Copy) -> Seq {
    names::parse_segment(copy.names("segment-").last().unwrap()).unwrap()
}

#[test]
fn one_that_is_only_written_anew_is_clean_but_for_its_read_sets() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    rebuild(&copy, newest(&copy), Changes::none(&mut as_they_are));
    let report = copy.verify();
    let notes: Vec<_> = report.notes.iter().map(|note| note.about).collect();
    assert!(report.is_clean() && notes == [NoteAbout::OtherReads], "{:?} {notes:?}", report.findings);
    // They are hints: it opens the same versions, only slower.
    let mut unexpected = 0;
    far::open_each(copy.dir.path(), &mut |_, reads| unexpected += reads.unexpected());
    assert!(unexpected > 0, "they were right");
}

#[test]
fn another_row_in_one_keyframe_puts_the_versions_around_it_in_doubt() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    let first = newest(&copy);
    let mut at = None;
    let mut change = |_: PageNo, images: &mut Images| {
        let notes = |image: &[u8]| image.windows(6).position(|bytes| bytes == b" step ");
        if at.is_none()
            && let [.., (keyframe, image)] = &mut images[..]
            && *keyframe > Keyframe(1)
            && let Some(found) = notes(image)
        {
            image[found] = b'_';
            at = Some(*keyframe);
        }
    };
    rebuild(&copy, first, Changes::none(&mut change));
    assert!(at.is_some(), "the newest segment has rows with a note");
    let report = copy.verify();
    // It is found, too, behind statements that cannot be read.
    let gapped = Copy::of(copy.dir.path());
    let backup = Backup::open(&copy.url()).unwrap();
    let file = backup.segments().open(first).unwrap();
    let body = check_body(backup.segments(), &file, None);
    let block = body.index.unwrap().intervals[1].block.offset;
    gapped.flip(&names::segment(first), usize::try_from(block).unwrap() + 9);
    let kinds: BTreeSet<_> = gapped.verify().findings.iter().map(|finding| finding.wrong.kind()).collect();
    assert_eq!(kinds, BTreeSet::from(["damaged", "differs"]));
    let findings = found(&report, &names::segment(first));
    let differs = findings.iter().find(|finding| finding.wrong.kind() == "differs");
    let differs = differs.unwrap_or_else(|| panic!("{:#?}", report.findings));
    assert!(!differs.in_doubt.is_empty() && differs.lost.is_empty() && report.lost.is_empty(), "{differs:?}");
    assert!(differs.wrong.to_string().contains("page"), "{}", differs.wrong);
    assert!(copy.verify_within(Scope { depth: Depth::Quick, ..Scope::default() }).unwrap().is_clean());
}

#[test]
fn the_same_rows_on_other_bytes_are_a_note() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    let first = newest(&copy);
    let mut changed = 0;
    // The bytes between the pointers and the cells of a table leaf are unused.
    let mut change = |page: PageNo, images: &mut Images| {
        let (keyframe, image) = images.last_mut().unwrap();
        let number = |at: usize| usize::from(image[at]) << 8 | usize::from(image[at + 1]);
        let (cells, content) = (number(3), number(5));
        if page != PageNo::FIRST && keyframe.0 > 0 && image[0] == 13 && content > 8 + 2 * cells + 8 {
            image[content - 1] ^= 0xff;
            changed += 1;
        }
    };
    rebuild(&copy, first, Changes::none(&mut change));
    assert!(changed > 0);
    let report = copy.verify();
    assert!(report.is_clean(), "{:#?}", report.findings);
    let notes: Vec<_> = report.notes.iter().map(|note| note.about).collect();
    assert!(matches!(notes[..], [NoteAbout::OtherLayout { .. }, NoteAbout::OtherReads]), "{notes:?}");
}

#[test]
fn another_number_of_pages_is_found() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    let first = newest(&copy);
    let more = |index: &mut RecordIndex| index.records[1].page_count += 1;
    rebuild(&copy, first, Changes { index: &more, ..Changes::none(&mut as_they_are) });
    let report = copy.verify();
    let differs: Vec<_> = found(&report, &names::segment(first));
    assert!(
        differs.iter().any(|it| it.wrong.kind() == "differs" && it.wrong.to_string().contains("pages")),
        "{differs:?}"
    );
}

#[test]
fn another_time_breaks_the_chain() {
    let node = sample();
    let copy = Copy::of(node.backup_path());
    let first = newest(&copy);
    let later = |index: &mut RecordIndex| {
        let micros = index.records[1].time.as_micros() + 1;
        index.records[1].time = format::units::Timestamp::from_micros(micros).unwrap();
    };
    rebuild(&copy, first, Changes { index: &later, ..Changes::none(&mut as_they_are) });
    let report = copy.verify_within(Scope { depth: Depth::Quick, ..Scope::default() }).unwrap();
    let checksum =
        |finding: &&Finding| matches!(finding.wrong, crate::verify::Wrong::Damaged(format::Damage::Checksum { .. }));
    assert!(found(&report, &names::segment(first)).iter().any(checksum), "{:?}", report.findings);
}

/// Contradictions that its checksums cannot show, and its neighbours can.
#[test]
fn what_contradicts_the_rest_of_the_segment_or_those_before_it_is_found() {
    let node = sample();
    let lost = |node: &mut MapNode| *node = MapNode::default();
    let elsewhere = |node: &mut MapNode| {
        let no_block = Location { segment: Seq::FIRST, block: BlockHandle { offset: 64, len: 9 } };
        let led: Vec<usize> = (0..32).filter(|&slot| node.get(slot).is_some()).collect();
        led.into_iter().for_each(|slot| node.set(slot, no_block));
    };
    let checksum = |header: &mut SegmentHeader| header.previous_checksum ^= 1;
    let snapshot =
        |footer: &mut SegmentFooter| footer.newest_snapshot = footer.newest_snapshot.map(|_| Seq::FIRST.next());
    let before = |footer: &mut SegmentFooter| footer.versions_before += 1;
    let ordinal = |footer: &mut SegmentFooter| footer.ordinal += 1;
    let page_count = |footer: &mut SegmentFooter| footer.page_count += 1;
    let bytes = |index: &mut RecordIndex| {
        let changes = index.records.iter_mut().filter_map(|record| match &mut record.body {
            IndexedBody::Change { bytes, .. } => Some(bytes),
            _ => None,
        });
        changes.take(1).for_each(|bytes| *bytes += 1);
    };
    for (what, expected) in [
        ("bytes", "a statement block does not go with the record index"),
        ("lost", "the page map has lost pages"),
        ("elsewhere", "the page map leads to other images"),
        ("checksum", "it does not continue the segment before it"),
        ("snapshot", "it builds on something else"),
        ("before", "it says other versions to be before it"),
        ("ordinal", "its end names another newest version"),
        ("page_count", "its end says another number of pages"),
        ("extra", "what is here belongs to nothing"),
    ] {
        let copy = Copy::of(node.backup_path());
        let first = newest(&copy);
        let mut unchanged = as_they_are;
        let mut changes = Changes::none(&mut unchanged);
        match what {
            "bytes" => changes.index = &bytes,
            "lost" => changes.map = &lost,
            "elsewhere" => changes.map = &elsewhere,
            "checksum" => changes.header = &checksum,
            "snapshot" => changes.footer = &snapshot,
            "before" => changes.footer = &before,
            "ordinal" => changes.footer = &ordinal,
            "page_count" => changes.footer = &page_count,
            _ => changes.extra = Some(b"surplus "),
        }
        rebuild(&copy, first, changes);
        let report = copy.verify_within(Scope { depth: Depth::Quick, ..Scope::default() }).unwrap();
        let found = found(&report, &names::segment(first));
        let reported = found.iter().any(|finding| finding.wrong.to_string().contains(expected));
        assert!(reported, "{what}: {:#?}", report.findings);
    }
}

/// The sealer can ask about the segment that it has just written, with the replay that it has written it from.
#[test]
fn what_the_sealer_has_replayed_is_what_its_segment_says() {
    let node = eventful(Sealing::No);
    let backup = node.backup();
    let (mut compared, mut with_delta) = (0, 0);
    loop {
        let (history, mut cursor) = backup.sealed_history().unwrap();
        let (previous, mut replay) = (cursor.previous_checksum(), None::<LogReplay>);
        let behind = cursor.read_to_end_of_log(&mut |record, address| {
            let newest = history.sealed().last().copied();
            let begun = replay.take();
            let begun =
                begun.map_or_else(|| begin(&backup, LIMITS, newest, address.file_seq(), previous, &record.body), Ok);
            replay.insert(begun.unwrap()).add(record).unwrap();
            Ok(ControlFlow::Continue(()))
        });
        if behind.unwrap() == NextLog::NotYet {
            break;
        }
        let log = replay.unwrap().finish().unwrap();
        let mut sealer = Sealer::new(Arc::clone(&backup), LIMITS).unwrap();
        let next = cursor.next_seq().next();
        sealer.advance(next, &mut |_| ControlFlow::Continue(())).unwrap();
        let file = backup.segments().open(log.first_seq).unwrap();
        let snapshot = file.footer().snapshot.map(|id| backup.full_snapshot(id).unwrap());
        let body = check_body(backup.segments(), &file, snapshot.as_ref());
        let keyframes = u32::try_from(body.index.as_ref().unwrap().intervals.len()).unwrap();
        let same = compare_with_replay(&backup, &file, &body, &log, Keyframe(0)..Keyframe(keyframes)).unwrap();
        assert!(same.differences.is_empty() && same.other_layout == 0, "{same:?}");
        compared += 1;
        with_delta += u32::from(matches!(log.start, Start::Snapshot(_, snapshot) if snapshot.base.is_some()));
        // Another page, from wherever it came.
        let mut other = log;
        let Some((_, images)) = other.images.iter_mut().find(|(page, _)| page.get() > 1) else { continue };
        *images.last_mut().unwrap() = (images.last().unwrap().0, Image::Cut);
        let same = compare_with_replay(&backup, &file, &body, &other, Keyframe(0)..Keyframe(keyframes)).unwrap();
        assert!(!same.differences.is_empty());
    }
    assert!(compared >= 4 && with_delta >= 2, "{compared} {with_delta}");
}
