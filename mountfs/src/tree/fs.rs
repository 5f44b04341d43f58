//! [`Fs`]: the mounted tree over a backup, without FUSE: names and inodes in, attributes and bytes out.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use format::Damage;

use common::{Backup, DataVersion, History, ReadError, Readable, ReplayError, Seq, Version, View, Views};

use crate::tree::attr::{Attr, Lasts, Subdirectories, directory_attr, file_attr, link_attr};
use crate::tree::by_time;
use crate::tree::by_time::LastHour;
use crate::tree::calendar::Period;
use crate::tree::content;
use crate::tree::content::Shape;
use crate::tree::error_log::ErrorLog;
use crate::tree::fs_error::FsError;
use crate::tree::listing::Unlisted;
use crate::tree::node;
use crate::tree::node::{Node, Part, SEQ_MAX};
use crate::tree::open_files::{Content, OpenFile, OpenFiles};
use crate::tree::prefill::{Prefill, Reading};
use crate::tree::size_cache::Shapes;
use common::with_causes;

/// Whether an answer may have to wait for a view to be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// The answer comes from memory, or after reading a record.
    Small,
    /// A view may have to be built: milliseconds to seconds.
    View,
}

/// The tree over one backup.
pub struct Fs {
    backup: Arc<Backup>,
    history: RwLock<History>,
    views: Views,
    views_bytes_max: u64,
    last_hour: LastHour,
    unlisted: Unlisted,
    readme: Arc<[u8]>,
    open_files: OpenFiles,
    prefill: Prefill,
    shapes: Shapes,
    errors: ErrorLog,
    started: Instant,
    /// The time of the last request, in milliseconds after the start.
    touched_ms: AtomicU64,
    /// The reason why the history may end before the newest version, if it may.
    end_unknown: Mutex<Option<String>>,
    /// Whether a file of the backup was found to be replaced when it was read.
    replaced: AtomicBool,
}

impl Fs {
    /// The tree over `backup`, showing `history`, which a [`Following`](crate::mount::follow::Following) keeps up to date. The
    /// versions that are kept ready take about `views_bytes_max` of memory.
    pub fn new(backup: Arc<Backup>, history: RwLock<History>, readme: String, views_bytes_max: u64) -> Self {
        Self::with_readme(backup, history, Arc::from(readme.into_bytes()), views_bytes_max)
    }

    /// The tree over the backup that has replaced this one at its path.
    pub fn again(&self, backup: Arc<Backup>, history: RwLock<History>) -> Self {
        Self::with_readme(backup, history, Arc::clone(&self.readme), self.views_bytes_max)
    }

