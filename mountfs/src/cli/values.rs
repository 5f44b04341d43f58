//! Values of a database as text: SQL literals for the terminal, JSON for programs.

use common::Value;
use serde_json::json;

/// The most characters of a text, or bytes of a blob, that are shown on the terminal.
const SHOWN_MAX: usize = 64;

/// The value as an SQL literal, without control characters. A long one is cut, and its length added.
pub(super) fn text(value: &Value) -> String {
    let blob = |bytes: &[u8]| {
        let shown = format!("x'{}", digits(bytes.get(..SHOWN_MAX).unwrap_or(bytes)));
        shown + &end(bytes.len() > SHOWN_MAX, bytes.len())
    };
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:?}"),
        Value::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => {
                let mut shown = String::from("'");
                for letter in text.chars().take(SHOWN_MAX) {
                    match letter {
                        '\'' => shown.push_str("''"),
                        letter if letter.is_control() => shown.extend(letter.escape_default()),
                        letter => shown.push(letter),
                    }
                }
                let is_cut = text.chars().nth(SHOWN_MAX).is_some();
                shown + &end(is_cut, text.len())
            }
            Err(_) => format!("CAST({} AS TEXT)", blob(bytes)),
        },
        Value::Blob(bytes) => blob(bytes),
    }
}

fn end(is_cut: bool, bytes: usize) -> String {
    if is_cut { format!("…' ({bytes} bytes)") } else { "'".to_owned() }
}

/// The complete value in JSON: a number, a text, null, or an object for what JSON does not have: `blob` with the hexadecimal
/// digits of its bytes, `text` with those of a text that is not UTF-8, `real` with a number that is infinite.
pub(super) fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(number) => json!(number),
        Value::Real(number) if number.is_finite() => json!(number),
        Value::Real(number) => json!({"real": number.to_string()}),
        Value::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => json!(text),
            Err(_) => json!({"text": digits(bytes)}),
        },
        Value::Blob(bytes) => json!({"blob": digits(bytes)}),
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
        assert_eq!(text(&Value::Text("it's\u{1b}[2J".into())), "'it''s\\u{1b}[2J'");
        assert_eq!(text(&Value::Blob(vec![0xab; 2])), "x'abab'");
        assert_eq!(text(&Value::Text("ü".repeat(64).into())), format!("'{}'", "ü".repeat(64)));
        assert_eq!(text(&Value::Text("ü".repeat(65).into())), format!("'{}…' (130 bytes)", "ü".repeat(64)));
        assert!(text(&Value::Blob(vec![1; 65])).ends_with("01…' (65 bytes)"));
        assert_eq!(text(&Value::Text(vec![b'a', 0xff])), "CAST(x'61ff' AS TEXT)");
        assert_eq!((text(&Value::Real(1.0)), text(&Value::Null)), ("1.0".to_owned(), "NULL".to_owned()));
    }

    #[test]
    fn programs_see_all_of_it() {
        assert_eq!(json(&Value::Blob(vec![0, 255])), json!({"blob": "00ff"}));
        assert_eq!(json(&Value::Integer(i64::MIN)), json!(i64::MIN));
        assert_eq!(json(&Value::Real(f64::NEG_INFINITY)), json!({"real": "-inf"}));
        assert_eq!(json(&Value::Text("x".repeat(1000).into())), json!("x".repeat(1000)));
    }

    #[test]
    fn to_programs_no_two_values_look_alike() {
        let mut all = vec![Value::Null, Value::Integer(1), Value::Real(1.0), Value::Real(f64::INFINITY)];
        let bytes: [&[u8]; 8] = [b"", b"1", b"inf", b"\\xff", b"\xff", b"\xef\xbf\xbd", b"ff", b"null"];
        all.extend(bytes.iter().flat_map(|it| [Value::Text(it.to_vec()), Value::Blob(it.to_vec())]));
        let shown: std::collections::HashSet<String> = all.iter().map(|value| json(value).to_string()).collect();
        assert_eq!(shown.len(), all.len(), "{shown:?}");
        let shown: std::collections::HashSet<String> = all.iter().map(text).collect();
        assert_eq!(shown.len(), all.len(), "{shown:?}");
    }
}
