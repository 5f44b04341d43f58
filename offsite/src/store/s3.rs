//! [`S3Store`]: a bucket of an S3-compatible store.
//!
//! Requests are signed by `rusty-s3` in their URL, which is therefore never shown, and sent by `ureq`. The body of an upload
//! is not part of the signature; what arrives is compared with its `Content-MD5` by practically all servers, and that
//! header is part of it.

mod answers;
#[cfg(test)]
mod answers_tests;
#[cfg(test)]
mod faults_tests;
#[cfg(test)]
mod moto_tests;
mod ranges;
mod requests;
#[cfg(test)]
mod way_tests;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use ::url::Url;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use md5::{Digest, Md5};
use rusty_s3::{Bucket, S3Action, UrlStyle};
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use self::answers::{Call, list_page};
use self::requests::{Answer, Sent};
use super::credentials::Credentials;
use super::names::{check_len, check_name, is_name, too_large};
use super::open::OpenError;
use super::proxy::Proxy;
use super::url::{BucketUrl, Style};
use super::{Failure, LISTED_MAX, Limits, Listed, OBJECT_BYTES_MAX, Put, Store, StoreError};

/// How long a signature is good for. A clock may be behind by as much.
const SIGNED_FOR: Duration = Duration::from_secs(900);

/// From this length on the server is asked first whether it takes an upload: a server that refuses it without reading it
/// ends the connection, and what it had to say would be lost.
const ASKED_FIRST: usize = 256 << 10;

/// How long that may take. A server that does not know the question gets the upload then.
const ASKED_FOR: Duration = Duration::from_secs(1);

/// The maximum length of one page of a listing: 1,000 names, each with what servers say about it.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// The maximum length of a file with certificates.
const CA_BYTES_MAX: u64 = 1 << 20;

/// Objects of a bucket whose names begin with a prefix.
pub struct S3Store {
    bucket: Bucket,
    /// What the names of all objects begin with: empty, or with `/` at its end.
    prefix: String,
    credentials: rusty_s3::Credentials,
    agent: Agent,
    shown: String,
    /// The server has said that it does not know conditions.
    refuses_conditions: AtomicBool,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Store").field(&self.shown).finish()
    }
}

/// Whether an upload may take the place of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

impl S3Store {
    /// The store of a bucket. Nothing is connected to before the first call.
    ///
    /// # Errors
    /// When the certificates of the URL cannot be read, or the endpoint fits no bucket.
    pub fn new(
        url: &BucketUrl,
        credentials: &Credentials,
        proxy: Option<&Proxy>,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        let unfit = |reason: String| OpenError::Endpoint { url: url.to_string(), reason };
        let endpoint = match &url.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => Url::parse(&format!("https://s3.{}.amazonaws.com", url.region))
                .map_err(|error| unfit(error.to_string()))?,
        };
        let style = match url.style {
            Style::Path => UrlStyle::Path,
            Style::Virtual => UrlStyle::VirtualHost,
        };
        let bucket = Bucket::new(endpoint, style, url.bucket.clone(), url.region.clone())
            .map_err(|error| unfit(error.to_string()))?;
        let prefix = if url.prefix.is_empty() { String::new() } else { format!("{}/", url.prefix) };
        let certificates = match &url.ca {
            Some(path) => certificates(path)?,
            None => RootCerts::WebPki,
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent("backupfs")
            .proxy(proxy.map(Proxy::for_http))
            .tls_config(TlsConfig::builder().root_certs(certificates).build())
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_per_read(Some(limits.stall))
            .timeout_per_write(Some(limits.stall))
            .timeout_await_100(Some(ASKED_FOR))
            .timeout_recv_response(Some(limits.stall))
            .timeout_global(Some(limits.call))
            .max_idle_connections_per_host(16)
            .build();
        Ok(Self {
            bucket,
            prefix,
            credentials: credentials.for_signing(),
            agent: config.new_agent(),
            shown: url.to_string(),
            refuses_conditions: AtomicBool::new(false),
        })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn call<'c>(&'c self, doing: &'static str, name: &'c str) -> Call<'c> {
        Call { doing, name, store: &self.shown }
    }

    /// The URL of a request with its signature.
    fn signed<'a>(&self, action: &impl S3Action<'a>, call: &Call<'_>) -> Result<Url, StoreError> {
        // Not by the library's own clock: it panics past the year 9999.
        let now = Timestamp::try_from(SystemTime::now())
            .map_err(|_| call.error(Failure::Clock, "the clock of this machine is past the year 9999: set it"))?;
        Ok(action.sign_with_time(SIGNED_FOR, &now))
    }

    fn put(&self, name: &str, bytes: &[u8], existing: Existing) -> Result<Put, StoreError> {
        check_name(name)?;
        check_len(name, bytes)?;
        let call = self.call(if existing == Existing::Keep { "store" } else { "replace" }, name);
        let checksum = STANDARD.encode(Md5::digest(bytes));
        let is_conditional = existing == Existing::Keep && !self.refuses_conditions.load(Ordering::Relaxed);
        let mut headers = vec![("content-md5", checksum.as_str())];
        if is_conditional {
            headers.push(("if-none-match", "*"));
        }
        let key = self.key(name);
        let mut action = self.bucket.put_object(Some(&self.credentials), &key);
        for (header, value) in &headers {
            action.headers_mut().insert(*header, *value);
        }
        let url = self.signed(&action, &call)?;
        if bytes.len() >= ASKED_FIRST {
            headers.push(("expect", "100-continue"));
        }
        let answer = requests::send(&self.agent, &call, &Sent::Put { url: &url, headers: &headers, bytes })?;
        match answer.status {
            200 | 201 | 204 => Ok(Put::Stored),
            412 if is_conditional => Ok(Put::Exists),
            _ => {
                let fault = answer.fault();
                if is_conditional && fault.is_unknown_condition() {
                    self.refuses_conditions.store(true, Ordering::Relaxed);
                    return self.put(name, bytes, existing);
                }
                Err(fault.into_error(&call))
            }
        }
    }

    /// All bytes of an answer that holds an object, or a part of one.
    fn body(&self, answer: Answer, call: &Call<'_>) -> Result<Vec<u8>, StoreError> {
        match answer.body(OBJECT_BYTES_MAX, call)? {
            Some(bytes) => Ok(bytes),
            None => Err(too_large(call.name, &self.shown)),
        }
    }

    fn page(&self, prefix: &str, token: Option<&str>, call: &Call<'_>) -> Result<answers::Page, StoreError> {
        let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
        if !prefix.is_empty() {
            action.with_prefix(prefix);
        }
        if let Some(token) = token {
            action.with_continuation_token(token);
        }
        let url = self.signed(&action, call)?;
        let answer = requests::send(&self.agent, call, &Sent::Get { url: &url, range: None })?;
        if answer.status != 200 {
            return Err(answer.fault().into_error(call));
        }
        let page = answer.body(PAGE_BYTES_MAX, call)?.and_then(|bytes| list_page(&bytes));
        page.ok_or_else(|| {
            call.error(Failure::Protocol, "the answer is not a list of objects: check endpoint= of the URL")
        })
    }
}

