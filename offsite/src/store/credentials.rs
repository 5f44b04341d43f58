//! [`Credentials`] of a bucket: from a file that only its owner reads, or from the environment.

use std::ffi::OsString;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The maximum length of a file with credentials.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// What a bucket knows its user by. The secrets are wiped from memory, and shown nowhere.
#[derive(Clone)]
pub struct Credentials {
    access_key: Zeroizing<String>,
    secret_key: Zeroizing<String>,
    session_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read the credentials in {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Other users can read the file.
    #[error(
        "the credentials in {path} can be read by other users (mode {mode:04o}): run `chmod 600 {path}`",
        path = .path.display()
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is a directory, or too long.
    #[error("{path} is not a file with credentials: it should have the lines access_key=… and secret_key=…", path = .path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// A line of the file is not understood. It is not shown, for it may hold a secret.
    #[error(
        "line {line} of the credentials in {path} is not understood: each line is access_key=…, secret_key=… or \
         session_token=…, each once",
        path = .path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
    },
    /// One of the two keys is missing.
    #[error("{missing} is missing in {place}: add it there")]
    Missing {
        /// Name of the key.
        missing: &'static str,
        /// The file, or the environment.
        place: String,
    },
    /// A value has characters that no key has.
    #[error("the value of {name} in {place} is empty or has characters that no key has: copy it again")]
    Value {
        /// Name of the key.
        name: &'static str,
        /// The file, or the environment.
        place: String,
    },
}

impl Credentials {
    /// Credentials of these values.
    pub fn new(access_key: &str, secret_key: &str, session_token: Option<&str>) -> Self {
        let secret = |value: &str| Zeroizing::new(value.to_owned());
        Self {
            access_key: secret(access_key),
            secret_key: secret(secret_key),
            session_token: session_token.map(secret),
        }
    }

    /// Reads a file with lines `access_key=…`, `secret_key=…` and, where there is one, `session_token=…`. Empty lines and
    /// lines that begin with `#` are left out.
    ///
    /// # Errors
    /// When the file cannot be read, can be read by other users, or is not such a file.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let failed = |source| CredentialsError::Read { path: path.to_owned(), source };
        // A pipe would keep the opening waiting.
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            return Err(CredentialsError::NotAFile { path: path.to_owned() });
        }
        if metadata.mode() & 0o177 != 0 {
            return Err(CredentialsError::Mode { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
        }
        // All at once, so that no half of a secret stays in memory that a growing buffer has left.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(FILE_BYTES_MAX).unwrap_or_default()));
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
        Self::parse(path, &bytes)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, CredentialsError> {
        let place = path.display().to_string();
        let text = std::str::from_utf8(bytes).map_err(|_| CredentialsError::NotAFile { path: path.to_owned() })?;
        let (mut access_key, mut secret_key, mut session_token) = (None, None, None);
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fault = || CredentialsError::Line { path: path.to_owned(), line: index + 1 };
            let (name, value) = line.split_once('=').ok_or_else(fault)?;
            let (place_of, name) = match name.trim() {
                "access_key" => (&mut access_key, "access_key"),
                "secret_key" => (&mut secret_key, "secret_key"),
                "session_token" => (&mut session_token, "session_token"),
                _ => return Err(fault()),
            };
            if place_of.is_some() {
                return Err(fault());
            }
            *place_of = Some(checked(name, value.trim(), &place)?);
        }
        let missing = |missing| CredentialsError::Missing { missing, place: place.clone() };
        Ok(Self {
            access_key: access_key.ok_or_else(|| missing("access_key"))?,
            secret_key: secret_key.ok_or_else(|| missing("secret_key"))?,
            session_token,
        })
    }

    /// The credentials in the variables `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`; `None`
    /// without the first two.
    ///
    /// # Errors
    /// When only one of the first two is there, or one is no key.
    pub fn from_environment() -> Result<Option<Self>, CredentialsError> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, CredentialsError> {
        let place = "the environment";
        let value = |name: &'static str| match variable(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => {
                let value = value
                    .into_string()
                    .map_err(|_| CredentialsError::Value { name, place: place.to_owned() })
                    .map(Zeroizing::new)?;
                checked(name, &value, place).map(Some)
            }
        };
        let missing = |missing| Err(CredentialsError::Missing { missing, place: place.to_owned() });
        match (value("AWS_ACCESS_KEY_ID")?, value("AWS_SECRET_ACCESS_KEY")?) {
            (None, None) => Ok(None),
            (Some(_), None) => missing("AWS_SECRET_ACCESS_KEY"),
            (None, Some(_)) => missing("AWS_ACCESS_KEY_ID"),
            (Some(access_key), Some(secret_key)) => {
                Ok(Some(Self { access_key, secret_key, session_token: value("AWS_SESSION_TOKEN")? }))
            }
        }
    }

    /// The same credentials as the library that signs wants them.
    pub(super) fn for_signing(&self) -> rusty_s3::Credentials {
        match &self.session_token {
            None => rusty_s3::Credentials::new(self.access_key.as_str(), self.secret_key.as_str()),
            Some(token) => rusty_s3::Credentials::new_with_token(
                self.access_key.as_str(),
                self.secret_key.as_str(),
                token.as_str(),
            ),
        }
    }
}

