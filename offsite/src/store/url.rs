//! [`StoreUrl`]: which store, without credentials.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, PathBuf};
use std::str::FromStr;

use ::url::{Host, Url};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode};

/// The maximum length of a URL.
const URL_BYTES_MAX: usize = 4096;

/// What is written as `%XX` in a path.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// What is written as `%XX` in a value behind `?`: all but what is easier to read as it is.
const IN_QUERY: &AsciiSet = &IN_PATH.remove(b':').remove(b',');

/// A store: `s3://BUCKET/PREFIX?endpoint=https://…`, `sftp://[USER@]HOST[:PORT]/PATH`, `file:///PATH`, or just `/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A bucket of an S3-compatible store.
    S3(BucketUrl),
    /// A directory of an SFTP server.
    Sftp(SftpUrl),
    /// A directory of this machine.
    File(PathBuf),
}

/// Objects of a bucket whose names begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketUrl {
    /// Name of the bucket.
    pub bucket: String,
    /// What the names of all objects begin with, without `/` at its end; may be empty.
    pub prefix: String,
    /// Where the store is; `None` for the one of Amazon in `region`.
    pub endpoint: Option<Url>,
    /// The region that requests are signed for.
    pub region: String,
    /// Where the name of the bucket is in requests.
    pub style: Style,
    /// A file with the certificates to trust, in place of the usual ones.
    pub ca: Option<PathBuf>,
    /// Whether the connection may be without TLS to another machine.
    pub transport: Transport,
}

/// Whether the connection may be without TLS to another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TLS, except on this machine.
    Secured,
    /// As the endpoint says: the operator wrote `insecure=yes`.
    Insecure,
}

/// Where the name of the bucket is in requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// In the path: `https://ENDPOINT/BUCKET/…`.
    Path,
    /// In the name of the host: `https://BUCKET.ENDPOINT/…`.
    Virtual,
}

/// A directory of an SFTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftpUrl {
    /// User on the server; `None` for the one that the configuration of `ssh` says.
    pub user: Option<String>,
    /// Host name or address, or a `Host` of the configuration of `ssh`.
    pub host: String,
    /// Port; `None` for the one that the configuration of `ssh` says.
    pub port: Option<u16>,
    /// The directory; relative to the user's home unless it begins with `/`.
    pub path: String,
    /// A file that `ssh` reads in place of the user's configuration.
    pub config: Option<PathBuf>,
}

/// A URL that names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another kind of URL, or none.
    #[error("{0:?} is not where a copy can be: it should begin with s3://, sftp://, file:/// or /")]
    Kind(String),
    /// The URL has credentials.
    #[error(
        "a URL must not hold a password or key, for URLs are shown: remove it, and give a file with credentials (for \
         sftp, a key of ssh)"
    )]
    Credentials,
    /// A part of the URL is missing or wrong.
    #[error("{part} of the URL {problem}")]
    Part {
        /// The part.
        part: &'static str,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// An option behind `?` is unknown.
    #[error("the option {name:?} of the URL is unknown: {kind} URLs have {known}")]
    Option {
        /// The option.
        name: String,
        /// The kind of URL.
        kind: &'static str,
        /// The options that there are.
        known: &'static str,
    },
}

fn part(part: &'static str, problem: impl Into<String>) -> UrlError {
    UrlError::Part { part, problem: problem.into() }
}

impl FromStr for StoreUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.len() > URL_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(part("a part", "has control characters or is too long: write it again"));
        }
        if text.starts_with('/') {
            return Ok(Self::File(checked_path("the path", PathBuf::from(text))?));
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if rest.contains('#') || query.contains('#') {
            return Err(part("a part", "has a #, which must be written as %23"));
        }
        match scheme.to_ascii_lowercase().as_str() {
            "s3" => bucket_url(rest, query).map(Self::S3),
            "sftp" => sftp_url(rest, query).map(Self::Sftp),
            "file" => file_url(rest, query).map(Self::File),
            // What stands before the host may be a password.
            _ => Err(UrlError::Kind(text.rsplit('@').next().unwrap_or_default().chars().take(200).collect())),
        }
    }
}

