//! [`TinyDisk`]: a file system in memory that is soon full.

use std::ffi::CStr;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::skip::skipped;

/// A tiny disk; gone when dropped.
pub struct TinyDisk(PathBuf);

impl TinyDisk {
    /// At this directory, which is made where there is none; `None`, with a loud line, where nothing can be mounted.
    /// `options` are those of tmpfs, as in `size=40m`.
    pub fn mounted(directory: &Path, options: &CStr) -> Option<Self> {
        fs::create_dir_all(directory).expect("a directory");
        if let Err(error) = mount("tmpfs", directory, "tmpfs", MountFlags::empty(), options) {
            skipped(format_args!(
                "a small file system cannot be mounted here ({error}), and what needs one not tested"
            ));
            return None;
        }
        Some(Self(directory.to_owned()))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        // Detached even while a recorder of a failed test is still there.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}
