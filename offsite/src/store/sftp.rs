//! [`SftpStore`]: a directory of an SFTP server, reached by the system's `ssh`.
//!
//! Keys, agents, host keys, proxies and jump hosts are those of the user's `ssh`, and need no words here. One connection
//! serves all threads; what of a call does not depend on its other requests is sent without waiting.

mod connection;
mod faults;
#[cfg(test)]
mod faults_tests;
#[cfg(test)]
mod hostile_tests;
mod listing;
mod packets;
#[cfg(test)]
mod server_tests;
mod transfer;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::connection::{Broken, Connection, Ticket};
use self::faults::Fault;
use self::packets::{Attributes, FSYNC, OpenFor, POSIX_RENAME, Reply, Request, STATVFS, decode_space, status};
use super::names::{check_len, check_name, seconds_before_now, temporary_name};
use super::url::SftpUrl;
use super::{Failure, Limits, Listed, Put, Store, StoreError};

/// A directory of an SFTP server. An object is a file in it or in a directory below, which has its name only once it is
/// whole and, where the server can say so, durable.
///
/// The directory itself is never made by an upload, for it may be the mount point of a disk.
pub struct SftpStore {
    url: SftpUrl,
    shown: String,
    limits: Limits,
    connection: Mutex<Option<Arc<Connection>>>,
    /// When the last attempt to connect failed, and how.
    failed: Mutex<Option<(Instant, Broken)>>,
}

impl fmt::Debug for SftpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SftpStore").field(&self.shown).finish()
    }
}

/// Whether a file may take the place of another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

/// When a connection was made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Since {
    /// By this call.
    Now,
    /// By an earlier one.
    Earlier,
}

/// One call: a connection, and until when it may take.
struct Session<'a> {
    connection: &'a Connection,
    since: Since,
    deadline: Instant,
    base: &'a str,
}

impl SftpStore {
    /// The store of a URL. `ssh` is started by the first call.
    pub fn new(url: SftpUrl, limits: Limits) -> Self {
        let shown = url.to_string();
        Self { url, shown, limits, connection: Mutex::new(None), failed: Mutex::new(None) }
    }

