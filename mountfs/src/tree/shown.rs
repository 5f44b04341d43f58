//! [`Shown`]: the tree that the mount shows now, and what the kernel is told when it becomes another one.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::tree::fs::Fs;
use crate::tree::fs_error::FsError;
use crate::tree::kernel_inode::Tag;
use crate::tree::node::Node;
use crate::tree::prefill::PageCache;

/// What the kernel keeps of a mount.
pub trait KernelMemory: Send + Sync {
    /// Puts bytes of a file into its page cache.
    ///
    /// # Errors
    /// As [`PageCache::store`].
    fn store(&self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Has it forget a name in the root, and all that it knows below.
    ///
    /// # Errors
    /// When the mount is gone.
    fn forget_name(&self, name: &str) -> io::Result<()>;

    /// Has it forget what is in a file.
    ///
    /// # Errors
    /// When the mount is gone.
    fn forget_contents(&self, inode: u64) -> io::Result<()>;
}

/// A tree, and the inodes that the kernel has for it.
#[derive(Clone)]
pub struct Tree {
    /// The tree.
    pub fs: Arc<Fs>,
    /// What is added to its inodes.
    pub tag: Tag,
}

/// What the mount shows now. Only the thread that follows the backup changes it, and tells the kernel then: a thread that
/// serves would wait for a lookup that waits for the thread.
pub struct Shown {
    tree: RwLock<Tree>,
    kernel: Mutex<Option<Arc<dyn KernelMemory>>>,
}

impl Shown {
    /// Shows a tree.
    pub fn new(fs: Arc<Fs>) -> Self {
        let tag = Tag { tree: 0, compactions: 0 };
        Self { tree: RwLock::new(Tree { fs, tag }), kernel: Mutex::default() }
    }

    /// The tree that is shown.
    pub fn now(&self) -> Tree {
        self.tree.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The tree that is shown, and what an inode that the kernel was given is in it.
    ///
    /// # Errors
    /// [`FsError::Stale`] when the inode is of an earlier tree. Whatever was open there ends with that: its bytes may lie in
    /// files that are gone, and what is at their place now belongs to another history. To go on with the bytes that are
    /// still there would be right for some pages and not for others, and nobody could tell which.
    pub fn of(&self, inode: u64) -> Result<(Tree, u64), FsError> {
        let tree = self.now();
        let inode = tree.tag.inward(inode).ok_or(FsError::Stale)?;
        Ok((tree, inode))
    }

    /// From now on there is a kernel that keeps things.
    pub fn begin(&self, kernel: Arc<dyn KernelMemory>) {
        *self.kernel.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&kernel));
        let Tree { fs, tag } = self.now();
        fs.prefill().begin(Arc::new(CacheOfTree { kernel, tag }));
    }

    /// The kernel is told nothing any more.
    pub fn end(&self) {
        *self.kernel.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.now().fs.prefill().end();
    }

    /// Shows another tree. What the kernel knows of the earlier one it forgets, the names first: from then on nobody finds
    /// the way there.
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

    /// Versions were dropped from the tree: their names go at once, not when the kernel has kept them for long enough.
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

/// A kernel that cannot be told is one whose mount is gone.
fn forget(told: io::Result<()>) {
    if let Err(error) = told {
        log::debug!("the kernel cannot be told what to forget: {error}");
    }
}

/// The page cache of the files of one tree. Bytes that arrive when another tree is shown are put where nobody looks.
struct CacheOfTree {
    kernel: Arc<dyn KernelMemory>,
    tag: Tag,
}

impl PageCache for CacheOfTree {
    fn store(&self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.kernel.store(self.tag.outward(inode), offset, bytes)
    }
}
