//! The state of the backup that is verified.

use std::sync::{Arc, PoisonError};
use std::thread;

use uuid::Uuid;

use super::VerifyError;
use super::finding::{Findings, Where, Wrong};
use crate::backup::Backup;
use crate::backup::OpenError;
use crate::backup::source::Source;
use crate::history::History;
use crate::log::{SECOND_LOOK_AFTER, SECOND_LOOKS, check_unused};
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, read_exact_at};
use format::log_header::LOG_HEADER_LEN;
use format::log_header::LogHeader;
use format::manifest::Manifest;
use format::names;
use format::segment::{SEGMENT_HEADER_LEN, SegmentHeader};
use format::snapshot::{SNAPSHOT_HEADER_LEN, SnapshotHeader};
use format::units::{DataVersion, PageSize, Seq, Timestamp};

/// Opens a backup. If only its manifest is damaged, the verification continues, and the finding is returned.
pub(super) fn open(source: &Source, findings: &mut Findings) -> Result<(Arc<Backup>, Option<Where>), VerifyError> {
    let error = match Backup::open(source) {
        Ok(backup) => return Ok((Arc::new(backup), None)),
        Err(error) => error,
    };
    let directory = Arc::clone(source.directory());
    let wrong = match &error {
        OpenError::NotABackup { reason, .. } => Wrong::Damaged(reason.clone()),
        OpenError::NoManifest { .. } => Wrong::Missing,
        _ => return Err(error.into()),
    };
    let Some((uuid, page_size)) = identity(&*directory) else { return Err(error.into()) };
    let created = Timestamp::from_micros(0).unwrap_or_else(Timestamp::now);
    let manifest = Manifest { uuid, created, page_size, node_id: None };
    let offset = matches!(wrong, Wrong::Damaged(_)).then_some(0);
    let at = findings.add(names::MANIFEST, offset, wrong);
    Ok((Arc::new(Backup::of(directory, manifest)), Some(at)))
}

/// UUID and page size, from the first file whose header is readable.
fn identity(directory: &dyn Directory) -> Option<(Uuid, PageSize)> {
    let mut names = directory.list().ok()?;
    names.sort_unstable();
    names.iter().find_map(|name| {
        if names::parse_segment(name).is_some() {
            let header = SegmentHeader::decode(&beginning::<SEGMENT_HEADER_LEN>(directory, name)?).ok()?;
            return Some((header.uuid, header.page_size));
        }
        names::parse_log(name)?;
        let header = LogHeader::decode(&beginning::<LOG_HEADER_LEN>(directory, name)?).ok()?;
        Some((header.uuid, PageSize::DEFAULT))
    })
}

fn beginning<const LEN: usize>(directory: &dyn Directory, name: &str) -> Option<[u8; LEN]> {
    let mut bytes = [0; LEN];
    let file = directory.open(name, Access::Read).ok()?;
    read_exact_at(&*file, &mut bytes, 0).ok()?.then_some(bytes)
}

/// The state of a backup at one moment.
#[derive(Debug)]
pub(super) struct Baseline {
    /// The names in its directory, a moment earlier.
    pub(super) names: Vec<String>,
    pub(super) history: History,
    /// Reason why the logs cannot be read to their end.
    pub(super) read: Result<(), ReadError>,
    /// The log of the last record, and the offset behind that.
    pub(super) end: Option<(Seq, u64)>,
    /// Seq of the next record.
    pub(super) next_seq: Option<Seq>,
}

impl Baseline {
    /// Reads the names, the newest segment, and the logs.
    pub(super) fn take(backup: &Arc<Backup>) -> Result<Self, VerifyError> {
        let names = backup.directory().list()?;
        let (history, mut follower) = match backup.follow() {
            Ok(following) => following,
            Err(error) => {
                let mut sealed: Vec<Seq> = names.iter().filter_map(|name| names::parse_segment(name)).collect();
                sealed.sort_unstable();
                let history = History::new(backup.manifest().page_size, Arc::clone(backup.segments()), sealed);
                return Ok(Self { names, history, read: Err(error), end: None, next_seq: None });
            }
        };
        let mut looks = 0;
        let read = loop {
            let read = follower.poll(&history).map(drop);
            let (directory, uuid) = (&**backup.directory(), backup.manifest().uuid);
            // If a recorder is running, the preallocated file may have become a log since.
            let read = read.and_then(|()| check_unused(directory, uuid, follower.next_seq()).map(drop));
            if read.is_ok() || looks == SECOND_LOOKS {
                break read;
            }
            looks += 1;
            thread::sleep(SECOND_LOOK_AFTER);
        };
        let history = history.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (end, next_seq) = (follower.position(), Some(follower.next_seq()));
        Ok(Self { names, history, read, end, next_seq })
    }

    /// Ordinal of the first version that the backup has, or had before damage.
    pub(super) fn oldest_ordinal(&self, backup: &Backup) -> u64 {
        let is_first = |first: Seq| first == Seq::FIRST || backup.segments().is_dropped_before(first);
        let first = self.history.sealed().first().filter(|&&first| is_first(first));
        let timeline = first.and_then(|&first| backup.segments().timeline(first).ok());
        let sealed = timeline.and_then(|timeline| timeline.versions().first().map(|version| version.ordinal.0));
        let unsealed = || {
            let first_log = self.history.oldest_log().filter(|&first| first == Seq::FIRST);
            first_log.and_then(|_| self.history.unsealed_versions().next()).map(|version| version.ordinal.0)
        };
        let of_snapshot = || {
            let bytes = beginning::<SNAPSHOT_HEADER_LEN>(&**backup.directory(), &names::snapshot(Seq::FIRST))?;
            let header = SnapshotHeader::decode(&bytes).ok()?;
            Some(DataVersion::get(header.data_version).into())
        };
        sealed.or_else(unsealed).or_else(of_snapshot).unwrap_or(1)
    }
}