    /// The connection that there is, or a new one.
    fn connection(&self) -> Result<(Arc<Connection>, Since), Fault> {
        let began = Instant::now();
        let mut kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.has_ended()) {
            return Ok((Arc::clone(connection), Since::Earlier));
        }
        *kept = None;
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        // The calls that waited for one attempt do not make it again, one after the other.
        if let Some((_, broken)) = failed.as_ref().filter(|(at, _)| *at > began) {
            return Err(broken.clone().into());
        }
        let opened = Connection::open(&self.url, self.limits);
        *failed = opened.as_ref().err().map(|broken| (Instant::now(), broken.clone()));
        let connection = Arc::new(opened?);
        *kept = Some(Arc::clone(&connection));
        Ok((connection, Since::Now))
    }

    /// Like [`call`](Self::call), for a call that changes nothing: that a connection ended while it was idle is seen only when
    /// it is used again, and then the call is made once more with a new one.
    fn call_to_read<T>(
        &self,
        doing: &str,
        name: &str,
        done: impl Fn(&Session<'_>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let mut ended = false;
        let first = self.call(doing, name, |session| {
            let result = done(session);
            ended = session.since == Since::Earlier && matches!(result, Err(Fault::Broken(Broken::Ended(_))));
            result
        });
        if ended { self.call(doing, name, done) } else { first }
    }

    fn call<T>(
        &self,
        doing: &str,
        name: &str,
        done: impl FnOnce(&Session<'_>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.limits.call;
        let result = self.connection().and_then(|(connection, since)| {
            let base = &self.url.path;
            done(&Session { connection: &connection, since, deadline, base })
        });
        result.map_err(|fault| {
            let (failure, reason) = fault.explain(&self.url);
            StoreError::new(failure, format!("cannot {doing} {name} in {}: {reason}", self.shown))
        })
    }

    fn put(&self, name: &str, bytes: &[u8], existing: Existing) -> Result<Put, StoreError> {
        check_name(name)?;
        check_len(name, bytes)?;
        let doing = if existing == Existing::Keep { "store" } else { "replace" };
        self.call(doing, name, |session| session.put(name, bytes, existing))
    }
}

impl Session<'_> {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    fn send(&self, request: &Request<'_>) -> Result<Ticket, Fault> {
        Ok(self.connection.send(request)?)
    }

    fn wait(&self, ticket: &Ticket) -> Result<Reply, Fault> {
        Ok(self.connection.wait(ticket, self.deadline)?)
    }

    /// Waits for a reply that says whether something was done.
    fn wait_done(&self, ticket: &Ticket) -> Result<(), Fault> {
        match self.wait(ticket)? {
            Reply::Status { code: status::OK } => Ok(()),
            Reply::Status { code } => Err(Fault::Status(code)),
            _ => Err(Fault::Odd),
        }
    }

    fn wait_handle(&self, ticket: &Ticket) -> Result<Vec<u8>, Fault> {
        match self.wait(ticket)? {
            Reply::Handle(handle) => Ok(handle),
            Reply::Status { code } => Err(Fault::Status(code)),
            _ => Err(Fault::Odd),
        }
    }

    /// Waits for what is known about a file; `None` when there is none.
    fn wait_attributes(&self, ticket: &Ticket) -> Result<Option<Attributes>, Fault> {
        match self.wait(ticket)? {
            Reply::Attributes(attributes) => Ok(Some(attributes)),
            Reply::Status { code: status::NO_SUCH_FILE | status::NO_SUCH_PATH } => Ok(None),
            Reply::Status { code } => Err(Fault::Status(code)),
            _ => Err(Fault::Odd),
        }
    }

    fn do_one(&self, request: &Request<'_>) -> Result<(), Fault> {
        let ticket = self.send(request)?;
        self.wait_done(&ticket)
    }

    fn exists(&self, path: &str) -> Result<bool, Fault> {
        let ticket = self.send(&Request::Lstat { path })?;
        Ok(self.wait_attributes(&ticket)?.is_some())
    }

    /// Fails when the directory of the store is not there.
    fn check_base(&self) -> Result<(), Fault> {
        let ticket = self.send(&Request::Stat { path: self.base })?;
        if self.wait_attributes(&ticket)?.is_some() { Ok(()) } else { Err(Fault::NoBase) }
    }

    /// Makes the directories of a name below that of the store.
    fn make_directories(&self, name: &str) -> Result<(), Fault> {
        self.check_base()?;
        for (end, _) in name.match_indices('/') {
            let path = self.path(&name[..end]);
            match self.do_one(&Request::MakeDirectory { path: &path }) {
                // Servers say this in no certain way when it is there already.
                Err(Fault::Status(_)) if self.exists(&path)? => {}
                made => made?,
            }
        }
        Ok(())
    }

    fn put(&self, name: &str, bytes: &[u8], existing: Existing) -> Result<Put, Fault> {
        let target = self.path(name);
        let directory = target.rsplit_once('/').map_or(self.base, |(directory, _)| directory).to_owned();
        let temporary = format!("{directory}/{}", temporary_name());
        let open = Request::Open { path: &temporary, open_for: OpenFor::WritingNew };
        // Asked first for servers whose rename replaces.
        let there = self.send(&Request::Lstat { path: &target })?;
        let opened = self.send(&open)?;
        let is_there = self.wait_attributes(&there)?.is_some();
        let handle = match self.wait_handle(&opened) {
            Err(Fault::Status(status::NO_SUCH_FILE | status::NO_SUCH_PATH)) => {
                self.make_directories(name)?;
                let opened = self.send(&open)?;
                self.wait_handle(&opened)?
            }
            handle => handle?,
        };
        if is_there && existing == Existing::Keep {
            self.send(&Request::Close { handle: &handle })?;
            self.give_up(&temporary);
            // It may be from a call that was cut off before it was durable.
            self.sync_directory(&directory)?;
            return Ok(Put::Exists);
        }
        let put = self.upload(&handle, bytes).and_then(|()| self.give_name(&temporary, &target, existing));
        match put {
            Ok(Put::Stored) => {}
            Ok(Put::Exists) => self.give_up(&temporary),
            Err(fault) => {
                let is_full = self.is_full(&fault, &directory, bytes.len());
                self.give_up(&temporary);
                return Err(if is_full { Fault::Full } else { fault });
            }
        }
        self.sync_directory(&directory)?;
        put
    }

    /// Gives a whole file its name.
    fn give_name(&self, temporary: &str, target: &str, existing: Existing) -> Result<Put, Fault> {
        let rename = Request::Rename { from: temporary, to: target };
        if existing == Existing::Replace {
            if self.connection.has(POSIX_RENAME) {
                self.do_one(&Request::Replace { from: temporary, to: target })?;
                return Ok(Put::Stored);
            }
            // Without it there is a moment without either.
            if let Err(Fault::Status(_)) = self.do_one(&rename) {
                self.do_one(&Request::Remove { path: target })?;
                self.do_one(&rename)?;
            }
            return Ok(Put::Stored);
        }
        match self.do_one(&rename) {
            Ok(()) => Ok(Put::Stored),
            Err(Fault::Status(_)) if self.exists(target)? => Ok(Put::Exists),
            Err(fault) => Err(fault),
        }
    }

    /// Removes what was begun. It has no name that anything looks for, so that a failure is none.
    fn give_up(&self, temporary: &str) {
        let _ = self.do_one(&Request::Remove { path: temporary });
    }

    /// Makes the names in a directory durable, where the server can.
    fn sync_directory(&self, directory: &str) -> Result<(), Fault> {
        if !self.connection.has(FSYNC) {
            return Ok(());
        }
        let opened = self.send(&Request::Open { path: directory, open_for: OpenFor::Reading })?;
        let handle = match self.wait_handle(&opened) {
            Ok(handle) => handle,
            // It cannot open directories.
            Err(Fault::Status(_)) => return Ok(()),
            Err(fault) => return Err(fault),
        };
        let synced = self.send(&Request::Sync { handle: &handle })?;
        self.send(&Request::Close { handle: &handle })?;
        match self.wait_done(&synced) {
            Err(Fault::Status(status::UNSUPPORTED | status::FAILURE)) | Ok(()) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Whether a failure is one of space. The protocol has no word for it, so the server is asked how much it has.
    fn is_full(&self, fault: &Fault, directory: &str, len: usize) -> bool {
        if !matches!(fault, Fault::Status(status::FAILURE)) || !self.connection.has(STATVFS) {
            return false;
        }
        let Ok(ticket) = self.send(&Request::Space { path: directory }) else { return false };
        let Ok(Reply::Extended(body)) = self.wait(&ticket) else { return false };
        // A file system whose files are not counted says that it has none at all, and room.
        decode_space(&body).is_some_and(|(free, _)| free < len.max(1 << 16) as u64)
    }
}

impl Store for SftpStore {
    fn url(&self) -> String {
        self.shown.clone()
    }

    fn create_base(&self) -> Result<(), StoreError> {
        self.call("make", "the directory", |session| {
            match session.do_one(&Request::MakeDirectory { path: session.base }) {
                Err(Fault::Status(status::NO_SUCH_FILE | status::NO_SUCH_PATH)) => Err(Fault::NoBase),
                Err(Fault::Status(code)) => session.check_base().map_err(|_| Fault::Status(code)),
                made => made,
            }
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.call_to_read("list", "the objects", |session| session.list(prefix))
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        check_name(name)?;
        self.call_to_read("read", name, |session| match session.download(&session.path(name), range.as_ref()) {
            Err(Fault::Status(status::NO_SUCH_FILE | status::NO_SUCH_PATH)) => {
                session.check_base()?;
                Err(Fault::Status(status::NO_SUCH_FILE))
            }
            read => read,
        })
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        self.put(name, bytes, Existing::Keep)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.put(name, bytes, Existing::Replace).map(|_| ())
    }

    fn remove_leftovers(&self, age: Duration) -> Result<usize, StoreError> {
        let Some(until) = seconds_before_now(age) else { return Ok(0) };
        self.call("remove", "what uploads left", |session| session.remove_leftovers(until))
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        self.call("remove", name, |session| {
            let path = session.path(name);
            match session.do_one(&Request::Remove { path: &path }) {
                Err(Fault::Status(status::NO_SUCH_FILE | status::NO_SUCH_PATH)) => session.check_base(),
                Err(fault) => Err(fault),
                Ok(()) => {
                    session.sync_directory(path.rsplit_once('/').map_or(session.base, |(directory, _)| directory))
                }
            }
        })
    }
}

/// A failure that is not of the object that was asked for.
impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

#[cfg(test)]
impl SftpStore {
    /// The process of the connection that there is.
    fn process(&self) -> Option<u32> {
        let kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().map(|connection| connection.process())
    }
}