/// A value without characters that no key has.
fn checked(name: &'static str, value: &str, place: &str) -> Result<Zeroizing<String>, CredentialsError> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(CredentialsError::Value { name, place: place.to_owned() });
    }
    Ok(Zeroizing::new(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(text: &[u8], mode: u32) -> Result<Credentials, CredentialsError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Credentials::read(&path)
    }

    #[test]
    fn a_file_is_read() {
        let text = b"# of the node\n\naccess_key=AK\n secret_key = sec=ret/+ \r\nsession_token=tok\n";
        for mode in [0o600, 0o400] {
            let credentials = read(text, mode).unwrap();
            let signing = credentials.for_signing();
            assert_eq!((signing.key(), signing.secret(), signing.token()), ("AK", "sec=ret/+", Some("tok")));
            let shown = format!("{credentials:?}");
            assert!(!shown.contains("AK") && !shown.contains("ret") && !shown.contains("tok"), "{shown}");
        }
    }

    #[test]
    fn a_fault_is_told_without_the_secret() {
        for (text, mode, expected) in [
            (&b"access_key=AK\nsecret_key=geheim\n"[..], 0o640, "chmod 600"),
            (b"access_key=AK\nsecret_key=geheim\n", 0o604, "chmod 600"),
            (b"access_key=AK\n", 0o600, "secret_key is missing"),
            (b"secret_key=geheim\n", 0o600, "access_key is missing"),
            (b"access_key=AK\nsecret_key=\n", 0o600, "value of secret_key"),
            (b"access_key=AK\nsecret_key=geheim geheim\n", 0o600, "value of secret_key"),
            (b"access_key=AK\nsecret-key=geheim\n", 0o600, "line 2"),
            (b"access_key=AK\ngeheim\n", 0o600, "line 2"),
            (b"secret_key=geheim\nsecret_key=geheim\n", 0o600, "line 2"),
            (b"\xff\xfe", 0o600, "not a file with credentials"),
        ] {
            let error = read(text, mode).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("geheim"), "{error}");
        }
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().to_owned(), directory.path().join("none"), PathBuf::from("/dev/zero")] {
            let error = Credentials::read(&path).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
        let long = directory.path().join("long");
        fs::write(&long, vec![b'#'; 20_000]).unwrap();
        assert!(Credentials::read(&long).unwrap_err().to_string().contains("not a file with"));
    }

    #[test]
    fn variables_are_read() {
        let of = |set: &[(&str, &str)]| {
            Credentials::from_variables(|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
            })
        };
        assert!(of(&[]).unwrap().is_none());
        assert!(of(&[("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")]).unwrap().is_none());
        let both = of(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]).unwrap().unwrap();
        assert_eq!(both.for_signing().token(), None);
        let error = of(&[("AWS_ACCESS_KEY_ID", "a")]).unwrap_err().to_string();
        assert!(error.contains("AWS_SECRET_ACCESS_KEY is missing in the environment"), "{error}");
        let error = of(&[("AWS_SECRET_ACCESS_KEY", "b")]).unwrap_err().to_string();
        assert!(error.contains("AWS_ACCESS_KEY_ID is missing"), "{error}");
    }
}
