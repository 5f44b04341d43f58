//! [`Value`]: a value of a row, exactly as it is stored.

use std::cmp::Ordering;
use std::fmt::{self, Write as _};

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

use format::units::Hex;

/// A value of a row. Equal to another one only if all bits are: `1` is not `1.0`, and a text is never a blob.
#[derive(Debug, Clone)]
pub enum Value {
    /// NULL.
    Null,
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Real(f64),
    /// A text: usually UTF-8, but SQLite stores any bytes as one.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

/// Letters of a text, or bytes of a blob, that a message shows.
const SHOWN_MAX: usize = 64;

/// Writes the value as in SQL, without control characters. A long value is cut, and its length given.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |is_cut: bool, bytes: usize| if is_cut { format!("…' ({bytes} bytes)") } else { "'".to_owned() };
        let blob = |bytes: &[u8]| {
            let is_cut = bytes.len() > SHOWN_MAX;
            format!("x'{}{}", Hex(bytes.get(..SHOWN_MAX).unwrap_or(bytes)), end(is_cut, bytes.len()))
        };
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Real(number) => write!(f, "{number:?}"),
            Self::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => {
                    f.write_str("'")?;
                    for letter in text.chars().take(SHOWN_MAX) {
                        match letter {
                            '\'' => f.write_str("''")?,
                            letter if letter.is_control() => write!(f, "{}", letter.escape_default())?,
                            letter => f.write_char(letter)?,
                        }
                    }
                    f.write_str(&end(text.chars().nth(SHOWN_MAX).is_some(), text.len()))
                }
                Err(_) => write!(f, "CAST({} AS TEXT)", blob(bytes)),
            },
            Self::Blob(bytes) => f.write_str(&blob(bytes)),
        }
    }
}

/// The rule by which SQLite sorts the texts of a key (SQLite, "Datatypes" §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collation {
    Binary,
    NoCase,
    RTrim,
}

impl Value {
    /// The value as a rusqlite type.
    pub(crate) fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }
    }

    /// Compares values as in an index: NULL, numbers, texts, blobs. Values that are equal as keys to SQLite, such as `1` and
    /// `1.0`, are equal here.
    pub(crate) fn compare(&self, other: &Self, collation: Collation) -> Ordering {
        let class = |value: &Self| match value {
            Self::Null => 0,
            Self::Integer(_) | Self::Real(_) => 1,
            Self::Text(_) => 2,
            Self::Blob(_) => 3,
        };
        match (self, other) {
            (Self::Integer(own), Self::Integer(other)) => own.cmp(other),
            (Self::Real(own), Self::Real(other)) => own.partial_cmp(other).unwrap_or_else(|| own.total_cmp(other)),
            (Self::Integer(own), Self::Real(other)) => compare_mixed(*own, *other),
            (Self::Real(own), Self::Integer(other)) => compare_mixed(*other, *own).reverse(),
            (Self::Text(own), Self::Text(other)) => collation.compare(own, other),
            (Self::Blob(own), Self::Blob(other)) => own.cmp(other),
            _ => class(self).cmp(&class(other)),
        }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Real(number) => Self::Real(number),
            ValueRef::Text(bytes) => Self::Text(bytes.to_vec()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.as_ref()))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Value {}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Value {
    /// The order of an index, extended to a total order of values that are equal as keys.
    fn cmp(&self, other: &Self) -> Ordering {
        self.compare(other, Collation::Binary).then_with(|| match (self, other) {
            (Self::Real(own), Self::Real(other)) => own.total_cmp(other),
            (Self::Integer(_), Self::Real(_)) => Ordering::Less,
            (Self::Real(_), Self::Integer(_)) => Ordering::Greater,
            _ => Ordering::Equal,
        })
    }
}

impl Collation {
    /// The collation with this name; SQLite cannot read an index with any other.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            _ if name.eq_ignore_ascii_case("NOCASE") => Self::NoCase,
            _ if name.eq_ignore_ascii_case("RTRIM") => Self::RTrim,
            _ => Self::Binary,
        }
    }

    fn compare(self, own: &[u8], other: &[u8]) -> Ordering {
        match self {
            Self::Binary => own.cmp(other),
            // For `sqlite3_strnicmp` a zero byte ends either text.
            Self::NoCase => {
                let small = |text: &[u8]| {
                    text.iter().take_while(|&&byte| byte != 0).map(u8::to_ascii_lowercase).collect::<Vec<_>>()
                };
                let common = own.len().min(other.len());
                small(&own[..common]).cmp(&small(&other[..common])).then(own.len().cmp(&other.len()))
            }
            Self::RTrim => {
                let trimmed = |text: &[u8]| text.len() - text.iter().rev().take_while(|&&byte| byte == b' ').count();
                own[..trimmed(own)].cmp(&other[..trimmed(other)])
            }
        }
    }
}