    fn with_readme(backup: Arc<Backup>, history: RwLock<History>, readme: Arc<[u8]>, views_bytes_max: u64) -> Self {
        Self {
            views: Views::new(Arc::clone(&backup), views_bytes_max),
            views_bytes_max,
            backup,
            history,
            prefill: Prefill::default(),
            last_hour: LastHour::default(),
            unlisted: Unlisted::default(),
            readme,
            open_files: OpenFiles::default(),
            shapes: Shapes::default(),
            errors: ErrorLog::default(),
            started: Instant::now(),
            touched_ms: AtomicU64::new(0),
            end_unknown: Mutex::default(),
            replaced: AtomicBool::new(false),
        }
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// [`FsError::NoEntry`] when no node has it (any more).
    pub fn getattr(&self, inode: u64) -> Result<Attr, FsError> {
        self.touch();
        self.attr(Node::from_inode(inode).ok_or(FsError::NoEntry)?)
    }

    /// The cost of a [`getattr`](Self::getattr).
    pub fn getattr_cost(&self, inode: u64) -> Cost {
        Node::from_inode(inode).map_or(Cost::Small, |node| self.attr_cost(node))
    }

    /// The target of a link.
    ///
    /// # Errors
    /// [`FsError::NotALink`], or [`FsError::NoEntry`] when the link is gone.
    pub fn readlink(&self, inode: u64) -> Result<String, FsError> {
        self.touch();
        match Node::from_inode(inode).ok_or(FsError::NoEntry)? {
            Node::Latest => self.latest_target(),
            Node::OfVersion(seq, Part::TimeLink) => Ok(node::time_link_target(self.version(seq)?.data_version)),
            Node::Root | Node::Readme | Node::Versions | Node::ByTime(_) | Node::OfVersion(..) => {
                Err(FsError::NotALink)
            }
        }
    }

    /// Opens a file for reading. Returns its handle, and how long the kernel may cache its bytes.
    ///
    /// # Errors
    /// [`FsError::View`] or [`FsError::Statements`] when the version cannot be read; the error is logged, too.
    pub fn open(&self, inode: u64) -> Result<(u64, Lasts), FsError> {
        self.touch();
        let node = Node::from_inode(inode).ok_or(FsError::NoEntry)?;
        let mut lasts = Lasts::Forever;
        let (content, time) = match node {
            Node::Readme => (Content::Text(Arc::clone(&self.readme)), self.backup.manifest().created),
            Node::OfVersion(seq, Part::Database) => {
                let version = self.version(seq)?;
                (Content::View(self.view(&version)?), version.recorded_at)
            }
            Node::OfVersion(seq, Part::Changes) => {
                let version = self.version(seq)?;
                (Content::Text(self.changes(&version)?.into()), version.recorded_at)
            }
            Node::OfVersion(seq, Part::Info) => {
                let version = self.version(seq)?;
                let (text, text_lasts) = self.info(&version)?;
                lasts = text_lasts;
                (Content::Text(text.into()), version.recorded_at)
            }
            Node::OfVersion(_, Part::TimeLink) | Node::Latest => return Err(FsError::NoEntry),
            Node::Root | Node::Versions | Node::ByTime(_) | Node::OfVersion(_, Part::Directory) => {
                return Err(FsError::IsADirectory);
            }
        };
        let attr = file_attr(node, content.size_bytes(), time, lasts);
        let file = OpenFile { attr, content, reading: Reading::default() };
        Ok((self.open_files.insert(file), lasts))
    }

    /// The cost of an [`open`](Self::open). Even a version whose size is known may have to be built to be read.
    pub fn open_cost(&self, inode: u64) -> Cost {
        match Node::from_inode(inode) {
            Some(Node::OfVersion(seq, Part::Database)) if !self.views.has(seq) => Cost::View,
            Some(node @ Node::OfVersion(_, Part::Info)) => self.attr_cost(node),
            _ => Cost::Small,
        }
    }

    /// The attributes of an open file, which are those it was opened with.
    ///
    /// # Errors
    /// [`FsError::NotOpen`].
    pub fn getattr_open(&self, handle: u64) -> Result<Attr, FsError> {
        self.open_files.get(handle).map(|file| file.attr).ok_or(FsError::NotOpen)
    }

    /// Reads up to `size` bytes of an open file, fewer only at its end. The bytes lie in `scratch`, a reusable buffer.
    ///
    /// # Errors
    /// [`FsError::NotOpen`], or [`FsError::Page`]; the latter is logged, too.
    pub fn read<'a>(&self, handle: u64, offset: u64, size: u32, scratch: &'a mut Vec<u8>) -> Result<&'a [u8], FsError> {
        let file = self.open_files.get(handle).ok_or(FsError::NotOpen)?;
        let inode = file.attr.inode;
        let wanted = file.content.available(offset, size);
        if scratch.len() < wanted {
            scratch.resize(wanted, 0);
        }
        let out = &mut scratch[..wanted];
        let read = file.content.read_into(offset, out).map_err(|source| {
            self.note_replaced(&source);
            let error = FsError::Page { inode, offset, source };
            log::error!("{}", with_causes(&error));
            error
        })?;
        self.prefill.notice(&file, size);
        Ok(&out[..read])
    }

    /// The part that puts files into the kernel's page cache.
    pub fn prefill(&self) -> &Prefill {
        &self.prefill
    }

    /// Closes an open file.
    pub fn close(&self, handle: u64) {
        self.open_files.close(handle);
        self.views.trim();
    }

    /// The inodes of the files that are open.
    pub fn open_inodes(&self) -> Vec<u64> {
        self.open_files.inodes()
    }

    /// The bytes of memory used by versions that are open or cached.
    pub fn views_bytes(&self) -> u64 {
        self.views.memory_bytes()
    }

    /// The backup.
    pub fn backup(&self) -> &Backup {
        &self.backup
    }

    /// Whether a file of the backup was found to be replaced when it was read: then all cached state is invalid.
    pub fn was_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    /// The bytes that the backup uses on its disk; 0 when they cannot be read.
    pub fn stored_bytes(&self) -> u64 {
        self.backup.read_bytes().map_or(0, |bytes| bytes.total())
    }

    /// The approximate number of files in the mount, directories and links included.
    pub fn file_count(&self) -> u64 {
        let per_version = Part::FILES.len() as u64 + 2;
        self.history().version_count().saturating_mul(per_version) + Node::IN_ROOT.len() as u64
    }

    /// The history, for the thread that updates it.
    pub fn history_lock(&self) -> &RwLock<History> {
        &self.history
    }

    /// Sets the reason why the end of the backup cannot be read, if so. Then `latest` cannot be resolved: the newest intact
    /// version is an old state, which must not be restored by mistake.
    pub fn set_end_unknown(&self, problem: Option<String>) {
        *self.end_unknown.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Versions were dropped: keeps those readable that are open, and clears the caches.
    pub fn hold_what_is_open(&self) {
        for view in self.open_files.views() {
            self.backup.hold_dropped(&view);
        }
        self.views.forget();
        self.last_hour.forget();
        self.unlisted.forget();
    }

    /// Opens the newest version ahead of the first request for it. A request that comes meanwhile waits for it.
    pub fn open_newest(&self) {
        let planned = {
            let history = self.history();
            history.newest().map(|newest| (newest.clone(), history.plan(newest)))
        };
        if let Some((newest, plan)) = planned
            && let Ok(plan) = plan.map_err(|error| self.history_error(error))
            && let Ok(view) = self.views.open_ahead(&plan).map_err(|error| self.view_error(&newest, error.reason))
        {
            self.insert_shape(newest.seq, Shape::of(&view));
        }
    }

    /// The time since the last request.
    pub fn untouched_for(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.touched_ms.load(Ordering::Relaxed)))
    }

    /// Notes the time of a request.
    pub(crate) fn touch(&self) {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.touched_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The history, locked for reading. New versions cannot appear until the guard is dropped, so keep it short.
    pub fn history(&self) -> RwLockReadGuard<'_, History> {
        self.history.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hour that was listed last.
    pub(crate) fn last_hour(&self) -> &LastHour {
        &self.last_hour
    }

    /// The place where names are missing from the listing of `versions`.
    pub(crate) fn unlisted(&self) -> &Unlisted {
        &self.unlisted
    }

    pub(super) fn attr_cost(&self, node: Node) -> Cost {
        match node {
            // A version that cannot be found has no attributes either.
            Node::OfVersion(seq, Part::Database | Part::Info) => match self.version(seq) {
                Ok(version) if self.known_shape(&version).is_none() => Cost::View,
                _ => Cost::Small,
            },
            _ => Cost::Small,
        }
    }

    pub(super) fn attr(&self, node: Node) -> Result<Attr, FsError> {
        let created = self.backup.manifest().created;
        match node {
            // The last time that is in `by-time` may be a later one, if the clock was set back: to find it takes all segments.
            Node::Root | Node::Versions | Node::ByTime(Period::Ever) => {
                let time = self.history().newest().map_or(created, |version| version.recorded_at);
                let inside = if node == Node::Root { Subdirectories::Known(2) } else { Subdirectories::NotCounted };
                Ok(directory_attr(node, inside, time, Lasts::Briefly))
            }
            Node::ByTime(period) => {
                let newest = by_time::newest_in(&self.history(), period);
                let time = match newest.map_err(|error| self.history_error(error)) {
                    Ok(Some(time)) => time,
                    Ok(None) => return Err(FsError::NoEntry),
                    Err(error) => return Err(error),
                };
                Ok(directory_attr(node, Subdirectories::NotCounted, time, Lasts::Briefly))
            }
            Node::Readme => Ok(file_attr(node, self.readme.len() as u64, created, Lasts::Forever)),
            Node::Latest => {
                let target = match self.latest_target() {
                    // The link is listed; reading it returns the error.
                    Err(FsError::NewestUnknown { .. }) => String::new(),
                    target => target?,
                };
                let time = self.history().newest().map_or(created, |version| version.recorded_at);
                Ok(link_attr(node, &target, time, Lasts::Moment))
            }
            Node::OfVersion(seq, part) => self.attr_of_version(node, &self.version(seq)?, part),
        }
    }

    fn attr_of_version(&self, node: Node, version: &Version, part: Part) -> Result<Attr, FsError> {
        let time = version.recorded_at;
        Ok(match part {
            Part::Directory => directory_attr(node, Subdirectories::Known(0), time, Lasts::Forever),
            Part::TimeLink => link_attr(node, &node::time_link_target(version.data_version), time, Lasts::Forever),
            Part::Changes => file_attr(node, content::changes_sql_len(version), time, Lasts::Forever),
            Part::Info => {
                let (text, lasts) = self.info(version)?;
                file_attr(node, text.len() as u64, time, lasts)
            }
            // A version that cannot be read is still listed: otherwise `ls -l` of its directory would fail and not show the
            // files that are intact. Its `open` returns EIO.
            Part::Database => match self.shape(version) {
                Ok(shape) => file_attr(node, shape.size_bytes, time, Lasts::Forever),
                Err(_) => file_attr(node, 0, time, Lasts::Moment),
            },
        })
    }

    pub(super) fn version(&self, seq: Seq) -> Result<Version, FsError> {
        let version = self.history().version_by_seq(seq);
        version.map_err(|error| self.history_error(error))?.ok_or(FsError::NoEntry)
    }

    pub(super) fn version_numbered(&self, number: DataVersion) -> Result<Option<Version>, FsError> {
        let version = self.history().version(number).map_err(|error| self.history_error(error))?;
        Ok(version.filter(|version| version.seq.get() <= SEQ_MAX))
    }

    fn latest_target(&self) -> Result<String, FsError> {
        if let Some(problem) = &*self.end_unknown.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(FsError::NewestUnknown { problem: problem.clone() });
        }
        let newest = self.history().newest_recorded().ok_or(FsError::NoEntry)?;
        match newest.readable {
            Readable::Yes => Ok(node::latest_target(newest.data_version)),
            Readable::No => {
                let problem = format!("version {}, the newest, cannot be opened", newest.data_version);
                Err(FsError::NewestUnknown { problem })
            }
        }
    }

    fn known_shape(&self, version: &Version) -> Option<Shape> {
        Shape::recorded(version).or_else(|| self.shapes.get(version.seq))
    }

    fn shape(&self, version: &Version) -> Result<Shape, FsError> {
        if let Some(shape) = self.known_shape(version) {
            return Ok(shape);
        }
        let shape = Shape::of(&*self.view(version)?);
        self.insert_shape(version.seq, shape);
        Ok(shape)
    }

    fn insert_shape(&self, seq: Seq, shape: Shape) {
        self.shapes.insert(seq, shape, |seq| self.history().is_sealed(seq));
    }

    fn view(&self, version: &Version) -> Result<Arc<View>, FsError> {
        // The plan is detached from the history: building the view must not keep new versions from appearing.
        let plan = self.history().plan(version);
        let plan = plan.map_err(|error| self.history_error(error))?;
        self.views.open(&plan).map_err(|error| self.view_error(version, error.reason))
    }

    fn changes(&self, version: &Version) -> Result<Vec<u8>, FsError> {
        let addresses = self.history().records_of(version);
        let addresses = addresses.map_err(|error| self.history_error(error))?;
        let text = self.backup.statements(&addresses).map(|statements| content::changes_sql(&statements));
        // The kernel knows the length, and would show no more.
        let text = text.and_then(|text| {
            let (len, expected) = (text.len() as u64, content::changes_sql_len(version));
            if len == expected { Ok(text) } else { Err(self.other_length(version)) }
        });
        match text {
            Ok(text) => Ok(text),
            Err(source) => {
                self.note_replaced(&source);
                let error = FsError::Statements { version: version.data_version, seq: version.seq, source };
                self.errors.log_once(&error);
                Err(error)
            }
        }
    }

    /// The error for statements that are not as long as the record index says.
    fn other_length(&self, version: &Version) -> ReadError {
        let file = self.history().file_name_of(version).ok().flatten().unwrap_or_default();
        let damage = Damage::Contradiction("its statements are not as long as its records say");
        ReadError::Damaged { path: self.backup.path().join(file), offset: 0, damage }
    }

    /// The text of `info.json`. It names the file that the version is in, which does not change after sealing.
    fn info(&self, version: &Version) -> Result<(Vec<u8>, Lasts), FsError> {
        let (segment, is_sealed) = {
            let history = self.history();
            (history.file_name_of(version), history.is_sealed(version.seq))
        };
        let segment = segment.map_err(|error| self.history_error(error))?;
        let segment = segment.as_deref();
        Ok(match self.shape(version) {
            Ok(shape) => {
                let lasts = if is_sealed { Lasts::Forever } else { Lasts::Moment };
                (content::info_json(version, segment, Ok(shape)), lasts)
            }
            Err(error) => (content::info_json(version, segment, Err(&with_causes(&error))), Lasts::Moment),
        })
    }

    /// The error for a part of the history that cannot be read; logged once.
    pub(crate) fn history_error(&self, error: ReadError) -> FsError {
        self.note_replaced(&error);
        let error = FsError::History(Arc::new(error));
        self.errors.log_once(&error);
        error
    }

    fn note_replaced(&self, error: &ReadError) {
        if error.is_replaced() {
            self.replaced.store(true, Ordering::Relaxed);
        }
    }

    fn view_error(&self, version: &Version, source: Arc<ReplayError>) -> FsError {
        if let ReplayError::Pages(error) = &*source {
            self.note_replaced(error);
        }
        let error = FsError::View { version: version.data_version, seq: version.seq, source };
        self.errors.log_once(&error);
        error
    }
}
