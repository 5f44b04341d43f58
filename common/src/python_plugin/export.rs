//! Writing a file of the Python plugin.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bytes::{HEADER_LEN, Header, HoldsZero, Kind, RECORD_HEADER_LEN, RecordHeader, join_statements};
use super::copy::BytesDone;
use crate::backup::Backup;
use crate::backup::view::View;
use crate::history::History;
use crate::log::RecordAddress;
use crate::replay::{ReplayError, is_pragma};
use crate::segment::version::{Origin, Version};
use crate::storage::read_error::ReadError;
use crate::storage::unfinished::{Unfinished, Workplace};
use format::units::DataVersion;

/// Bytes of a database per read.
const CHUNK_BYTES: usize = 1 << 20;

/// The reason why no file was written. No partial file is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The path exists.
    #[error("{path} exists and is not overwritten; move it away or name another file", path = .path.display())]
    Exists {
        /// The named path.
        path: PathBuf,
    },
    /// The directory does not exist.
    #[error("there is no directory {path}; create it with `mkdir`", path = .path.display())]
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The path is inside the backup.
    #[error("{path} is inside the backup; name a file outside of it", path = .path.display())]
    InsideBackup {
        /// The named path.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write {path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The database is too long for a record of the file.
    #[error(
        "version {data_version} has {bytes} bytes, and a file of the Python plugin has no room for more than 4 GiB"
    )]
    TooLarge {
        /// The version at the beginning of the file.
        data_version: DataVersion,
        /// Length of the database in bytes.
        bytes: u64,
    },
    /// A statement has a zero byte, the separator of statements.
    #[error(
        "statement {statement} of version {data_version} has a zero byte in it, which a file of the Python plugin cannot hold"
    )]
    HoldsZero {
        /// The version.
        data_version: DataVersion,
        /// Position of the statement, from 1.
        statement: usize,
    },
    /// The version at the beginning of the file cannot be opened.
    #[error("version {data_version} cannot be opened")]
    View {
        /// The version.
        data_version: DataVersion,
        /// The reason.
        source: Arc<ReplayError>,
    },
    /// The backup cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The progress callback stopped it.
    #[error("interrupted; no file was left behind")]
    Interrupted,
}

impl ExportError {
    /// Whether the backup is damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::View { .. } | Self::Read(ReadError::Damaged { .. }))
    }
}

/// Result of an export.
#[derive(Debug)]
pub struct Exported {
    /// The first version of the file: that of the snapshot, or of the first change.
    pub first: DataVersion,
    /// The version after a restore of the file.
    pub newest: DataVersion,
    /// Number of records.
    pub records: u64,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// An unreadable part of the backup: it may have older history, which is not in the file.
    pub unreadable: Option<ReadError>,
}

/// The beginning of the exported history.
struct Beginning {
    /// The version of the snapshot; `None` if the file begins with a new node's first change.
    snapshot: Option<Version>,
    first: DataVersion,
    /// Length of the statements behind it in bytes.
    statement_bytes: u64,
    unreadable: Option<ReadError>,
}

/// Writes the history up to `version`, back to the last gap, to a new file at `path`, durably. `progress` is called at intervals,
/// and can stop it.
///
/// # Errors
/// [`ExportError`]; then no file is left.
pub fn export_backup(
    backup: &Arc<Backup>,
    history: &History,
    version: &Version,
    path: &Path,
    progress: &mut dyn FnMut(BytesDone) -> ControlFlow<()>,
) -> Result<Exported, ExportError> {
    let io = |source| ExportError::Io { path: path.to_path_buf(), source };
    let directory = check_destination(path, backup.path())?;
    let beginning = find_beginning(history, version)?;
    // If the directory belongs to root, the owner of the backup gets the file.
    let workplace = Workplace::enter(&directory, Unfinished::Exported).or_owner_of(backup.path());
    let temporary = workplace.new_file().map_err(io)?;
    let mut out = Out {
        path,
        file: BufWriter::with_capacity(CHUNK_BYTES, temporary.as_file()),
        header: Header {
            version: DataVersion::new(0),
            end: HEADER_LEN as u64,
            previous_version: DataVersion::new(0),
            newest: 0,
            version_count: 0,
        },
        total: HEADER_LEN as u64 + beginning.statement_bytes,
        progress,
    };
    out.file.write_all(&[0; HEADER_LEN]).map_err(io)?;
    if let Some(first) = &beginning.snapshot {
        out.snapshot(backup, history, first)?;
    }
    out.changes(backup, history, beginning.snapshot.as_ref(), version)?;
    let header = out.finish()?;
    temporary.as_file().sync_all().map_err(io)?;
    temporary.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => ExportError::Exists { path: path.to_path_buf() },
        _ => io(error.error),
    })?;
    File::open(&directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    let Beginning { first, unreadable, .. } = beginning;
    Ok(Exported { first, newest: header.version, records: header.version_count, bytes: header.end, unreadable })
}

/// Checks the path; returns its directory.
fn check_destination(path: &Path, backup: &Path) -> Result<PathBuf, ExportError> {
    let io = |source| ExportError::Io { path: path.to_path_buf(), source };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(ExportError::NoDirectory { path: parent.to_path_buf() });
    }
    let directory = parent.canonicalize().map_err(io)?;
    if directory.starts_with(backup.canonicalize().map_err(io)?) {
        return Err(ExportError::InsideBackup { path: path.to_path_buf() });
    }
    // Not `exists()`: a dangling link counts, too.
    if path.symlink_metadata().is_ok() {
        return Err(ExportError::Exists { path: path.to_path_buf() });
    }
    Ok(directory)
}

