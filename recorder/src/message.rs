//! [`Incoming`]: the kind of a message of `lightningd`: a `db_write`, a message for `cln-plugin`, or an invalid one.
//!
//! Pure. Everything is borrowed from the message where JSON allows it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// The name of the hook, which is the method of its requests.
pub const DB_WRITE: &str = "db_write";

/// A JSON string that stays where it is when it has no escapes.
///
/// serde lends a `Cow` only to a field that is marked so; in a list or an option it would always copy.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// A message of `lightningd`.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// A database write that waits for its answer.
    DbWrite {
        /// The request's id, as received.
        id: &'a str,
        /// The parameters, not parsed yet.
        params: Option<&'a RawValue>,
    },
    /// Any other request.
    Request {
        /// The request's id, as received.
        id: &'a str,
        /// The method.
        method: Cow<'a, str>,
        /// Whether it has parameters, even empty ones.
        params: Params,
    },
    /// A notification, which has no answer.
    Notification {
        /// The topic.
        method: Cow<'a, str>,
        /// Whether it has parameters, even empty ones.
        params: Params,
    },
    /// The bytes are not a JSON-RPC message, or a `db_write` without an id to answer.
    Unreadable {
        /// The id as received, if one was found.
        id: Option<&'a str>,
        /// The fault.
        reason: Unreadable,
    },
}

/// Whether a message carries the key `params`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Params {
    /// The key is there.
    Present,
    /// The key is missing.
    Absent,
}

/// The fault of an invalid message. It never quotes the message, which may contain secrets of the node.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unreadable {
    /// The message is not valid JSON.
    #[error("the message is not JSON ({0})")]
    NotJson(String),
    /// The message is valid JSON, but not a request.
    #[error(
        "the message is JSON but not a JSON-RPC request: an object with one \"id\" and one \"method\" that is text"
    )]
    NotARequest,
    /// A hook call without id.
    #[error("a db_write without an id cannot be answered")]
    NoId,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Text<'a>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

impl<'a> Incoming<'a> {
    /// Parses the envelope of a message.
    pub fn parse(message: &'a [u8]) -> Self {
        let envelope: Envelope<'a> = match serde_json::from_slice(message) {
            Ok(envelope) => envelope,
            Err(error) => {
                let reason = match error.classify() {
                    // These texts name a position and what JSON wanted there, never what was found.
                    Category::Syntax | Category::Eof | Category::Io => Unreadable::NotJson(error.to_string()),
                    Category::Data => Unreadable::NotARequest,
                };
                return Self::Unreadable { id: Head::of(message).id, reason };
            }
        };
        let id = envelope.id.map(RawValue::get);
        let params = if envelope.params.is_some() { Params::Present } else { Params::Absent };
        match (envelope.method, id) {
            (None, _) => Self::Unreadable { id, reason: Unreadable::NotARequest },
            (Some(Text(method)), Some(id)) if method == DB_WRITE => Self::DbWrite { id, params: envelope.params },
            (Some(Text(method)), None) if method == DB_WRITE => Self::Unreadable { id: None, reason: Unreadable::NoId },
            (Some(Text(method)), Some(id)) => Self::Request { id, method, params },
            (Some(Text(method)), None) => Self::Notification { method, params },
        }
    }
}

/// The id and method read from the beginning of a damaged or truncated message.
#[derive(Debug, Default)]
pub struct Head<'a> {
    /// The request's id, as received.
    pub id: Option<&'a str>,
    /// The method.
    pub method: Option<Cow<'a, str>>,
}

impl<'a> Head<'a> {
    /// Reads the keys of the outermost object until the text ends or stops being JSON.
    pub fn of(message: &'a [u8]) -> Self {
        let mut head = Self::default();
        let mut json = serde_json::Deserializer::from_slice(message);
        // An error is expected, because the text may break off; the result is what was read before.
        let _broken_off = HeadOf(&mut head).deserialize(&mut json);
        head
    }
}

struct HeadOf<'h, 'a>(&'h mut Head<'a>);

