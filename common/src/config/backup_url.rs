//! [`BackupUrl`]: the location of a backup.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The location of a backup: a directory, written `file:///absolute/path` or as a plain path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupUrl {
    path: PathBuf,
}

/// The reason why a text is not a [`BackupUrl`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackupUrlError {
    /// Another scheme than `file:`.
    #[error(
        "`{scheme}:` is not supported: a backup is a directory, so write `file:///path/to/node.bkp` or a plain path"
    )]
    Scheme {
        /// The text before the colon.
        scheme: String,
    },
    /// `file:` without an absolute path.
    #[error("`{text}` names no absolute path: write `file:///path/to/node.bkp`, with three slashes")]
    NotAbsolute {
        /// The text.
        text: String,
    },
    /// An empty text.
    #[error("the URL of the backup is empty: write `file:///path/to/node.bkp` or a plain path")]
    Empty,
    /// A relative path, without a current directory.
    #[error("`{text}` cannot be made an absolute path; write the whole path")]
    NoCurrentDirectory {
        /// The text.
        text: String,
    },
}

impl BackupUrl {
    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl FromStr for BackupUrl {
    type Err = BackupUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(BackupUrlError::Empty);
        }
        if let Some(rest) = text.strip_prefix("file:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if !path.starts_with('/') || path.trim_matches('/').is_empty() {
                return Err(BackupUrlError::NotAbsolute { text: text.to_owned() });
            }
            return Ok(Self { path: PathBuf::from(path) });
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(BackupUrlError::Scheme { scheme: scheme.to_owned() });
        }
        let path =
            std::path::absolute(text).map_err(|_| BackupUrlError::NoCurrentDirectory { text: text.to_owned() })?;
        if path.parent().is_none() {
            return Err(BackupUrlError::NotAbsolute { text: text.to_owned() });
        }
        Ok(Self { path })
    }
}

impl fmt::Display for BackupUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_urls_and_plain_paths_are_directories() {
        let path = |text: &str| text.parse::<BackupUrl>().map(|url| url.path);
        assert_eq!(path("file:///a/node.bkp"), Ok("/a/node.bkp".into()));
        assert_eq!(path("file:/a/b"), Ok("/a/b".into()));
        assert_eq!(path("/a/b c%20"), Ok("/a/b c%20".into()));
        assert_eq!(path("a"), Ok(std::env::current_dir().unwrap().join("a")));
        assert_eq!("file:///a".parse::<BackupUrl>().unwrap().to_string(), "file:///a");
    }

    #[test]
    fn anything_else_is_refused() {
        let error = |text: &str| text.parse::<BackupUrl>().unwrap_err();
        assert_eq!(error("s3://bucket/x"), BackupUrlError::Scheme { scheme: "s3".into() });
        assert!(matches!(error("file://host/x"), BackupUrlError::NotAbsolute { .. }));
        assert!(matches!(error("file:x"), BackupUrlError::NotAbsolute { .. }));
        assert!(matches!(error("//"), BackupUrlError::NotAbsolute { .. }));
        assert!(matches!(error("file:///"), BackupUrlError::NotAbsolute { .. }));
        assert_eq!(error(""), BackupUrlError::Empty);
    }
}
