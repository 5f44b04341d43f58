//! What goes wrong with a call, and what to do about it.

use std::io::ErrorKind;

use super::connection::Broken;
use super::packets::status;
use super::{Failure, SftpUrl};

/// How much of what `ssh` says is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection.
    Broken(Broken),
    /// The server says so.
    Status(u32),
    /// The server answers something else than was asked.
    Odd,
    /// The directory of the store is not there.
    NoBase,
    /// The server has no room.
    Full,
    /// The file is larger than any object.
    TooLarge,
    /// There are more files than a copy has.
    TooMany,
    /// The file became shorter while it was read.
    Shrunk,
}

impl Fault {
    /// The kind of failure, and the end of a sentence about it.
    pub(super) fn explain(&self, url: &SftpUrl) -> (Failure, String) {
        let (failure, reason) = match self {
            Self::Broken(broken) => return broken.explain(url),
            Self::NoBase => (
                Failure::NotFound,
                "the directory is not there: mount the disk on the server, make the directory, or correct the URL",
            ),
            Self::Full => (Failure::Full, "the server has no room: make room there"),
            Self::TooLarge => (
                Failure::Protocol,
                "it is larger than an object of a copy can be: something else has written it, so look there",
            ),
            Self::TooMany => (Failure::Protocol, "there are more files than a copy can have: look what writes there"),
            Self::Shrunk => (Failure::Unreachable, "it became shorter while it was read: look what writes there"),
            Self::Odd => {
                (Failure::Protocol, "the server answers something else than was asked: report it to its makers")
            }
            Self::Status(code) => of_status(*code),
        };
        (failure, reason.to_owned())
    }
}

fn of_status(code: u32) -> (Failure, &'static str) {
    match code {
        status::NO_SUCH_FILE | status::NO_SUCH_PATH => (Failure::NotFound, "the object is not there"),
        status::PERMISSION_DENIED | status::WRITE_PROTECT => {
            (Failure::Refused, "the server does not permit it: let this user read and write in the directory")
        }
        status::NO_SPACE | status::QUOTA_EXCEEDED => (Failure::Full, "the server has no room: make room there"),
        status::UNSUPPORTED => (Failure::Protocol, "the server does not know this request: it needs SFTP version 3"),
        status::FILE_ALREADY_EXISTS => {
            (Failure::Protocol, "something else has its name: look what is in the directory on the server")
        }
        // All else, in the words of the protocol.
        _ => (
            Failure::Unreachable,
            "the server says just \"failure\": look for a full quota, a file where a directory should be, and the \
             health of its disk",
        ),
    }
}

impl Broken {
    fn explain(&self, url: &SftpUrl) -> (Failure, String) {
        match self {
            Self::NotStarted(ErrorKind::NotFound) => {
                (Failure::Unreachable, "there is no program `ssh`: install openssh-client".to_owned())
            }
            Self::NotStarted(kind) => (Failure::Unreachable, format!("`ssh` cannot be started ({kind}): try again")),
            Self::Late => {
                (Failure::Unreachable, "there is no answer in time: look after the network and the server".to_owned())
            }
            Self::Protocol => (
                Failure::Protocol,
                "what the server sends is not SFTP: something there prints a greeting, so remove it from the user's \
                 shell profile"
                    .to_owned(),
            ),
            Self::Ended(said) => of_ssh(said, url),
        }
    }
}

/// What the words of `ssh` mean. They are English, for it is started so.
fn of_ssh(said: &str, url: &SftpUrl) -> (Failure, String) {
    let has = |words: &[&str]| words.iter().any(|words| said.contains(words));
    let by_hand = format!("run `{}` once by hand, as the user of the node", by_hand(url));
    let changed = ["REMOTE HOST IDENTIFICATION HAS CHANGED", "DIFFERS FROM THE KEY", "Host key for"];
    let (failure, way_out) = if has(&changed) {
        let way_out = format!(
            "the host key of the server has changed, which is either a new installation or someone in between: ask who \
             runs it; if it is right, `ssh-keygen -R {}` and {by_hand}",
            known_as(url)
        );
        return (Failure::Identity, way_out);
    } else if has(&["Host key verification failed", "host key is known", "key fingerprint"]) {
        return (Failure::Identity, format!("the host key of the server is not known: {by_hand}, and compare the key"));
    } else if has(&["Permission denied", "Too many authentication failures", "Load key", "no identities"]) {
        (Failure::Refused, format!("the server does not let this user in: give it the public key, or {by_hand}"))
    } else if has(&["subsystem request failed"]) {
        (Failure::Refused, "the server offers no SFTP: turn it on there".to_owned())
    } else if has(&[
        "Bad configuration option",
        "Can't open user config file",
        "Bad owner or permissions",
        "terminating,",
    ]) {
        (Failure::Refused, "`ssh` refuses its configuration: correct it".to_owned())
    } else if has(&["Could not resolve hostname"]) {
        (Failure::Unreachable, "the name of the server is not known: check the URL and the network".to_owned())
    } else if has(&["Connection refused", "timed out", "No route", "unreachable"]) {
        (Failure::Unreachable, "there is no connection: look after the network and the server".to_owned())
    } else {
        (Failure::Unreachable, "the connection has ended: try again".to_owned())
    };
    match last_line(said) {
        Some(line) => (failure, format!("{way_out} (ssh says: {line})")),
        None => (failure, way_out),
    }
}

/// The last line that says something, without control characters.
fn last_line(said: &str) -> Option<String> {
    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(line.chars().filter(|char| !char.is_control()).take(SHOWN_CHARS_MAX).collect())
}

/// The command that connects by hand.
fn by_hand(url: &SftpUrl) -> String {
    let config = url.config.as_ref().map(|config| format!("-F {} ", config.display())).unwrap_or_default();
    let port = url.port.map(|port| format!("-p {port} ")).unwrap_or_default();
    let user = url.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
    format!("ssh {config}{port}{user}{}", url.host)
}

/// The name of the server in the list of known hosts.
fn known_as(url: &SftpUrl) -> String {
    match url.port {
        Some(port) if port != 22 => format!("'[{}]:{port}'", url.host),
        _ => url.host.clone(),
    }
}
