//! The `backup.lock` of the Python plugin.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::backup_lock::BackupLock;
use crate::storage::small_file::read_small_file;

/// A `backup.lock` of the Python plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PythonLock {
    /// The URL as written in the file.
    pub backend_url: String,
    /// The plugin's backup file, when it is on this machine, and not behind a socket.
    pub file: Option<PathBuf>,
}

/// The only key that the plugin writes.
#[derive(Deserialize)]
struct Json {
    backend_url: String,
}

impl PythonLock {
    /// Finds the `backup.lock` of the Python plugin in `lightning_dir`: its URL names a file, where ours names a directory, or
    /// has the scheme `socket`, which ours never has.
    pub fn find(lightning_dir: &Path) -> Option<Self> {
        let text = read_small_file(&lightning_dir.join(BackupLock::FILE_NAME), BackupLock::LEN_MAX).ok()?;
        let Json { backend_url } = serde_json::from_slice(&text).ok()?;
        if backend_url.starts_with("socket:") {
            return Some(Self { backend_url, file: None });
        }
        // The plugin does not decode percent-encoding.
        let path = PathBuf::from(backend_url.strip_prefix("file://")?);
        let is_file = fs::metadata(&path).is_ok_and(|found| found.is_file());
        is_file.then_some(Self { backend_url, file: Some(path) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_to_a_file_is_of_the_python_plugin() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file.bkp");
        fs::write(&file, "").unwrap();
        let find = |url: &str| {
            fs::write(dir.path().join("backup.lock"), format!(r#"{{"backend_url": "{url}"}}"#)).unwrap();
            PythonLock::find(dir.path()).map(|found| found.file)
        };
        assert_eq!(find(&format!("file://{}", file.display())), Some(Some(file)));
        assert_eq!(find("socket:127.0.0.1:8700"), Some(None));
        assert_eq!(find(&format!("file://{}", dir.path().display())), None, "a directory");
        assert_eq!(find("file:///not/there"), None);
        fs::remove_file(dir.path().join("backup.lock")).unwrap();
        assert_eq!(PythonLock::find(dir.path()), None);
    }
}
