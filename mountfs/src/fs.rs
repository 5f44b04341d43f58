//! [`Fs`]: the mounted tree over a backup, without FUSE: names and inodes in, attributes and bytes out.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use common::{Backup, History, Seq, Timestamp, Version, View, Views};

use crate::attr::{Attr, Entry, Lasts, directory_attr, file_attr, link_attr};
use crate::by_time::ByTime;
use crate::calendar::{self, Period};
use crate::content::{self, Shape};
use crate::fs_error::{FsError, chain};
use crate::open_files::{Content, OpenFile, OpenFiles};
use crate::prefill::{Generation, Prefill, Reading};
use crate::tree::{self, Kind, Node, Part, SEQ_MAX};

/// How many of the newest versions may still change their meaning: the newest can be rewound or get a rider, and the one
/// before it too once that has happened.
const UNSETTLED_VERSIONS: usize = 2;

/// Whether an answer may have to wait for a view to be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Answered from memory, or after reading a record.
    Small,
    /// A view may have to be built: milliseconds to seconds.
    View,
}

/// The tree over one backup.
pub struct Fs {
    backup: Arc<Backup>,
    history: RwLock<History>,
    generation: Arc<Generation>,
    views: Views,
    by_time: Mutex<ByTime>,
    readme: Arc<[u8]>,
    open_files: OpenFiles,
    prefill: Prefill,
    /// The shape of every version that was looked at, so that `ls` builds a view once and not again after the cache
    /// has dropped it.
    shapes: Mutex<HashMap<Seq, Shape>>,
    /// What was logged last about a version that cannot be read, so that `ls` in a loop does not fill the disk.
    logged: Mutex<HashMap<Seq, String>>,
    /// Why the history may end before the newest version, if it may.
    end_unknown: Mutex<Option<String>>,
}

impl Fs {
    /// The tree over `backup`, showing `history`, which a [`Following`](crate::follow::Following) keeps up to date. The
    /// versions that are kept ready take about `views_bytes_max` of memory.
    pub fn new(backup: Arc<Backup>, history: RwLock<History>, readme: String, views_bytes_max: u64) -> Self {
        let generation = Arc::<Generation>::default();
        Self {
            views: Views::new(Arc::clone(&backup), views_bytes_max),
            backup,
            history,
            prefill: Prefill::new(Arc::clone(&generation)),
            generation,
            by_time: Mutex::default(),
            readme: Arc::from(readme.into_bytes()),
            open_files: OpenFiles::default(),
            shapes: Mutex::default(),
            logged: Mutex::default(),
            end_unknown: Mutex::default(),
        }
    }

