//! [`Source`]: where a backup is read from.

use std::fmt;
use std::sync::Arc;

use crate::config::backup_url::BackupUrl;
use crate::storage::{Directory, RealDirectory};

/// Where a backup is read from: a directory of the operating system, or one that something else provides.
#[derive(Debug, Clone)]
pub struct Source {
    url: String,
    directory: Arc<dyn Directory>,
}

impl Source {
    /// A directory that is called `url` in messages.
    pub fn new(url: String, directory: Arc<dyn Directory>) -> Self {
        Self { url, directory }
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Arc<dyn Directory> {
        &self.directory
    }
}

impl From<&BackupUrl> for Source {
    fn from(url: &BackupUrl) -> Self {
        Self::new(url.to_string(), Arc::new(RealDirectory::new(url.path())))
    }
}

impl From<&Source> for Source {
    fn from(source: &Source) -> Self {
        source.clone()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}
