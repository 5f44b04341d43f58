//! HTTP/1.1 as far as the server needs it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use percent_encoding::percent_decode_str;

use super::link::{Link, PIECE};

/// The maximum length of the lines before the body.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// The maximum length of a body.
const BODY_BYTES_MAX: usize = 32 << 20;

/// A request as it came.
pub(super) struct Request {
    pub(super) method: String,
    /// The path, still with its `%XX`.
    pub(super) path: String,
    /// What stands behind `?`, decoded.
    pub(super) query: Vec<(String, String)>,
    /// Headers with names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// Reads the next request up to its body; `None` when the client is done.
    pub(super) fn read_head(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut head = reader.take(HEAD_BYTES_MAX);
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        let mut words = line.split_ascii_whitespace();
        let method = words.next().ok_or_else(bad)?.to_owned();
        let target = words.next().ok_or_else(bad)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Self {
            method,
            path: path.to_owned(),
            query: query.split('&').filter(|pair| !pair.is_empty()).map(decoded).collect(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let mut line = String::new();
            if head.read_line(&mut line)? == 0 {
                return Err(bad());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Some(request))
    }

    /// Reads the body, which some clients send only when they are told to go on.
    pub(super) fn read_body(&mut self, reader: &mut BufReader<TcpStream>, writer: &mut TcpStream) -> io::Result<()> {
        let len = self.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
        if len > BODY_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.header("expect").is_some() {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        self.body = vec![0; len];
        reader.read_exact(&mut self.body)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn decoded(pair: &str) -> (String, String) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let text = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    (text(name), text(value))
}

/// An answer to send.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Response {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// The answer for something wrong, as S3 says it.
    pub(super) fn fault(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>As told</Message></Error>"
        );
        Self::new(status, body)
    }

    /// Sends the answer over a link, of the body only `most` bytes.
    pub(super) fn send(&self, stream: &mut TcpStream, link: &Link, most: usize) -> io::Result<()> {
        let mut bytes = format!("HTTP/1.1 {} Status\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        // An answer without a body has no length.
        if self.status != 204 {
            bytes.extend(format!("content-length: {}\r\n", self.body.len()).into_bytes());
        }
        bytes.extend(b"\r\n");
        let body = &self.body[..most.min(self.body.len())];
        let began = Instant::now();
        // What is short goes out at once, as a server does it.
        let (first, rest) = body.split_at(body.len().min(PIECE));
        bytes.extend(first);
        link.take(first.len(), began);
        stream.write_all(&bytes)?;
        for piece in rest.chunks(PIECE) {
            link.take(piece.len(), began);
            stream.write_all(piece)?;
        }
        Ok(())
    }
}