/// The options behind `?`: each at most once, decoded.
fn options<'a>(
    query: &'a str,
    kind: &'static str,
    known: &'static [&'static str],
    listed: &'static str,
) -> Result<Vec<(&'a str, String)>, UrlError> {
    let mut found: Vec<(&str, String)> = Vec::new();
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let lower = name.to_ascii_lowercase();
        if ["key", "secret", "token", "password"].iter().any(|word| lower.contains(word)) {
            return Err(UrlError::Credentials);
        }
        if !known.contains(&name) {
            return Err(UrlError::Option { name: name.to_owned(), kind, known: listed });
        }
        if value.is_empty() || found.iter().any(|(other, _)| *other == name) {
            return Err(part("an option", format!("is there twice or without a value: {name}")));
        }
        found.push((name, decoded("an option", value)?));
    }
    Ok(found)
}

fn take(options: &mut Vec<(&str, String)>, name: &str) -> Option<String> {
    let index = options.iter().position(|(known, _)| *known == name)?;
    Some(options.swap_remove(index).1)
}

fn bucket_url(rest: &str, query: &str) -> Result<BucketUrl, UrlError> {
    if rest.contains('@') {
        return Err(UrlError::Credentials);
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_in_bucket = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if bucket.is_empty() || bucket.len() > 255 || !bucket.bytes().all(is_in_bucket) || bucket.starts_with('.') {
        return Err(part(
            "the bucket",
            "should be a name such as my-backup: write s3://BUCKET/PREFIX?endpoint=https://…",
        ));
    }
    let prefix = decoded("the prefix", prefix)?;
    let prefix = prefix.trim_matches('/');
    if !prefix.is_empty() && prefix.split('/').any(|part| ["", ".", ".."].contains(&part)) {
        return Err(part("the prefix", "has an empty part, `.` or `..`: remove it"));
    }
    let known = "endpoint, region, style, ca and insecure";
    let mut options = options(query, "s3", &["endpoint", "region", "style", "ca", "insecure"], known)?;
    let transport = match take(&mut options, "insecure").as_deref() {
        None | Some("no") => Transport::Secured,
        Some("yes") => Transport::Insecure,
        Some(_) => return Err(part("insecure", "should be yes or no")),
    };
    let endpoint = take(&mut options, "endpoint").map(|text| endpoint(&text, transport)).transpose()?;
    let region = match (take(&mut options, "region"), &endpoint) {
        (Some(region), _) if region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => region,
        (Some(_), _) => return Err(part("region", "should be a name such as eu-central-1")),
        (None, Some(_)) => "us-east-1".to_owned(),
        (None, None) => {
            return Err(part("endpoint", "is missing: add ?endpoint=https://… (or ?region=… for a bucket of Amazon)"));
        }
    };
    let style = match take(&mut options, "style").as_deref() {
        Some("path") => Style::Path,
        Some("virtual") => Style::Virtual,
        Some(_) => return Err(part("style", "should be path or virtual")),
        None => usual_style(bucket, endpoint.as_ref()),
    };
    let ca = take(&mut options, "ca").map(|text| checked_path("ca", text.into())).transpose()?;
    Ok(BucketUrl { bucket: bucket.to_owned(), prefix: prefix.to_owned(), endpoint, region, style, ca, transport })
}

/// The certificates of Amazon fit names of buckets without a dot; servers of others know the path at least.
fn usual_style(bucket: &str, endpoint: Option<&Url>) -> Style {
    if endpoint.is_none() && !bucket.contains('.') { Style::Virtual } else { Style::Path }
}

fn endpoint(text: &str, transport: Transport) -> Result<Url, UrlError> {
    let url =
        Url::parse(text).map_err(|error| part("endpoint", format!("is not a URL ({error}): write https://HOST")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::Credentials);
    }
    if url.host().is_none() || url.query().is_some() || url.fragment().is_some() {
        return Err(part("endpoint", "should be just https://HOST or https://HOST:PORT"));
    }
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback || transport == Transport::Insecure => Ok(url),
        "http" => Err(part(
            "endpoint",
            "has no TLS, so that anyone on the way can change or drop what is stored: write https://, or add \
             &insecure=yes where the way is secured otherwise",
        )),
        _ => Err(part("endpoint", "should begin with https://")),
    }
}