/// Searches for the newest version, up to `version`, that does not continue the one before it.
fn find_beginning(history: &History, version: &Version) -> Result<Beginning, ExportError> {
    let mut before = None::<DataVersion>;
    let mut beginning = Beginning { snapshot: None, first: version.data_version, statement_bytes: 0, unreadable: None };
    let mut is_there = false;
    let read = history.for_versions_after(None, &mut |next| {
        let is_first_of_node = next.data_version.get() <= 1;
        let goes_on = before.map_or(is_first_of_node, |before| before.next() == next.data_version);
        if before.is_none() || !goes_on || next.origin != Origin::Change {
            let snapshot = (!goes_on || next.origin != Origin::Change).then(|| next.clone());
            beginning = Beginning { snapshot, first: next.data_version, statement_bytes: 0, unreadable: None };
        }
        before = Some(next.data_version);
        beginning.statement_bytes += next.statement_bytes;
        is_there = next.seq == version.seq;
        if is_there { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match read {
        Err(error) if !is_there => Err(error.into()),
        read => Ok(Beginning { unreadable: read.err(), ..beginning }),
    }
}

/// The file being written.
struct Out<'a> {
    path: &'a Path,
    file: BufWriter<&'a File>,
    header: Header,
    /// Approximate final length.
    total: u64,
    progress: &'a mut dyn FnMut(BytesDone) -> ControlFlow<()>,
}

impl Out<'_> {
    /// Begins a record of `len` bytes.
    fn begin(&mut self, data_version: DataVersion, kind: Kind, len: u32) -> Result<(), ExportError> {
        let Header { version, end, version_count, .. } = self.header;
        self.header = Header {
            version: data_version,
            end: end + RECORD_HEADER_LEN as u64 + u64::from(len),
            previous_version: version,
            newest: end,
            version_count: version_count + 1,
        };
        self.write(&RecordHeader { len, data_version, kind }.encode())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.file.write_all(bytes).map_err(|source| ExportError::Io { path: self.path.to_path_buf(), source })
    }

    fn look(&mut self, done: u64) -> Result<(), ExportError> {
        match (self.progress)(BytesDone { done, total: self.total.max(done) }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ExportError::Interrupted),
        }
    }

    /// Writes the database of a version, and the settings of its riders.
    fn snapshot(&mut self, backup: &Arc<Backup>, history: &History, version: &Version) -> Result<(), ExportError> {
        let data_version = version.data_version;
        // One view is all that is needed: a cache would only keep it.
        let view = View::open(backup, &history.plan(version)?);
        let view = view.map_err(|error| ExportError::View { data_version, source: error.reason })?;
        let bytes = view.size_bytes();
        let len = u32::try_from(bytes).map_err(|_| ExportError::TooLarge { data_version, bytes })?;
        self.total += bytes;
        let start = self.header.end;
        self.begin(data_version, Kind::Snapshot, len)?;
        self.pages(&view, start)?;
        for address in history.records_of(version)? {
            let statements = backup.statements(&[address])?;
            // The effects of other statements are in the database.
            if statements.iter().all(|statement| is_pragma(statement)) {
                self.change(data_version, &statements)?;
            }
        }
        Ok(())
    }

    fn pages(&mut self, view: &View, start: u64) -> Result<(), ExportError> {
        let (mut chunk, mut offset) = (vec![0; CHUNK_BYTES], 0);
        while offset < view.size_bytes() {
            let read = view.read_at(offset, &mut chunk)?;
            self.write(&chunk[..read])?;
            offset += read as u64;
            self.look(start + offset)?;
        }
        Ok(())
    }

    /// Writes the changes behind `from` up to `to`.
    fn changes(
        &mut self,
        backup: &Backup,
        history: &History,
        from: Option<&Version>,
        to: &Version,
    ) -> Result<(), ExportError> {
        if from.is_some_and(|from| from.seq >= to.seq) {
            return Ok(());
        }
        let mut written = Ok(());
        history.for_versions_after(from.map(|from| from.seq), &mut |version| {
            let addresses = history.records_of(version).map_err(ExportError::from);
            written = addresses.and_then(|addresses| self.version(backup, version.data_version, &addresses));
            if written.is_err() || version.seq == to.seq { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        written
    }

    fn version(
        &mut self,
        backup: &Backup,
        data_version: DataVersion,
        addresses: &[RecordAddress],
    ) -> Result<(), ExportError> {
        for &address in addresses {
            self.change(data_version, &backup.statements(&[address])?)?;
        }
        self.look(self.header.end)
    }

    fn change(&mut self, data_version: DataVersion, statements: &[String]) -> Result<(), ExportError> {
        let mut payload = Vec::new();
        join_statements(statements, &mut payload)
            .map_err(|HoldsZero { statement }| ExportError::HoldsZero { data_version, statement })?;
        let bytes = payload.len() as u64;
        let len = u32::try_from(bytes).map_err(|_| ExportError::TooLarge { data_version, bytes })?;
        self.begin(data_version, Kind::Change, len)?;
        self.write(&payload)
    }

    /// Writes the header, whose values are now known.
    fn finish(mut self) -> Result<Header, ExportError> {
        let header = self.header;
        let mut finish = || {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&header.encode())?;
            self.file.flush()
        };
        finish().map_err(|source| ExportError::Io { path: self.path.to_path_buf(), source })?;
        Ok(header)
    }
}
