//! The hook `db_write`: parses its parameters.
//!
//! Pure. Errors never quote the parameters: statements contain preimages and channel state.

use std::borrow::Cow;
use std::fmt;

use common::DataVersion;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::message::Text;

/// A write that `lightningd` is about to commit, borrowed from its message.
#[derive(Debug, PartialEq, Eq)]
pub struct IncomingWrite<'a> {
    /// The database's data_version after the transaction.
    pub data_version: DataVersion,
    /// The statements, in order; at least one.
    pub statements: Vec<Cow<'a, str>>,
}

/// The error for invalid parameters of a `db_write`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadWrite {
    /// The message has no parameters.
    #[error("its params are missing")]
    NoParams,
    /// A required key is missing.
    #[error("its params have no \"{field}\"")]
    Missing {
        /// The key.
        field: &'static str,
    },
    /// A value has the wrong type.
    #[error("{field} is {found}; {expected} was expected")]
    WrongType {
        /// The value, by its key.
        field: String,
        /// The type it has.
        found: &'static str,
        /// The type it should have.
        expected: &'static str,
    },
    /// The number is no valid data_version.
    #[error("\"data_version\" is {found}; a whole number from 0 to 4294967295 was expected")]
    NotAVersion {
        /// The number.
        found: String,
    },
    /// The list of statements is empty.
    #[error(
        "\"writes\" is empty, which is what a node on PostgreSQL sends: this backup is for nodes on SQLite; \
         take backup-recorder out of the configuration of this node and use PostgreSQL's own replication"
    )]
    NoStatements,
    /// A key occurs twice, so the meaning is not clear.
    #[error("its params name a key twice")]
    Twice,
}

#[derive(Deserialize)]
struct RawWrite<'a> {
    data_version: u32,
    #[serde(borrow)]
    writes: Statements<'a>,
}

/// The list of statements; each stays in the message unless it has escapes.
struct Statements<'a>(Vec<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Statements<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct StatementList;
        impl<'de> Visitor<'de> for StatementList {
            type Value = Vec<Cow<'de, str>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of statements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
                let mut statements = Vec::with_capacity(16);
                while let Some(Text(statement)) = elements.next_element()? {
                    statements.push(statement);
                }
                Ok(statements)
            }
        }
        json.deserialize_seq(StatementList).map(Self)
    }
}

impl<'a> IncomingWrite<'a> {
    /// Parses the parameters of a `db_write`. Unknown keys are ignored: later releases may add some.
    ///
    /// # Errors
    /// The fault of the parameters, as text for the operator.
    pub fn parse(params: Option<&'a RawValue>) -> Result<Self, BadWrite> {
        let params = params.ok_or(BadWrite::NoParams)?;
        match serde_json::from_str::<RawWrite<'a>>(params.get()) {
            Ok(RawWrite { writes: Statements(statements), .. }) if statements.is_empty() => Err(BadWrite::NoStatements),
            Ok(RawWrite { data_version, writes: Statements(statements) }) => {
                Ok(Self { data_version: DataVersion::new(data_version), statements })
            }
            // serde's own message would quote the value. This second, slower pass delays nothing: the write is refused.
            Err(_) => Err(diagnose(params)),
        }
    }
}

fn diagnose(params: &RawValue) -> BadWrite {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(params.get()) else {
        return BadWrite::WrongType {
            field: "its params".to_owned(),
            found: serde_json::from_str::<Value>(params.get()).map_or("unreadable", |value| type_of(&value)),
            expected: "an object",
        };
    };
    match fields.get("data_version") {
        None => return BadWrite::Missing { field: "data_version" },
        Some(Value::Number(number)) => {
            if number.as_u64().is_none_or(|number| u32::try_from(number).is_err()) {
                return BadWrite::NotAVersion { found: number.to_string() };
            }
        }
        Some(other) => return wrong_type("\"data_version\"".to_owned(), other, "a number"),
    }
    match fields.get("writes") {
        None => BadWrite::Missing { field: "writes" },
        Some(Value::Array(writes)) => writes
            .iter()
            .enumerate()
            .find(|(_, statement)| !statement.is_string())
            .map_or(BadWrite::Twice, |(at, other)| wrong_type(format!("\"writes\"[{at}]"), other, "text")),
        Some(other) => wrong_type("\"writes\"".to_owned(), other, "a list of statements"),
    }
}

fn wrong_type(field: String, found: &Value, expected: &'static str) -> BadWrite {
    BadWrite::WrongType { field, found: type_of(found), expected }
}

const fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn statements_are_borrowed_unless_they_have_escapes() {
        let json = r#"{"data_version":7,"writes":["UPDATE a SET b = 'ä'","INSERT \"x\"\n"],"new key":[]}"#;
        let write = IncomingWrite::parse(Some(raw(json))).unwrap();
        assert_eq!(write.data_version, DataVersion::new(7));
        assert_eq!(write.statements, ["UPDATE a SET b = 'ä'", "INSERT \"x\"\n"]);
        let range = json.as_bytes().as_ptr_range();
        assert!(matches!(&write.statements[0], Cow::Borrowed(text) if range.contains(&text.as_ptr())));
        assert!(matches!(&write.statements[1], Cow::Owned(_)));
    }

    #[test]
    fn every_data_version_is_taken() {
        for number in [0, 1, u32::MAX] {
            let json = format!(r#"{{"writes":["x"],"data_version":{number}}}"#);
            assert_eq!(IncomingWrite::parse(Some(raw(&json))).unwrap().data_version, DataVersion::new(number));
        }
    }

    #[test]
    fn bad_parameters_are_refused_with_the_reason_and_without_their_content() {
        let rows = [
            (r#"[1]"#, "its params is a list; an object was expected"),
            (r#"null"#, "its params is null; an object was expected"),
            (r#"{}"#, "no \"data_version\""),
            (r#"{"writes":["x"]}"#, "no \"data_version\""),
            (r#"{"data_version":1}"#, "no \"writes\""),
            (r#"{"data_version":"secret","writes":["x"]}"#, "\"data_version\" is text; a number was expected"),
            (r#"{"data_version":-1,"writes":["x"]}"#, "\"data_version\" is -1;"),
            (r#"{"data_version":4294967296,"writes":["x"]}"#, "\"data_version\" is 4294967296;"),
            (r#"{"data_version":1.5,"writes":["x"]}"#, "\"data_version\" is 1.5;"),
            (r#"{"data_version":null,"writes":["x"]}"#, "\"data_version\" is null;"),
            (r#"{"data_version":1,"writes":"secret"}"#, "\"writes\" is text; a list of statements was expected"),
            (r#"{"data_version":1,"writes":["secret",["secret"]]}"#, "\"writes\"[1] is a list; text was expected"),
            (r#"{"data_version":1,"writes":[null]}"#, "\"writes\"[0] is null; text was expected"),
            (r#"{"data_version":1,"writes":[]}"#, "PostgreSQL"),
            (r#"{"data_version":1,"data_version":2,"writes":["secret"]}"#, "a key twice"),
        ];
        for (json, expected) in rows {
            let text = IncomingWrite::parse(Some(raw(json))).unwrap_err().to_string();
            assert!(text.contains(expected), "{json}: {text}");
            assert!(!text.contains("secret"), "{json}: {text}");
        }
        assert_eq!(IncomingWrite::parse(None), Err(BadWrite::NoParams));
    }
}
