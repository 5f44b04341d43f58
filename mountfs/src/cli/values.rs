//! Values of a database as text: SQL literals for the terminal, JSON for programs.

use common::Value;
use serde_json::json;

/// Whole: a number, a text, null, or an object for what JSON does not have: `blob` with the hexadecimal digits of its bytes,
/// `text` with those of a text that is not UTF-8, `real` with a number that is infinite.
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
        let reported: std::collections::HashSet<String> = all.iter().map(|value| json(value).to_string()).collect();
        assert_eq!(reported.len(), all.len(), "{reported:?}");
        let reported: std::collections::HashSet<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(reported.len(), all.len(), "{reported:?}");
    }
}
