//! What answers say: lists of objects, and what is wrong.

use std::time::Duration;

use rusty_s3::actions::ListObjectsV2;

use super::{Failure, Listed, StoreError};

/// From here on the difference of the clocks is why a signature is refused.
const CLOCK_OFF: Duration = Duration::from_secs(240);

/// A call, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) doing: &'static str,
    pub(super) name: &'a str,
    pub(super) store: &'a str,
}

impl Call<'_> {
    pub(super) fn error(&self, failure: Failure, reason: &str) -> StoreError {
        StoreError::new(failure, format!("cannot {} {} in {}: {reason}", self.doing, self.name, self.store))
    }
}

/// A page of a list. The names are those in the bucket.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) objects: Vec<Listed>,
    pub(super) next: Option<String>,
}

/// Reads a page; `None` when it is none.
pub(super) fn list_page(bytes: &[u8]) -> Option<Page> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end();
    // The library takes a page whose end is missing.
    if !text.ends_with("ListBucketResult>") && !text.ends_with("/>") {
        return None;
    }
    let parsed = ListObjectsV2::parse_response(text).ok()?;
    let mut objects = Vec::with_capacity(parsed.contents.len());
    for content in parsed.contents {
        objects.push(Listed { name: content.key, len: content.size? });
    }
    Some(Page { objects, next: parsed.next_continuation_token })
}

/// What an answer says is wrong.
#[derive(Debug)]
pub(super) struct Fault {
    status: u16,
    /// The code of the store, such as `NoSuchKey`; may be empty.
    code: String,
    is_expired: bool,
    clock_off: Option<Duration>,
}

impl Fault {
    pub(super) fn new(status: u16, body: &[u8], clock_off: Option<Duration>) -> Self {
        let body = String::from_utf8_lossy(body);
        let message = between(&body, "<Message>", "</Message>").unwrap_or_default();
        let is_expired =
            message.contains("expired") || message.contains("not valid yet") || message.contains("too skewed");
        let code = between(&body, "<Code>", "</Code>").unwrap_or_default();
        let is_code = !code.is_empty() && code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Self { status, code: if is_code { code.to_owned() } else { String::new() }, is_expired, clock_off }
    }

    /// Whether the server says that it does not know the condition of an upload.
    pub(super) fn is_unknown_condition(&self) -> bool {
        self.status == 501 || self.code == "NotImplemented"
    }

    /// Whether there is no such object, rather than no such bucket.
    pub(super) fn is_missing_object(&self) -> bool {
        self.status == 404 && self.code != "NoSuchBucket"
    }

    fn is_clock(&self) -> bool {
        let is_off = self.clock_off.is_some_and(|off| off > CLOCK_OFF);
        match self.code.as_str() {
            "RequestTimeTooSkewed" | "RequestExpired" => true,
            _ => self.status == 403 && (is_off || self.is_expired),
        }
    }

    fn kind(&self, doing: &str) -> (Failure, &'static str) {
        if self.is_clock() {
            return (Failure::Clock, "set the clock of this machine");
        }
        match self.code.as_str() {
            "QuotaExceeded"
            | "XMinioStorageFull"
            | "XMinioAdminBucketQuotaExceeded"
            | "InsufficientStorage"
            | "StorageCapExceeded"
            | "EntityTooLarge" => return (Failure::Full, "make room there, or rent more"),
            "NoSuchBucket" => return (Failure::NotFound, "create the bucket, or correct the URL"),
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidSecurity" => {
                return (Failure::Refused, "check the access key and the secret key");
            }
            "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
                return (Failure::Refused, "the session token is no longer good: get new credentials");
            }
            "PermanentRedirect"
            | "AuthorizationHeaderMalformed"
            | "AuthorizationQueryParametersError"
            | "IllegalLocationConstraintException" => {
                return (Failure::Refused, "check region= and endpoint= of the URL");
            }
            "SlowDown" | "SlowDownRead" | "SlowDownWrite" | "RequestTimeout" | "OperationAborted" | "InternalError"
            | "ServiceUnavailable" => return (Failure::Unreachable, "try again later"),
            "IncompleteBody" | "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" => {
                return (Failure::Unreachable, "the bytes were damaged on the way: try again");
            }
            _ => {}
        }
        match self.status {
            404 => (Failure::NotFound, "the object is not there"),
            401 | 403 if doing == "remove" => (Failure::Refused, "let these credentials delete there, too"),
            401 | 403 => (Failure::Refused, "let these credentials read, write and list there"),
            407 => (Failure::Refused, "the proxy asks for a user and a password"),
            301 | 302 | 308 => (Failure::Refused, "check region= and endpoint= of the URL"),
            507 => (Failure::Full, "make room there, or rent more"),
            501 => (Failure::Protocol, "the store does not know this request"),
            307 | 408 | 409 | 425 | 429 | 500.. => (Failure::Unreachable, "try again later"),
            _ => (Failure::Protocol, "check endpoint= of the URL, and report it to the store"),
        }
    }

    pub(super) fn into_error(self, call: &Call<'_>) -> StoreError {
        let (failure, way_out) = self.kind(call.doing);
        let code = if self.code.is_empty() { String::new() } else { format!(" {}", self.code) };
        let off = match (failure, self.clock_off) {
            (Failure::Clock, Some(off)) if off > CLOCK_OFF => format!(", which differs by {} s", off.as_secs()),
            _ => String::new(),
        };
        call.error(failure, &format!("the store answers {}{code}: {way_out}{off}", self.status))
    }
}

fn between<'a>(text: &'a str, before: &str, behind: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(behind)?.0)
}