/// The certificates in a PEM file.
fn certificates(path: &Path) -> Result<RootCerts, OpenError> {
    let failed = |reason: String| OpenError::Certificates { path: path.to_owned(), reason };
    let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > CA_BYTES_MAX {
        return Err(failed("it is not a file, or too long".to_owned()));
    }
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(failed("it is not PEM".to_owned())),
        }
    }
    if found.is_empty() {
        return Err(failed("it has no certificate".to_owned()));
    }
    Ok(RootCerts::Specific(Arc::new(found)))
}

impl Store for S3Store {
    fn url(&self) -> String {
        self.shown.clone()
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let call = self.call("list", "the objects");
        let prefix = self.key(prefix);
        let mut found: Vec<Listed> = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self.page(&prefix, token.as_deref(), &call)?;
            if page.objects.is_empty() && page.next.is_some() && page.next == token {
                return Err(
                    call.error(Failure::Protocol, "the list does not go on: try again, or report it to the store")
                );
            }
            for object in page.objects {
                if !object.name.starts_with(&prefix) {
                    let reason = "the list has names that were not asked for: check endpoint= of the URL";
                    return Err(call.error(Failure::Protocol, reason));
                }
                let name = &object.name[self.prefix.len()..];
                if is_name(name) {
                    found.push(Listed { name: name.to_owned(), len: object.len });
                }
            }
            if found.len() > LISTED_MAX {
                let reason = "there are more objects than a copy can have: look what writes there";
                return Err(call.error(Failure::Protocol, reason));
            }
            match page.next {
                // The next page must be another one, or a hostile server would keep us here.
                Some(next) if token.as_ref() != Some(&next) => token = Some(next),
                Some(_) => {
                    let reason = "the list does not go on: try again, or report it to the store";
                    return Err(call.error(Failure::Protocol, reason));
                }
                None => break,
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        check_name(name)?;
        let call = self.call("read", name);
        let key = self.key(name);
        let url = self.signed(&self.bucket.get_object(Some(&self.credentials), &key), &call)?;
        let asked = range.as_ref().map(ranges::Asked::of);
        let header = asked.map(ranges::Asked::header);
        let answer = requests::send(&self.agent, &call, &Sent::Get { url: &url, range: header.as_deref() })?;
        let content_range = answer.header("content-range");
        match (answer.status, asked, content_range) {
            (200, None, _) => self.body(answer, &call),
            // The server does not know ranges.
            (200, Some(asked), None) => self.body(answer, &call).map(|bytes| asked.slice(bytes)),
            // `rclone serve s3` sends a part with 200, where RFC 9110, section 15.3.7 wants 206.
            (200 | 206, Some(asked), content_range) => {
                let given = content_range.and_then(ranges::Given::parse);
                let Some(given) = given.filter(|given| asked.fits(given)) else {
                    let reason = "the answer is not the part that was asked for: report it to the store";
                    return Err(call.error(Failure::Protocol, reason));
                };
                let bytes = self.body(answer, &call)?;
                if bytes.len() as u64 != given.len() {
                    return Err(call.error(Failure::Unreachable, "the answer is cut short: try again"));
                }
                Ok(asked.of_answer(bytes))
            }
            // Behind the end of the object.
            (416, Some(_), _) => Ok(Vec::new()),
            _ => Err(answer.fault().into_error(&call)),
        }
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        self.put(name, bytes, Existing::Keep)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.put(name, bytes, Existing::Replace).map(|_| ())
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        let call = self.call("remove", name);
        let key = self.key(name);
        let url = self.signed(&self.bucket.delete_object(Some(&self.credentials), &key), &call)?;
        let answer = requests::send(&self.agent, &call, &Sent::Delete { url: &url })?;
        match answer.status {
            200 | 202 | 204 => Ok(()),
            _ => {
                let fault = answer.fault();
                if fault.is_missing_object() { Ok(()) } else { Err(fault.into_error(&call)) }
            }
        }
    }

    fn refuses_conditions(&self) -> bool {
        self.refuses_conditions.load(Ordering::Relaxed)
    }
}
