//! Values of a database as they are told: to people as SQL would write them, to programs as JSON.

use std::fmt::Write as _;

use rusqlite::types::Value;
use serde_json::json;

/// Letters of a text, or bytes of a blob, that people are told.
const TOLD_MAX: usize = 64;

/// As SQL would write it; what is long is cut, and says how long it is. No control characters.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:?}"),
        Value::Text(text) => {
            let mut told = String::from("'");
            for letter in text.chars().take(TOLD_MAX) {
                match letter {
                    '\'' => told.push_str("''"),
                    letter if letter.is_control() => told.extend(letter.escape_default()),
                    letter => told.push(letter),
                }
            }
            let is_cut = text.chars().nth(TOLD_MAX).is_some();
            told + &end(is_cut, text.len())
        }
        Value::Blob(bytes) => {
            let mut told = String::from("x'");
            for byte in bytes.iter().take(TOLD_MAX) {
                // To a string nothing fails.
                let _: std::fmt::Result = write!(told, "{byte:02x}");
            }
            told + &end(bytes.len() > TOLD_MAX, bytes.len())
        }
    }
}

fn end(is_cut: bool, bytes: usize) -> String {
    if is_cut { format!("…' ({bytes} bytes)") } else { "'".to_owned() }
}

/// Whole: a number, a text, null, or for a blob an object with its digits as `blob`. A number that JSON does not have is a
/// text.
pub(super) fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(number) => json!(number),
        Value::Real(number) if number.is_finite() => json!(number),
        Value::Real(number) => json!(number.to_string()),
        Value::Text(text) => json!(text),
        Value::Blob(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({"blob": digits})
        }
    }
}

/// Columns and their values as an object.
pub(super) fn object<'a>(columns: impl Iterator<Item = (&'a String, &'a Value)>) -> serde_json::Value {
    columns.map(|(name, value)| (name.clone(), json(value))).collect::<serde_json::Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_no_control_characters_and_no_endless_values() {
        assert_eq!(text(&Value::Text("it's\u{1b}[2J".to_owned())), "'it''s\\u{1b}[2J'");
        assert_eq!(text(&Value::Blob(vec![0xab; 2])), "x'abab'");
        assert_eq!(text(&Value::Text("ü".repeat(64))), format!("'{}'", "ü".repeat(64)));
        assert_eq!(text(&Value::Text("ü".repeat(65))), format!("'{}…' (130 bytes)", "ü".repeat(64)));
        assert!(text(&Value::Blob(vec![1; 65])).ends_with("01…' (65 bytes)"));
        assert_eq!((text(&Value::Real(1.0)), text(&Value::Null)), ("1.0".to_owned(), "NULL".to_owned()));
    }

    #[test]
    fn programs_see_all_of_it() {
        assert_eq!(json(&Value::Blob(vec![0, 255])), json!({"blob": "00ff"}));
        assert_eq!(json(&Value::Integer(i64::MIN)), json!(i64::MIN));
        assert_eq!(json(&Value::Real(f64::INFINITY)), json!("inf"));
        assert_eq!(json(&Value::Text("x".repeat(1000))), json!("x".repeat(1000)));
    }
}
