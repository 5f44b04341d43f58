//! The database of a snapshot: its own pages, and for a delta those of its base.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{PageIdentity, PageSource, SnapshotFile, read_runs};
use crate::storage::Directory;
use crate::storage::read_error::ReadError;
use format::Damage;
use format::snapshot_ref::DeltaBase;
use format::units::{PageNo, PageSize, Seq};

pub(crate) use super::snapshot_file::ExpectedSnapshot;

/// The open snapshots, shared by their readers.
#[derive(Debug, Default)]
pub(crate) struct SharedSnapshots(Mutex<BTreeMap<Seq, Weak<SnapshotFile>>>);

impl SharedSnapshots {
    pub(crate) fn open(
        &self,
        directory: &dyn Directory,
        expected: ExpectedSnapshot,
    ) -> Result<Arc<SnapshotFile>, ReadError> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = lock().get(&expected.seq).and_then(Weak::upgrade);
        if let Some(file) = open.filter(|file| file.is(expected)) {
            return Ok(file);
        }
        let file = Arc::new(SnapshotFile::open(directory, expected)?);
        let mut shared = lock();
        shared.retain(|_, file| file.strong_count() > 0);
        shared.insert(expected.seq, Arc::downgrade(&file));
        Ok(file)
    }
}

/// The pages of a snapshot, full or delta.
pub(crate) struct SnapshotPages {
    file: Arc<SnapshotFile>,
    below: Option<Arc<dyn PageSource>>,
}

impl fmt::Debug for SnapshotPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotPages {{ {:?} }}", self.file.header())
    }
}

impl SnapshotPages {
    /// The pages of `file`: a full snapshot, or a delta with its base `below`.
    pub(crate) fn new(
        file: Arc<SnapshotFile>,
        below: Option<(DeltaBase, Arc<dyn PageSource>)>,
    ) -> Result<Self, ReadError> {
        let header = file.header();
        let fits = header.base == below.as_ref().map(|(base, _)| *base);
        let below = below.map(|(_, pages)| pages);
        if fits && below.as_ref().is_none_or(|below| below.page_size() == header.page_size) {
            Ok(Self { file, below })
        } else {
            let damage = Damage::Contradiction("it does not build on what the log says");
            Err(ReadError::damaged(file.path(), 0, damage))
        }
    }
}

/// The holder of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// The snapshot itself.
    Own,
    /// The base.
    Below,
    /// None: the page is all zeros.
    Absent,
}

impl SnapshotPages {
    fn holder(&self, page: PageNo) -> Holder {
        match &self.below {
            _ if page.get() > self.page_count() => Holder::Absent,
            _ if self.file.stores(page) => Holder::Own,
            // When the delta was written, a page past the end of the base was compared with zeros.
            Some(below) if page.get() <= below.page_count() => Holder::Below,
            _ => Holder::Absent,
        }
    }
}

impl PageSource for SnapshotPages {
    fn page_size(&self) -> PageSize {
        self.file.header().page_size
    }

    fn page_count(&self) -> u32 {
        self.file.header().page_count
    }

    fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        self.read_pages(page, out)
    }

    fn read_pages(&self, first: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        read_runs(
            first,
            out,
            self.page_size(),
            |page| Ok(self.holder(page)),
            |holder, page, out| match (holder, &self.below) {
                (Holder::Own, _) => self.file.read_pages(page, out),
                (Holder::Below, Some(below)) => below.read_pages(page, out),
                _ => {
                    out.fill(0);
                    Ok(())
                }
            },
        )
    }

    fn identities(&self, first: PageNo, out: &mut [PageIdentity]) -> Result<(), ReadError> {
        match &self.below {
            Some(below) => below.identities(first, out)?,
            None => out.fill(PageIdentity::Zeros),
        }
        let pages = std::iter::successors(Some(first), |page| page.next());
        for (page, out) in pages.zip(out) {
            match self.holder(page) {
                Holder::Own => *out = PageIdentity::Snapshot(self.file.header().seq),
                Holder::Below => {}
                Holder::Absent => *out = PageIdentity::Zeros,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use uuid::Uuid;

    use super::*;
    use crate::pages::SnapshotWriter;
    use crate::storage::faulty::FaultyDirectory;
    use crate::storage::{RealDirectory, StorageOp};
    use format::names;
    use format::segment::SnapshotId;
    use format::snapshot::SnapshotHeader;
    use format::units::{DataVersion, Timestamp};

    const SIZE: PageSize = PageSize::new(512).unwrap();
    const UUID: Uuid = Uuid::from_u128(7);

    fn seq(number: u64) -> Seq {
        Seq::new(number).unwrap()
    }

    /// Writes a snapshot whose pages are filled with the byte given for their number.
    fn write(
        path: &Path,
        number: u64,
        base: Option<ExpectedSnapshot>,
        page_count: u32,
        pages: &[(u32, u8)],
    ) -> ExpectedSnapshot {
        write_to(&RealDirectory::new(path), number, base, page_count, pages)
    }

    fn write_to(
        directory: &dyn Directory,
        number: u64,
        base: Option<ExpectedSnapshot>,
        page_count: u32,
        pages: &[(u32, u8)],
    ) -> ExpectedSnapshot {
        let header = SnapshotHeader {
            uuid: UUID,
            seq: seq(number),
            base: base.map(name),
            data_version: DataVersion::new(1),
            page_size: SIZE,
            page_count,
            created: Timestamp::from_micros(1).unwrap(),
        };
        let mut writer = SnapshotWriter::create(directory, header).unwrap();
        for &(page, fill) in pages {
            writer.push(PageNo::new(page).unwrap(), &[fill; 512]).unwrap();
        }
        let footer_checksum = writer.finish().unwrap();
        ExpectedSnapshot { uuid: UUID, seq: seq(number), footer_checksum }
    }

    fn name(snapshot: ExpectedSnapshot) -> DeltaBase {
        DeltaBase::Snapshot(SnapshotId { seq: snapshot.seq, footer_checksum: snapshot.footer_checksum })
    }

    /// Opens a chain of snapshots, the newest first, down to the full one.
    fn open(path: &Path, snapshots: &[ExpectedSnapshot]) -> Result<Arc<dyn PageSource>, ReadError> {
        let (&newest, below) = snapshots.split_first().unwrap();
        let below = below.first().map(|&base| Ok::<_, ReadError>((name(base), open(path, below)?))).transpose()?;
        let file = SharedSnapshots::default().open(&RealDirectory::new(path), newest)?;
        Ok(Arc::new(SnapshotPages::new(file, below)?))
    }

    fn read(pages: &dyn PageSource) -> Result<Vec<u8>, ReadError> {
        let mut page = [0; 512];
        (1..=pages.page_count())
            .map(|number| {
                pages.read_page(PageNo::new(number).unwrap(), &mut page)?;
                assert!(page.iter().all(|&byte| byte == page[0]));
                Ok(page[0])
            })
            .collect()
    }

    #[test]
    fn a_snapshot_is_durable_before_it_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let faulty = FaultyDirectory::new(dir.path());
        write_to(&faulty, 1, None, 1, &[(1, 11)]);
        assert!(faulty.named_what_is_durable());
    }

    #[test]
    fn a_large_snapshot_is_made_durable_in_steps() {
        let dir = tempfile::tempdir().unwrap();
        let faulty = FaultyDirectory::new(dir.path());
        let header = SnapshotHeader {
            uuid: UUID,
            seq: seq(1),
            base: None,
            data_version: DataVersion::new(1),
            page_size: SIZE,
            page_count: 40 << 10,
            created: Timestamp::from_micros(1).unwrap(),
        };
        let mut writer = SnapshotWriter::create(&faulty, header).unwrap();
        let mut random = 1_u64;
        for page in 1..=40 << 10 {
            // Incompressible bytes.
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random.to_le_bytes()[3]
            })
            .take(512)
            .collect();
            writer.push(PageNo::new(page).unwrap(), &bytes).unwrap();
        }
        writer.finish().unwrap();
        // 20 MiB: two syncs on the way, file and name at the end.
        assert_eq!(faulty.calls_of(StorageOp::Sync), 4);
        assert!(faulty.named_what_is_durable());
    }

    #[test]
    fn a_page_is_that_of_the_newest_snapshot_that_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let full = write(dir.path(), 1, None, 4, &[(1, 11), (2, 12), (3, 13), (4, 14)]);
        let shrunk = write(dir.path(), 5, Some(full), 2, &[(2, 22)]);
        let grown = write(dir.path(), 9, Some(shrunk), 5, &[(1, 31), (5, 35)]);
        let chain = |snapshots: &[ExpectedSnapshot]| open(dir.path(), snapshots);
        assert_eq!(read(&*chain(&[full]).unwrap()).unwrap(), [11, 12, 13, 14]);
        assert_eq!(read(&*chain(&[shrunk, full]).unwrap()).unwrap(), [11, 22]);
        // Pages that the shrunk database had truncated do not come back.
        assert_eq!(read(&*chain(&[grown, shrunk, full]).unwrap()).unwrap(), [31, 22, 0, 0, 35]);
        // The same when read together, from every page on and past the end.
        let three = chain(&[grown, shrunk, full]).unwrap();
        for first in 1..=5 {
            let mut pages = vec![1; (7 - first) * 512];
            three.read_pages(PageNo::new(u32::try_from(first).unwrap()).unwrap(), &mut pages).unwrap();
            let fills: Vec<u8> = pages.chunks(512).map(|page| page[0]).collect();
            assert_eq!(fills, [31, 22, 0, 0, 35, 0][first - 1..]);
        }
        for broken in [&[grown, full][..], &[grown, shrunk], &[shrunk, grown, full], &[shrunk]] {
            assert!(chain(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let full = write(dir.path(), 1, None, 3, &[(1, 11), (2, 12), (3, 13)]);
        let delta = write(dir.path(), 5, Some(full), 70, &[(2, 22), (70, 72)]);
        let all = |()| read(&*open(dir.path(), &[delta, full])?);
        let expected = all(()).unwrap();
        for name in [names::snapshot(seq(1)), names::snapshot(seq(5))] {
            let path = dir.path().join(&name);
            let bytes = fs::read(&path).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, flipped).unwrap();
                match all(()) {
                    Err(ReadError::Damaged { path: named, .. }) => assert_eq!(named, path, "bit {bit}"),
                    other => panic!("{name}, bit {bit}: {other:?}"),
                }
            }
            for cut in 0..bytes.len() {
                fs::write(&path, &bytes[..cut]).unwrap();
                assert!(all(()).is_err(), "{name} cut at {cut}");
            }
            fs::write(&path, [&bytes[..], b"x"].concat()).unwrap();
            assert!(all(()).is_err(), "{name} with a byte behind its end");
            fs::write(&path, bytes).unwrap();
        }
        assert_eq!(all(()).unwrap(), expected);
        // An older copy of the same snapshot is not the expected one.
        write(dir.path(), 5, Some(full), 70, &[(2, 21), (70, 72)]);
        assert!(all(()).is_err());
    }
}