    /// What `name` stands for in the directory `parent`.
    ///
    /// # Errors
    /// [`FsError::NoEntry`] when it stands for nothing, [`FsError::NotADirectory`] when `parent` is none.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Entry, FsError> {
        let node = self.child(parent, name)?;
        let generation = self.generation.now();
        Ok(Entry { attr: self.attr(node)?, name_lasts: self.name_lasts(node), generation })
    }

    /// What a [`lookup`](Self::lookup) costs.
    pub fn lookup_cost(&self, parent: u64, name: &OsStr) -> Cost {
        self.child(parent, name).map_or(Cost::Small, |node| self.attr_cost(node))
    }

    /// What a lookup of this inode's name would answer; `None` when it would have to build a view, or fail.
    pub fn entry_at_hand(&self, inode: u64) -> Option<Entry> {
        let node = Node::from_inode(inode)?;
        if self.attr_cost(node) != Cost::Small {
            return None;
        }
        let generation = self.generation.now();
        Some(Entry { attr: self.attr(node).ok()?, name_lasts: self.name_lasts(node), generation })
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// [`FsError::NoEntry`] when nothing has it (any more).
    pub fn getattr(&self, inode: u64) -> Result<Attr, FsError> {
        self.attr(Node::from_inode(inode).ok_or(FsError::NoEntry)?)
    }

    /// What a [`getattr`](Self::getattr) costs.
    pub fn getattr_cost(&self, inode: u64) -> Cost {
        Node::from_inode(inode).map_or(Cost::Small, |node| self.attr_cost(node))
    }

    /// Where a link points.
    ///
    /// # Errors
    /// [`FsError::NotALink`], or [`FsError::NoEntry`] when the link is gone.
    pub fn readlink(&self, inode: u64) -> Result<String, FsError> {
        match Node::from_inode(inode).ok_or(FsError::NoEntry)? {
            Node::Latest => self.latest_target(),
            Node::OfVersion(seq, Part::TimeLink) => Ok(tree::time_link_target(self.version(seq)?.data_version)),
            Node::Root | Node::Readme | Node::Versions | Node::ByTime(_) | Node::OfVersion(..) => {
                Err(FsError::NotALink)
            }
        }
    }

    /// Opens a file for reading and returns its handle and how long its bytes last.
    ///
    /// # Errors
    /// [`FsError::View`] or [`FsError::Statements`] when the version cannot be read: it is logged, too.
    pub fn open(&self, inode: u64) -> Result<(u64, Lasts), FsError> {
        // Before anything is looked up: what is opened is then of this generation or a later one.
        let generation = self.generation.now();
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
                let (text, text_lasts) = self.info(&version);
                lasts = text_lasts;
                (Content::Text(text.into()), version.recorded_at)
            }
            Node::OfVersion(_, Part::TimeLink) | Node::Latest => return Err(FsError::NoEntry),
            Node::Root | Node::Versions | Node::ByTime(_) | Node::OfVersion(_, Part::Directory) => {
                return Err(FsError::IsADirectory);
            }
        };
        let attr = file_attr(node, content.size_bytes(), time, lasts);
        let file = OpenFile { attr, content, reading: Reading::default(), generation };
        Ok((self.open_files.insert(file), lasts))
    }

    /// The attributes of an open file, which are those it was opened with.
    ///
    /// # Errors
    /// [`FsError::NotOpen`].
    pub fn getattr_open(&self, handle: u64) -> Result<Attr, FsError> {
        self.open_files.get(handle).map(|file| file.attr).ok_or(FsError::NotOpen)
    }

    /// Up to `size` bytes of an open file, fewer only at its end. They lie in `scratch`, which the
    /// next read may use again.
    ///
    /// # Errors
    /// [`FsError::NotOpen`], or [`FsError::Page`], which is logged, too.
    pub fn read<'a>(&self, handle: u64, offset: u64, size: u32, scratch: &'a mut Vec<u8>) -> Result<&'a [u8], FsError> {
        let file = self.open_files.get(handle).ok_or(FsError::NotOpen)?;
        let inode = file.attr.inode;
        let wanted = file.content.available(offset, size);
        if scratch.len() < wanted {
            scratch.resize(wanted, 0);
        }
        let out = &mut scratch[..wanted];
        let read = file.content.read_into(offset, out).map_err(|source| {
            let error = FsError::Page { inode, offset, source };
            log::error!("{}", chain(&error));
            error
        })?;
        self.prefill.notice(&file, size);
        Ok(&out[..read])
    }

    /// When the backup was created.
    pub fn created(&self) -> Timestamp {
        self.backup.manifest().created
    }

    /// Which generation inodes belong to now.
    pub fn generation(&self) -> u64 {
        self.generation.now()
    }

    /// What puts files into the kernel's page cache.
    pub fn prefill(&self) -> &Prefill {
        &self.prefill
    }

    /// Closes an open file.
    pub fn close(&self, handle: u64) {
        self.open_files.close(handle);
    }

    /// Bytes that the backup takes on its disk; 0 when that cannot be found out.
    pub fn stored_bytes(&self) -> u64 {
        self.backup.read_bytes().unwrap_or(0)
    }

    /// About how many files there are in the mount, directories and links included.
    pub fn file_count(&self) -> u64 {
        let per_version = Part::FILES.len() as u64 + 2;
        self.history().versions().len() as u64 * per_version + Node::IN_ROOT.len() as u64
    }

    /// The history, to be added to.
    pub fn history_lock(&self) -> &RwLock<History> {
        &self.history
    }

    /// Says whether the end of the backup can be read. While it cannot, `latest` leads nowhere: the newest version that is
    /// intact is an old state, which nobody must restore by mistake.
    pub fn set_end_unknown(&self, problem: Option<String>) {
        *self.end_unknown.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Drops everything derived from a history that was replaced by another one: its seqs, and so the inodes, may stand
    /// for other versions now.
    pub fn forget_history(&self) {
        self.generation.advance();
        self.views.forget();
        *self.by_time.lock().unwrap_or_else(PoisonError::into_inner) = ByTime::default();
        self.shapes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.logged.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The history, for as long as the guard lives; nothing new appears meanwhile, so that must be short.
    pub fn history(&self) -> RwLockReadGuard<'_, History> {
        self.history.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The versions in order of the clock, up to date with `history`.
    pub(crate) fn by_time(&self, history: &History) -> MutexGuard<'_, ByTime> {
        let mut by_time = self.by_time.lock().unwrap_or_else(PoisonError::into_inner);
        by_time.catch_up(history.versions(), |version| (version.recorded_at, version.seq));
        by_time
    }

    fn child(&self, parent: u64, name: &OsStr) -> Result<Node, FsError> {
        let parent = Node::from_inode(parent).ok_or(FsError::NoEntry)?;
        if parent.kind() != Kind::Directory {
            return Err(FsError::NotADirectory);
        }
        name.to_str().and_then(|name| self.child_named(parent, name)).ok_or(FsError::NoEntry)
    }

    fn child_named(&self, parent: Node, name: &str) -> Option<Node> {
        match parent {
            Node::Root => {
                let (_, node) = Node::IN_ROOT.into_iter().find(|(known, _)| *known == name)?;
                (node != Node::Latest || self.history().newest().is_some()).then_some(node)
            }
            Node::Versions => {
                let version = name.parse().ok()?;
                let history = self.history();
                let version = history.version(version).filter(|version| version.seq.get() <= SEQ_MAX)?;
                Some(Node::OfVersion(version.seq, Part::Directory))
            }
            Node::ByTime(hour @ Period::Hour(..)) => {
                let history = self.history();
                let version = history.version(calendar::version_in_link_name(name)?)?;
                let here = hour.span().contains(&version.recorded_at.as_micros());
                let same_name = calendar::link_name(version.recorded_at, version.data_version) == name;
                let believable = version.seq.get() <= SEQ_MAX;
                (here && same_name && believable).then_some(Node::OfVersion(version.seq, Part::TimeLink))
            }
            Node::ByTime(period) => {
                let child = period.child_named(name)?;
                let history = self.history();
                self.by_time(&history).newest_in(child)?;
                Some(Node::ByTime(child))
            }
            Node::OfVersion(seq, Part::Directory) => {
                self.version(seq).ok()?;
                Part::from_file_name(name).map(|part| Node::OfVersion(seq, part))
            }
            Node::Readme | Node::Latest | Node::OfVersion(..) => None,
        }
    }

    fn name_lasts(&self, node: Node) -> Lasts {
        match node {
            Node::Readme | Node::Versions | Node::ByTime(Period::Ever) => Lasts::Forever,
            // The versions of an hour may all be rewound, and then the hour is gone.
            Node::Root | Node::Latest | Node::ByTime(_) => Lasts::Moment,
            Node::OfVersion(_, Part::Database | Part::Changes | Part::Info) => Lasts::Forever,
            Node::OfVersion(seq, Part::Directory | Part::TimeLink) => {
                let newer = self.history().versions_after(Some(seq)).len();
                if newer >= UNSETTLED_VERSIONS { Lasts::Forever } else { Lasts::Moment }
            }
        }
    }

    fn attr_cost(&self, node: Node) -> Cost {
        match node {
            Node::OfVersion(seq, Part::Database | Part::Info) if self.known_shape(seq).is_none() => Cost::View,
            _ => Cost::Small,
        }
    }

    fn attr(&self, node: Node) -> Result<Attr, FsError> {
        let created = self.backup.manifest().created;
        match node {
            Node::Root | Node::Versions => {
                let history = self.history();
                let time = history.newest().map_or(created, |version| version.recorded_at);
                let inside = if node == Node::Root { 2 } else { history.versions().len() };
                Ok(directory_attr(node, inside, time, Lasts::Moment))
            }
            Node::ByTime(period) => {
                let history = self.history();
                let by_time = self.by_time(&history);
                let time = match by_time.newest_in(period) {
                    Some(time) => time,
                    None if period == Period::Ever => created,
                    None => return Err(FsError::NoEntry),
                };
                let inside = by_time.children_from(period, 0).count();
                Ok(directory_attr(node, inside, time, Lasts::Moment))
            }
            Node::Readme => Ok(file_attr(node, self.readme.len() as u64, created, Lasts::Forever)),
            Node::Latest => {
                let target = match self.latest_target() {
                    // It is there, and reading it tells.
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
            Part::Directory => directory_attr(node, 0, time, Lasts::Forever),
            Part::TimeLink => link_attr(node, &tree::time_link_target(version.data_version), time, Lasts::Forever),
            Part::Changes => match self.changes(version) {
                Ok(text) => file_attr(node, text.len() as u64, time, Lasts::Forever),
                Err(_) => file_attr(node, 0, time, Lasts::Moment),
            },
            Part::Info => {
                let (text, lasts) = self.info(version);
                file_attr(node, text.len() as u64, time, lasts)
            }
            // A version that cannot be read is still listed, or `ls -l` of its directory would fail as a whole and say
            // nothing about the files that are intact. Its `open` says EIO.
            Part::Database => match self.shape(version) {
                Ok(shape) => file_attr(node, shape.size_bytes, time, Lasts::Forever),
                Err(_) => file_attr(node, 0, time, Lasts::Moment),
            },
        })
    }

    fn version(&self, seq: Seq) -> Result<Version, FsError> {
        self.history().version_by_seq(seq).cloned().ok_or(FsError::NoEntry)
    }

    fn latest_target(&self) -> Result<String, FsError> {
        if let Some(problem) = &*self.end_unknown.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(FsError::NewestUnknown { problem: problem.clone() });
        }
        let newest = self.history().newest().map(|version| version.data_version);
        newest.map(tree::latest_target).ok_or(FsError::NoEntry)
    }

    fn known_shape(&self, seq: Seq) -> Option<Shape> {
        self.shapes.lock().unwrap_or_else(PoisonError::into_inner).get(&seq).copied()
    }

    fn shape(&self, version: &Version) -> Result<Shape, FsError> {
        if let Some(shape) = self.known_shape(version.seq) {
            return Ok(shape);
        }
        let view = self.view(version)?;
        let shape =
            Shape { pages: view.page_count(), page_size: view.page_size().get(), size_bytes: view.size_bytes() };
        self.shapes.lock().unwrap_or_else(PoisonError::into_inner).insert(version.seq, shape);
        Ok(shape)
    }

    fn view(&self, version: &Version) -> Result<Arc<View>, FsError> {
        // The plan is detached from the history: building the view must not keep new versions from appearing.
        let plan = self.history().plan(version);
        self.views.open(&plan).map_err(|error| {
            let error = FsError::View { version: version.data_version, seq: version.seq, source: error.reason };
            self.log_once(version.seq, &error);
            error
        })
    }

    fn changes(&self, version: &Version) -> Result<Vec<u8>, FsError> {
        let places = self.history().records_of(version);
        match self.backup.statements(&places) {
            Ok(statements) => Ok(content::changes_sql(&statements)),
            Err(source) => {
                let error = FsError::Statements { version: version.data_version, seq: version.seq, source };
                self.log_once(version.seq, &error);
                Err(error)
            }
        }
    }

    fn info(&self, version: &Version) -> (Vec<u8>, Lasts) {
        let segment = self.history().file_name_of(version);
        let segment = segment.as_deref();
        match self.shape(version) {
            Ok(shape) => (content::info_json(version, segment, Ok(shape)), Lasts::Forever),
            Err(error) => (content::info_json(version, segment, Err(&chain(&error))), Lasts::Moment),
        }
    }

    fn log_once(&self, seq: Seq, error: &FsError) {
        let text = chain(error);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.get(&seq) != Some(&text) {
            log::error!("{text}");
            logged.insert(seq, text);
        }
    }
}
