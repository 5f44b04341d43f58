//! The bare disk: a file that is written to like the recorder's log, without a recorder.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Bytes of the file; written from the beginning again when it is full.
const BYTES: usize = 64 << 20;

/// A zero-filled file.
pub struct Floor {
    file: File,
    text: Vec<u8>,
    offset: u64,
}

impl Floor {
    /// Makes the file and fills it with zeros, durably.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let mut file = File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
        let zeros = [0; 1 << 16];
        for _ in 0..BYTES / zeros.len() {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        Ok(Self { file, text: Vec::new(), offset: 0 })
    }

    /// Writes as many bytes as the recorder appends, text of the message that the recorder gets, and syncs them.
    pub fn append(&mut self, message: &[u8], bytes: usize) -> anyhow::Result<Duration> {
        self.text.clear();
        self.text.extend(message.iter().cycle().take(bytes));
        if self.offset + bytes as u64 > BYTES as u64 {
            self.offset = 0;
        }
        let started = Instant::now();
        self.file.write_all_at(&self.text, self.offset)?;
        self.file.sync_data()?;
        let elapsed = started.elapsed();
        self.offset += bytes as u64;
        Ok(elapsed)
    }
}
