//! [`DiskCache`]: chunks of objects on a disk of this machine, still encrypted.
//!
//! A file per chunk, renamed into place. Nothing is synced and nothing locked: a chunk that was cut by a kill does not open, and is
//! fetched again; two processes write the same bytes. The chunks that were not used for the longest are removed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::seal::layout::CHUNK_LEN;

/// The maximum size of a cache in bytes, 1 GiB.
pub const BYTES_MAX: u64 = 1 << 30;

/// Longer than any chunk.
const FILE_BYTES_MAX: u64 = CHUNK_LEN + 64;

/// Why a directory is not used as a cache.
#[derive(Debug, thiserror::Error)]
#[error("{path} is not used to keep what was read of the copy: {reason}", path = .path.display())]
pub struct CacheError {
    /// The directory.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: String,
}

/// A directory with chunks.
#[derive(Debug)]
pub struct DiskCache {
    directory: PathBuf,
    bytes_max: u64,
    bytes: AtomicU64,
}

impl DiskCache {
    /// The cache in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// When it is a link or belongs to another user, or cannot be made or read.
    pub fn open(directory: &Path, bytes_max: u64) -> Result<Self, CacheError> {
        let failed = |reason: String| CacheError { path: directory.to_owned(), reason };
        if let Some(parent) = directory.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|error| failed(error.to_string()))?;
        }
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error.to_string())),
            _ => {}
        }
        let metadata = fs::symlink_metadata(directory).map_err(|error| failed(error.to_string()))?;
        if !metadata.is_dir() {
            return Err(failed("it is a link or a file, not a directory".to_owned()));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(failed("it belongs to another user".to_owned()));
        }
        let cache = Self { directory: directory.to_owned(), bytes_max, bytes: AtomicU64::new(0) };
        let bytes = cache.files().map_err(|error| failed(error.to_string()))?.iter().map(|(_, len, _)| len).sum();
        cache.bytes.store(bytes, Ordering::Relaxed);
        Ok(cache)
    }

    /// A chunk, as in the object.
    pub fn chunk(&self, object: &str, chunk: u64) -> Option<Vec<u8>> {
        self.read(&self.path(object, &chunk.to_string()))
    }

    /// Keeps a chunk.
    pub fn put_chunk(&self, object: &str, chunk: u64, sealed: &[u8]) {
        self.write(&self.path(object, &chunk.to_string()), sealed);
    }

    /// The header of an object.
    pub fn header(&self, object: &str) -> Option<Vec<u8>> {
        self.read(&self.path(object, "header"))
    }

    /// Keeps the header of an object.
    pub fn put_header(&self, object: &str, header: &[u8]) {
        self.write(&self.path(object, "header"), header);
    }

    fn path(&self, object: &str, what: &str) -> PathBuf {
        let hash: String =
            Sha256::digest(object.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.directory.join(format!("{hash}.{what}"))
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
        let mut bytes = Vec::new();
        (&file).take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        // Used: it stays longer than others. A file system that refuses keeps it as long as it was new.
        let _: io::Result<()> = file.set_modified(SystemTime::now());
        Some(bytes)
    }

    /// Writes a file, if that is possible: a cache that is full or gone costs speed only.
    fn write(&self, path: &Path, bytes: &[u8]) {
        let written = NamedTempFile::new_in(&self.directory).and_then(|mut file| {
            file.write_all(bytes)?;
            file.persist(path).map_err(|error| error.error)
        });
        match written {
            Ok(_) => {
                let all = self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
                if all > self.bytes_max {
                    self.evict();
                }
            }
            Err(error) => log::debug!("cannot keep {}: {error}", path.display()),
        }
    }

    /// Removes what was not used for the longest, until four fifths of the room are used.
    fn evict(&self) {
        let Ok(mut files) = self.files() else { return };
        files.sort_unstable_by_key(|(_, _, used)| *used);
        let mut bytes: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (path, len, _) in files {
            if bytes <= self.bytes_max / 5 * 4 {
                break;
            }
            if fs::remove_file(&path).is_ok() {
                bytes -= len;
            }
        }
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    fn files(&self) -> io::Result<Vec<(PathBuf, u64, SystemTime)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            // Another process may remove it at any time.
            if let Ok(metadata) = entry.metadata()
                && metadata.is_file()
            {
                files.push((entry.path(), metadata.len(), metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
            }
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays_and_the_size_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(&dir.path().join("cache"), 100_000).unwrap();
        cache.put_chunk("a", 0, &[1; 10_000]);
        for chunk in 0..40 {
            cache.put_chunk("b", chunk, &[2; 10_000]);
            std::thread::sleep(std::time::Duration::from_millis(5));
            assert_eq!(cache.chunk("a", 0), Some(vec![1; 10_000]), "after {chunk}");
            let files = cache.files().unwrap();
            assert!(files.iter().map(|(_, len, _)| len).sum::<u64>() <= 100_000);
        }
        assert_eq!(cache.chunk("b", 0), None);
        // Another process finds it.
        let again = DiskCache::open(&dir.path().join("cache"), 100_000).unwrap();
        assert_eq!(again.chunk("a", 0), Some(vec![1; 10_000]));
        assert_eq!(again.bytes.load(Ordering::Relaxed), cache.bytes.load(Ordering::Relaxed));
    }

    #[test]
    fn a_link_is_no_cache() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", dir.path().join("link")).unwrap();
        assert!(DiskCache::open(&dir.path().join("link"), 1000).is_err());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(DiskCache::open(&dir.path().join("file"), 1000).is_err());
    }
}
