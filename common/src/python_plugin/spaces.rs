//! The space before `WHERE` that `lightningd` omitted until 2020 (its pull request 4090).

/// Inserts a space before every `WHERE` that directly follows a number, such as `reserved_til=1891733WHERE`; `None` if there is
/// none.
///
/// No SQL token begins like that, so nothing else is changed. Strings are left alone.
pub(crate) fn with_spaces(sql: &str) -> Option<String> {
    let places = sql.match_indices("WHERE").map(|(at, _)| at);
    let missing: Vec<usize> = places.filter(|&at| ends_in_number(&sql[..at]) && is_code(&sql[..at])).collect();
    if missing.is_empty() {
        return None;
    }
    let mut out = String::with_capacity(sql.len() + missing.len());
    let mut from = 0;
    for at in missing {
        out.push_str(&sql[from..at]);
        out.push(' ');
        from = at;
    }
    out.push_str(&sql[from..]);
    Some(out)
}

fn ends_in_number(before: &str) -> bool {
    let rest = before.trim_end_matches(|c: char| c.is_ascii_digit());
    rest.len() < before.len() && !rest.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$')
}

/// Whether the text behind is outside of strings: a quote within one is doubled.
fn is_code(before: &str) -> bool {
    before.matches('\'').count().is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_where_are_two_words() {
        let spaced = |sql: &str| with_spaces(sql);
        assert_eq!(
            spaced("UPDATE outputs SET reserved_til=1891733WHERE a=x'0a' AND b=1").as_deref(),
            Some("UPDATE outputs SET reserved_til=1891733 WHERE a=x'0a' AND b=1")
        );
        assert_eq!(
            spaced("UPDATE channels SET s='it''s', peer_id=1WHERE channels.id=2").as_deref(),
            Some("UPDATE channels SET s='it''s', peer_id=1 WHERE channels.id=2")
        );
        assert_eq!(spaced("SELECT 1WHERE 2WHERE 3").as_deref(), Some("SELECT 1 WHERE 2 WHERE 3"));
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for sql in [
            "UPDATE outputs SET reserved_til=1891733 WHERE b=1",
            "INSERT INTO invoices VALUES ('room 7WHERE are you')",
            "INSERT INTO invoices VALUES ('it''s 7WHERE')",
            "UPDATE t SET x=a1WHERE",
            "UPDATE t SET x=_1WHERE",
            "SELECT é1WHERE",
            "WHERE",
            "",
        ] {
            assert_eq!(with_spaces(sql), None, "{sql}");
        }
    }
}