impl<'de> DeserializeSeed<'de> for HeadOf<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeadOf<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON-RPC object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = fields.next_key()? {
            match key.as_ref() {
                "id" => {
                    let id: &RawValue = fields.next_value()?;
                    self.0.id.get_or_insert(id.get());
                }
                "method" => {
                    let Text(method) = fields.next_value()?;
                    self.0.method.get_or_insert(method);
                }
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_db_write_is_recognised_with_its_id_as_received() {
        for id in [r#""cln:db_write#21""#, "7", r#""with \"quotes\" \u0041""#] {
            let message = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"db_write","params":{{}}}}"#);
            match Incoming::parse(message.as_bytes()) {
                Incoming::DbWrite { id: found, params: Some(params) } => {
                    assert_eq!(found, id);
                    assert_eq!(params.get(), "{}");
                }
                other => panic!("{other:?}"),
            }
        }
        let escaped = br#"{"method":"db\u005fwrite","id":1}"#;
        assert!(matches!(Incoming::parse(escaped), Incoming::DbWrite { id: "1", params: None }));
    }

    #[test]
    fn everything_else_goes_its_own_way() {
        let request = Incoming::parse(br#"{"id":"i","method":"init","params":{}}"#);
        assert!(matches!(
            &request,
            Incoming::Request { id: "\"i\"", method: Cow::Borrowed("init"), params: Params::Present }
        ));
        let bare = Incoming::parse(br#"{"id":"i","method":"init"}"#);
        assert!(matches!(bare, Incoming::Request { params: Params::Absent, .. }));
        let notification = Incoming::parse(br#"{"method":"shutdown","params":{}}"#);
        assert!(
            matches!(&notification, Incoming::Notification { method, params: Params::Present } if method == "shutdown")
        );
    }

    #[test]
    fn what_cannot_be_understood_says_why_and_keeps_the_id_it_has() {
        let rows: &[(&[u8], Option<&str>, &str)] = &[
            (b"hello", None, "not JSON"),
            (br#"{"id":"a","method":"db_write","params":{"#, Some("\"a\""), "not JSON"),
            (br#"{"method":"db_write","id":5,"params":{"writes":["x"#, Some("5"), "not JSON"),
            (b"{\"id\":\"a\",\"method\":\"db_write\",\"params\":{\"writes\":[\"\xff\"]}}", Some("\"a\""), "not JSON"),
            (br#"{"id":"a","method":"db_write"} trailing"#, Some("\"a\""), "not JSON"),
            (br#"{"id":"a","method":7}"#, Some("\"a\""), "not a JSON-RPC request"),
            (br#"{"id":"a","id":"b","method":"db_write"}"#, Some("\"a\""), "not a JSON-RPC request"),
            (br#"{"id":"a"}"#, Some("\"a\""), "not a JSON-RPC request"),
            (br#"[1]"#, None, "not a JSON-RPC request"),
            (br#""secret""#, None, "not a JSON-RPC request"),
            (br#"{"method":"db_write","params":{}}"#, None, "without an id"),
            (br#"{"method":"db_write","id":null,"params":{}}"#, None, "without an id"),
        ];
        for (message, expected_id, expected_reason) in rows {
            let text = String::from_utf8_lossy(message);
            match Incoming::parse(message) {
                Incoming::Unreadable { id, reason } => {
                    assert_eq!(id, *expected_id, "{text}");
                    assert!(reason.to_string().contains(expected_reason), "{text}: {reason}");
                    assert!(!reason.to_string().contains("secret"), "{reason}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_message_cut_anywhere_after_id_and_method_still_yields_both() {
        let message = br#"{"jsonrpc":"2.0","id":"cln:db_write#1","method":"db_write","params":{"writes":["insert"]}}"#;
        let known = message.windows(8).position(|part| part == b"\"params\"").unwrap();
        for cut in 0..=message.len() {
            let head = Head::of(&message[..cut]);
            assert!(head.id.is_none_or(|id| id == "\"cln:db_write#1\""), "cut at {cut}");
            if cut >= known {
                assert_eq!((head.id, head.method.as_deref()), (Some("\"cln:db_write#1\""), Some(DB_WRITE)), "{cut}");
            }
        }
    }
}