fn sftp_url(rest: &str, query: &str) -> Result<SftpUrl, UrlError> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, _)) if user.contains(':') => return Err(UrlError::Credentials),
        Some((user, host)) => (Some(decoded("the user", user)?), host),
        None => (None, authority),
    };
    let is_bad_user = |user: &String| user.is_empty() || user.starts_with('-') || user.contains(['/', ' ']);
    if user.as_ref().is_some_and(is_bad_user) {
        return Err(part("the user", "should be a name: write sftp://USER@HOST/PATH"));
    }
    let (host, port) = host_and_port(host)?;
    let path = decoded("the path", path)?;
    let path = path.trim_end_matches('/');
    let path = match path.strip_prefix("~/") {
        Some(below_home) => below_home.to_owned(),
        None if path.is_empty() || path == "~" => {
            return Err(part("the path", "is missing: write sftp://HOST/PATH, or sftp://HOST/~/PATH below the home"));
        }
        None => format!("/{path}"),
    };
    if path.trim_start_matches('/').split('/').any(|part| ["", ".", ".."].contains(&part)) {
        return Err(part("the path", "has an empty part, `.` or `..`: remove it"));
    }
    let mut options = options(query, "sftp", &["config"], "config")?;
    let config = take(&mut options, "config").map(|text| checked_path("config", text.into())).transpose()?;
    Ok(SftpUrl { user, host, port, path, config })
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), UrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']').ok_or_else(|| part("the host", "has a [ without ]"))?;
            let is_address = host.parse::<std::net::Ipv6Addr>().is_ok();
            if !is_address || !(behind.is_empty() || behind.starts_with(':')) {
                return Err(part("the host", "should be an IPv6 address within [ ]"));
            }
            (host, behind.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_in_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if host.is_empty() || host.starts_with('-') || !host.bytes().all(is_in_host) {
        return Err(part("the host", "should be a name or an address: write sftp://[USER@]HOST[:PORT]/PATH"));
    }
    let port = match port {
        None => None,
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            _ => return Err(part("the port", "should be a number from 1 to 65535")),
        },
    };
    Ok((host.to_owned(), port))
}

fn file_url(rest: &str, query: &str) -> Result<PathBuf, UrlError> {
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(part("the path", "should begin with /: write file:///PATH, with three /"));
    }
    options(query, "file", &[], "none")?;
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    checked_path("the path", PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// An absolute path without `..`, and without what says nothing.
fn checked_path(name: &'static str, path: PathBuf) -> Result<PathBuf, UrlError> {
    let is_strange = |component| component == Component::ParentDir;
    if !path.is_absolute() || path.components().any(is_strange) || path.as_os_str().as_bytes().contains(&0) {
        return Err(part(name, "should be an absolute path without `..`"));
    }
    Ok(path.components().collect())
}

fn decoded(name: &'static str, text: &str) -> Result<String, UrlError> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| part(name, "is not UTF-8 behind its % signs"))?;
    if decoded.chars().any(char::is_control) {
        return Err(part(name, "has control characters"));
    }
    Ok(decoded.into_owned())
}

/// Formats a text with `%XX` where it must be.
fn in_path(text: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(text, IN_PATH)
}

/// Formats `?name=value`, or `&name=value` behind others.
struct Options<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    sign: char,
}

impl Options<'_, '_> {
    fn option(&mut self, name: &str, value: &OsStr) -> fmt::Result {
        write!(self.f, "{}{name}={}", self.sign, percent_encode(value.as_bytes(), IN_QUERY))?;
        self.sign = '&';
        Ok(())
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3(url) => url.fmt(f),
            Self::Sftp(url) => url.fmt(f),
            Self::File(path) => write!(f, "file://{}", percent_encode(path.as_os_str().as_bytes(), IN_PATH)),
        }
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", in_path(&self.prefix))?;
        }
        let mut options = Options { f, sign: '?' };
        if let Some(endpoint) = &self.endpoint {
            options.option("endpoint", endpoint.as_str().trim_end_matches('/').as_ref())?;
        }
        if self.endpoint.is_none() || self.region != "us-east-1" {
            options.option("region", self.region.as_ref())?;
        }
        if self.style != usual_style(&self.bucket, self.endpoint.as_ref()) {
            options.option("style", OsStr::new(if self.style == Style::Path { "path" } else { "virtual" }))?;
        }
        if let Some(ca) = &self.ca {
            options.option("ca", ca.as_os_str())?;
        }
        if self.transport == Transport::Insecure {
            options.option("insecure", OsStr::new("yes"))?;
        }
        Ok(())
    }
}

impl fmt::Display for SftpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sftp://")?;
        if let Some(user) = &self.user {
            write!(f, "{}@", in_path(user))?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        let below_home = if self.path.starts_with('/') { "" } else { "/~/" };
        write!(f, "{below_home}{}", in_path(&self.path))?;
        match &self.config {
            Some(config) => Options { f, sign: '?' }.option("config", config.as_os_str()),
            None => Ok(()),
        }
    }
}
