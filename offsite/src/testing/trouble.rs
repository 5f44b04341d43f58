//! What the server counts, and what can go wrong with it.

use std::time::Duration;

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An object, or a part of one.
    Get,
    /// An upload.
    Put,
    /// A page of a list.
    List,
    /// A removal.
    Delete,
}

/// A request, for who decides what happens to it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Number of the request, from 1.
    pub number: u64,
    /// Its kind.
    pub kind: Kind,
    /// Number among those of its kind, from 1.
    pub number_of_kind: u64,
    /// Name of the object in the bucket, or prefix of the list.
    pub name: String,
}

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The connection ends before anything is done.
    DropBefore,
    /// The request is done, and the connection ends without an answer.
    DropAfter,
    /// The request is done, and the connection ends after so many bytes of the body of its answer.
    CutBody(usize),
    /// Nothing is done, and this is the answer: status and code, such as 503 and `SlowDown`.
    Answer(u16, &'static str),
    /// As [`Trouble::Answer`], but before the body of the request is read, and the connection ends.
    AnswerEarly(u16, &'static str),
    /// Nothing is done, and these bytes are the answer.
    Garbage(Vec<u8>),
    /// Nothing is done, and there is no answer for so long.
    Hang(Duration),
}

/// What the server does about `If-None-Match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    /// A name that is taken is refused.
    Enforced,
    /// The newer object replaces the older one.
    Ignored,
    /// Uploads with a condition are refused as unknown.
    Refused,
}

/// What the server does about `Range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges {
    /// It sends the part, with status 206.
    Known,
    /// It sends the part, with status 200: so does `rclone serve s3`.
    As200,
    /// It sends the whole object, with status 200.
    Ignored,
}

/// How many requests there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects or parts asked for.
    pub get: u64,
    /// Uploads.
    pub put: u64,
    /// Pages of lists asked for.
    pub list: u64,
    /// Removals.
    pub delete: u64,
    /// Bytes in the bodies of requests.
    pub bytes_in: u64,
    /// Bytes in the bodies of answers.
    pub bytes_out: u64,
}

impl Counts {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.get + self.put + self.list + self.delete
    }
}