/// Compares an integer with a float exactly (`sqlite3IntFloatCompare`).
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "after the range is known")]
fn compare_mixed(whole: i64, real: f64) -> Ordering {
    const BOUND: f64 = 9_223_372_036_854_775_808.0;
    if real < -BOUND {
        Ordering::Greater
    } else if real >= BOUND {
        Ordering::Less
    } else {
        whole.cmp(&(real as i64)).then_with(|| (whole as f64).partial_cmp(&real).unwrap_or(Ordering::Greater))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn a_message_has_no_control_characters_and_no_endless_values() {
        let shown = |value: Value| value.to_string();
        assert_eq!(shown(Value::Text("it's\u{1b}[2J".into())), "'it''s\\u{1b}[2J'");
        assert_eq!(shown(Value::Blob(vec![0xab; 2])), "x'abab'");
        assert_eq!(shown(Value::Text("ü".repeat(64).into())), format!("'{}'", "ü".repeat(64)));
        assert_eq!(shown(Value::Text("ü".repeat(65).into())), format!("'{}…' (130 bytes)", "ü".repeat(64)));
        assert!(shown(Value::Blob(vec![1; 65])).ends_with("01…' (65 bytes)"));
        assert_eq!(shown(Value::Text(vec![b'a', 0xff])), "CAST(x'61ff' AS TEXT)");
        assert_eq!((shown(Value::Real(1.0)), shown(Value::Null)), ("1.0".to_owned(), "NULL".to_owned()));
    }

    fn value() -> impl Strategy<Value = Value> {
        let integers = vec![0, 1, -1, 9_007_199_254_740_992, 9_007_199_254_740_993, i64::MAX, i64::MIN];
        let reals = vec![
            0.0,
            -0.0,
            1.0,
            1.5,
            -1.5,
            9_007_199_254_740_992.0,
            9_223_372_036_854_775_808.0,
            -9_223_372_036_854_775_808.0,
            1e300,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ];
        let texts: Vec<&[u8]> = vec![
            b"",
            b"a",
            b"A",
            b"a ",
            b"a  ",
            b"ab",
            b"Z",
            b"[",
            b"\xff",
            b"\xc3\xa9",
            b"\xc3",
            b"a\0b",
            b"a\0c",
            b"A\0",
            b"\\xff",
        ];
        prop_oneof![
            Just(Value::Null),
            prop::sample::select(integers).prop_map(Value::Integer),
            prop::sample::select(reals).prop_map(Value::Real),
            prop::sample::select(texts.clone()).prop_map(|text| Value::Text(text.to_vec())),
            prop::sample::select(texts).prop_map(|blob| Value::Blob(blob.to_vec())),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
        /// The reference is SQLite itself.
        #[test]
        fn values_stand_where_sqlite_puts_them(own in value(), other in value()) {
            thread_local!(static SQLITE: Connection = Connection::open_in_memory().unwrap());
            for (collation, name) in
                [(Collation::Binary, "BINARY"), (Collation::NoCase, "NOCASE"), (Collation::RTrim, "RTRIM")]
            {
                // An index sorts NULL before all else, which `<` does not show.
                let sql = format!(
                    "SELECT CASE WHEN ?1 IS ?2 COLLATE {name} THEN 0 ELSE \
                       (SELECT CASE at WHEN 1 THEN -1 ELSE 1 END FROM (SELECT 1 AS at, ?1 AS v UNION ALL SELECT 2, ?2) \
                        ORDER BY v COLLATE {name} LIMIT 1) END"
                );
                let expected: i64 = SQLITE.with(|sqlite| sqlite.query_row(&sql, [&own, &other], |row| row.get(0)).unwrap());
                prop_assert_eq!(own.compare(&other, collation) as i64, expected, "{}", name);
                prop_assert_eq!(other.compare(&own, collation) as i64, -expected, "{}", name);
            }
            // Values with other bits or another type differ.
            let bits = |value: &Value| match value {
                Value::Real(number) => format!("{}", number.to_bits()),
                other => format!("{other:?}"),
            };
            prop_assert_eq!(own == other, bits(&own) == bits(&other));
        }

        #[test]
        fn all_values_have_one_order(a in value(), b in value(), c in value()) {
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert!(!(a <= b && b <= c) || a <= c);
        }
    }
}
