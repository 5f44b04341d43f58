//! Requests sent, and their answers taken within bounds.

use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use ::url::Url;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use ureq::http::Response;
use ureq::{Agent, Body, Error};

use super::answers::{Call, Fault};
use super::{Failure, StoreError};

/// The maximum length of an answer that says what is wrong.
const FAULT_BYTES_MAX: usize = 64 << 10;

/// A request with its signed URL.
pub(super) enum Sent<'a> {
    Get { url: &'a Url, range: Option<&'a str> },
    Put { url: &'a Url, headers: &'a [(&'static str, &'a str)], bytes: &'a [u8] },
    Delete { url: &'a Url },
}

/// An answer whose body is not read yet.
pub(super) struct Answer {
    pub(super) status: u16,
    response: Response<Body>,
}

/// Sends a request and waits for its answer.
pub(super) fn send(agent: &Agent, call: &Call<'_>, sent: &Sent<'_>) -> Result<Answer, StoreError> {
    let response = match sent {
        Sent::Get { url, range } => {
            let mut request = agent.get(url.as_str());
            if let Some(range) = range {
                request = request.header("range", *range);
            }
            request.call()
        }
        Sent::Put { url, headers, bytes } => {
            let mut request = agent.put(url.as_str());
            for (header, value) in *headers {
                request = request.header(*header, *value);
            }
            request.send(*bytes)
        }
        Sent::Delete { url } => agent.delete(url.as_str()).call(),
    };
    let response = response.map_err(|error| failed(call, error))?;
    Ok(Answer { status: response.status().as_u16(), response })
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// All of the body; `None` when it is longer than `most`.
    pub(super) fn body(mut self, most: usize, call: &Call<'_>) -> Result<Option<Vec<u8>>, StoreError> {
        let is_chunked = self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        // Not as the library tells it: for no bytes it tells no length.
        let len = self.header("content-length").and_then(|value| value.parse::<u64>().ok());
        if len.is_none() && !is_chunked {
            let reason = "the answer does not say how long it is, so that it may be cut short: look what is between here \
                          and the store";
            return Err(call.error(Failure::Protocol, reason));
        }
        let most = most as u64;
        if len.is_some_and(|len| len > most) {
            return Ok(None);
        }
        // In one piece where the length is known, for a buffer that grows takes up to three times as much.
        let mut bytes = Vec::with_capacity(len.and_then(|len| usize::try_from(len).ok()).unwrap_or_default());
        let read = self.response.body_mut().with_config().limit(most).reader().read_to_end(&mut bytes);
        match read.map_err(Error::from) {
            Ok(_) if len.is_none_or(|len| len == bytes.len() as u64) => Ok(Some(bytes)),
            Ok(_) => Err(call.error(Failure::Unreachable, "the answer is cut short: try again")),
            Err(Error::BodyExceedsLimit(_)) => Ok(None),
            Err(error) => Err(failed(call, error)),
        }
    }

    /// What the answer says is wrong.
    pub(super) fn fault(mut self) -> Fault {
        let clock_off = self.header("date").and_then(clock_off);
        // Not needed to know the kind: what cannot be read is left out.
        let body = self.response.body_mut().with_config().limit(FAULT_BYTES_MAX as u64).read_to_vec();
        Fault::new(self.status, &body.unwrap_or_default(), clock_off)
    }
}

/// By how much this machine's clock differs from the server's.
fn clock_off(date: &str) -> Option<Duration> {
    let theirs = rfc2822::parse(date).ok()?.timestamp();
    let ours = Timestamp::try_from(std::time::SystemTime::now()).ok()?;
    Some(Duration::from_secs(ours.as_second().abs_diff(theirs.as_second())))
}

/// The error for a request without an answer. What the library says is shown only where it cannot hold the URL.
fn failed(call: &Call<'_>, error: Error) -> StoreError {
    match error {
        Error::Io(error) => failed_io(call, &error),
        Error::Timeout(_) => call.error(Failure::Unreachable, "there is no answer in time: look after the network"),
        Error::HostNotFound => {
            call.error(Failure::Unreachable, "the name of the host is not known: check the URL and the network")
        }
        Error::ConnectionFailed => {
            call.error(Failure::Unreachable, "there is no connection: look after the network, the server and the proxy")
        }
        Error::ConnectProxyFailed(_) | Error::InvalidProxyUrl => {
            call.error(Failure::Unreachable, "the proxy does not connect: look whether it runs and lets you through")
        }
        Error::Rustls(error) => identity(call, &error.to_string()),
        Error::Tls(_) | Error::Pem(_) | Error::TlsRequired => identity(call, "TLS fails"),
        Error::Protocol(_) | Error::Http(_) | Error::LargeResponseHeader(..) => {
            call.error(Failure::Protocol, "the answer is not HTTP: check endpoint= of the URL")
        }
        _ => call.error(Failure::Unreachable, "the request fails: try again"),
    }
}

fn failed_io(call: &Call<'_>, error: &io::Error) -> StoreError {
    match error.kind() {
        // From TLS: a wrong certificate, or an answer that is not TLS.
        ErrorKind::InvalidData => identity(call, &error.to_string()),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            call.error(Failure::Unreachable, "the connection ends in the middle: try again")
        }
        ErrorKind::ConnectionRefused => {
            call.error(Failure::Unreachable, "the connection is refused: look whether the server (or the proxy) runs")
        }
        ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            call.error(Failure::Unreachable, "there is no answer in time: look after the network")
        }
        // The kind has no name.
        _ if error.to_string().starts_with("failed to lookup address") => failed(call, Error::HostNotFound),
        kind => call.error(Failure::Unreachable, &format!("the connection fails ({kind}): look after the network")),
    }
}

fn identity(call: &Call<'_>, reason: &str) -> StoreError {
    let reason = format!(
        "the server is not known to be the right one ({reason}): check endpoint= of the URL and this machine's clock; a \
         server with its own certificate needs ca="
    );
    call.error(Failure::Identity, &reason)
}
