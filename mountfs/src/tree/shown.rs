//! [`Shown`]: the tree that the mount shows now, and the invalidation of the kernel's caches when it is replaced.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::tree::fs::Fs;
use crate::tree::fs_error::FsError;
use crate::tree::kernel_inode::Tag;
use crate::tree::node::Node;
use crate::tree::prefill::PageCache;

/// The kernel's caches of a mount.
pub trait KernelMemory: Send + Sync {
    /// Puts bytes of a file into the page cache.
    ///
    /// # Errors
    /// As [`PageCache::store`].
    fn store(&self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Invalidates a name in the root, and all entries below it.
    ///
    /// # Errors
    /// When the mount is gone.
    fn forget_name(&self, name: &str) -> io::Result<()>;

    /// Invalidates the cached contents of a file.
    ///
    /// # Errors
    /// When the mount is gone.
    fn forget_contents(&self, inode: u64) -> io::Result<()>;

    /// Invalidates the cached attributes of a directory; that the kernel does not know it (any more) is fine. Never waits for a
    /// request that is being answered.
    ///
    /// # Errors
    /// When the mount is gone.
    fn forget_attributes(&self, inode: u64) -> io::Result<()>;
}

/// A tree, and its inodes in the kernel.
#[derive(Clone)]
pub struct Tree {
    /// The tree.
    pub fs: Arc<Fs>,
    /// The bits that are added to its inodes.
    pub tag: Tag,
}

/// The tree that the mount shows now. Only the thread that follows the backup replaces it, and invalidates names and contents in
/// the kernel's caches: a serving thread that did so could wait for a lookup that waits for the thread.
///
/// The kernel caches each listing, with the time that the directory had before. When a listing begins it uses the cached one if the
/// time is the same. The listing of a version stays right. One of a directory that grows does not, and is never used: the time of
/// such a directory has the number of listings in its nanoseconds, which no record has, and whenever the kernel reads one the
/// number is increased and the cached time is invalidated.
pub struct Shown {
    tree: RwLock<Tree>,
    /// The listings of directories that grow which have begun.
    listings: AtomicU32,
    kernel: Mutex<Option<Arc<dyn KernelMemory>>>,
}

impl Shown {
    /// Shows a tree.
    pub fn new(fs: Arc<Fs>) -> Self {
        let tag = Tag { tree: 0, compactions: 0 };
        Self { tree: RwLock::new(Tree { fs, tag }), listings: AtomicU32::new(0), kernel: Mutex::default() }
    }

    /// The tree that is shown.
    pub fn now(&self) -> Tree {
        self.tree.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The tree that is shown, and the inode in it for one of the kernel.
    ///
    /// # Errors
    /// [`FsError::Stale`] when the inode is of an earlier tree. Its open files end with that: their bytes may lie in files
    /// that are gone or that belong to another history now. Reading on would return the right bytes for some pages and wrong
    /// ones for others, without a way to know which.
    pub fn of(&self, inode: u64) -> Result<(Tree, u64), FsError> {
        let tree = self.now();
        let inode = tree.tag.inward(inode).ok_or(FsError::Stale)?;
        Ok((tree, inode))
    }

    /// The nanoseconds below a microsecond in the time of directories that grow.
    pub fn nanoseconds(&self) -> u32 {
        self.listings.load(Ordering::SeqCst) % 1000
    }

    /// A listing of a directory begins, which has the inode `outward` in the kernel. Call it before the first name is read.
    pub fn begin_listing(&self, outward: u64, inode: u64) {
        if !Node::from_inode(inode).is_some_and(Node::grows) {
            return;
        }
        self.listings.fetch_add(1, Ordering::SeqCst);
        if let Some(kernel) = self.kernel() {
            forget(kernel.forget_attributes(outward));
        }
    }

    /// Begins: this kernel caches data of the mount from now on.
    pub fn begin(&self, kernel: Arc<dyn KernelMemory>) {
        *self.kernel.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&kernel));
        let Tree { fs, tag } = self.now();
        fs.prefill().begin(Arc::new(CacheOfTree { kernel, tag }));
    }

    /// Ends: the kernel's caches are not used any more.
    pub fn end(&self) {
        *self.kernel.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.now().fs.prefill().end();
    }

    /// Shows another tree, and invalidates what the kernel caches of the earlier one; first the names, so that no new lookup
    /// leads there.
    pub fn replace(&self, fs: Arc<Fs>) {
        let kernel = self.kernel();
        let before = self.now();
        let tag = Tag { tree: before.tag.tree + 1, compactions: 0 };
        if let Some(kernel) = &kernel {
            fs.prefill().begin(Arc::new(CacheOfTree { kernel: Arc::clone(kernel), tag }));
        }
        *self.tree.write().unwrap_or_else(PoisonError::into_inner) = Tree { fs, tag };
        before.fs.prefill().end();
        let Some(kernel) = kernel else { return };
        for (name, _) in Node::IN_ROOT {
            forget(kernel.forget_name(name));
        }
        for inode in before.fs.open_inodes() {
            forget(kernel.forget_contents(before.tag.outward(inode)));
        }
    }

    /// Versions were dropped: invalidates their names at once, before the kernel's timeout.
    pub fn forget_dropped(&self) {
        self.tree.write().unwrap_or_else(PoisonError::into_inner).tag.compactions += 1;
        let Some(kernel) = self.kernel() else { return };
        for node in [Node::Versions, Node::ByTime(crate::tree::calendar::Period::Ever)] {
            let name = Node::IN_ROOT.into_iter().find(|(_, known)| *known == node).map_or("", |(name, _)| name);
            forget(kernel.forget_name(name));
        }
    }

    fn kernel(&self) -> Option<Arc<dyn KernelMemory>> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Logs a failed invalidation, which means that the mount is gone.
fn forget(forgotten: io::Result<()>) {
    if let Err(error) = forgotten {
        log::debug!("cannot invalidate the kernel's cache: {error}");
    }
}

/// The page cache of the files of one tree. Bytes that are stored after the tree was replaced lie under unused inodes.
struct CacheOfTree {
    kernel: Arc<dyn KernelMemory>,
    tag: Tag,
}

impl PageCache for CacheOfTree {
    fn store(&self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.kernel.store(self.tag.outward(inode), offset, bytes)
    }
}
