//! Checks of a condition's text: between parentheses SQLite itself does not distinguish an expression from a text that only looks
//! like one.

const A_QUERY: &str = "it must be a single expression about one row, without a query or a table in it";
const PARENTHESES: &str = "it is not a single expression: its parentheses do not match";

/// Converts a condition into an expression that means the same between any parentheses, or returns the reason why that is
/// impossible.
///
/// A name in double quotes gets backticks: SQLite takes a double-quoted name of a missing column for a string, and a version
/// without the column would have matching rows.
///
/// Refused are words that begin a query, `IN` with a table name (SQLite does not report a table that it reads through an index),
/// and unbalanced parentheses, as in `1) OR (1`.
pub(super) fn as_one_expression(sql: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    let (mut depth, mut after_in) = (0_usize, false);
    while let Some(letter) = rest.chars().next() {
        let len = token_len(rest, letter);
        let (token, behind) = rest.split_at(len);
        rest = behind;
        let is_comment = token.starts_with("--") || token.starts_with("/*");
        if is_comment || letter.is_whitespace() {
            out.push_str(token);
            continue;
        }
        if after_in && letter != '(' {
            return Err(A_QUERY);
        }
        after_in = token.eq_ignore_ascii_case("IN");
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1).ok_or(PARENTHESES)?,
            _ if ["SELECT", "VALUES", "WITH", "EXISTS"].iter().any(|word| token.eq_ignore_ascii_case(word)) => {
                return Err(A_QUERY);
            }
            _ => {}
        }
        match token.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
            Some(name) => out.push_str(&quoted(&name.replace("\"\"", "\""))),
            None => out.push_str(token),
        }
    }
    match (depth, after_in) {
        (0, false) => Ok(out),
        (_, true) => Err(A_QUERY),
        (_, false) => Err(PARENTHESES),
    }
}

/// A name in backticks, which SQLite never takes for a string.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The words and other characters of a statement, without comments and quoted parts.
pub(super) fn words(sql: &str) -> impl Iterator<Item = &str> {
    let mut rest = sql;
    std::iter::from_fn(move || {
        let letter = rest.chars().next()?;
        let (token, behind) = rest.split_at(token_len(rest, letter));
        rest = behind;
        Some(token)
    })
    .filter(|token| {
        let is_comment = token.starts_with("--") || token.starts_with("/*");
        !is_comment && !token.starts_with(|letter: char| letter.is_whitespace() || "'\"`[".contains(letter))
    })
}

/// Length of the comment, quoted part, word or character at the beginning of `sql`.
fn token_len(sql: &str, letter: char) -> usize {
    let behind = |end: &str, from: usize| {
        sql.get(from..).and_then(|rest| rest.find(end)).map_or(sql.len(), |at| from + at + end.len())
    };
    match letter {
        '-' if sql.starts_with("--") => behind("\n", 2),
        '/' if sql.starts_with("/*") => behind("*/", 2),
        '[' => behind("]", 1),
        '\'' | '"' | '`' => {
            let mut end = 1;
            loop {
                match sql.get(end..).and_then(|rest| rest.find(letter)) {
                    None => return sql.len(),
                    // A doubled quote stands for itself.
                    Some(at) if sql.get(end + at + 1..).is_some_and(|rest| rest.starts_with(letter)) => end += at + 2,
                    Some(at) => return end + at + 1,
                }
            }
        }
        _ if is_of_word(letter) => sql.find(|inside: char| !is_of_word(inside) && inside != '$').unwrap_or(sql.len()),
        _ => letter.len_utf8(),
    }
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_parentheses_stays_there() {
        for (sql, expected) in [
            ("a = 1 AND (b IN (1, 2) OR c LIKE ')')", Ok("a = 1 AND (b IN (1, 2) OR c LIKE ')')")),
            ("a = ')' -- ) (\n", Ok("a = ')' -- ) (\n")),
            ("a /* ) */ = 'it''s)'", Ok("a /* ) */ = 'it''s)'")),
            ("[a)] = `b)`", Ok("[a)] = `b)`")),
            ("1) OR (1", Err(PARENTHESES)),
            ("(1", Err(PARENTHESES)),
            (")(", Err(PARENTHESES)),
            ("'(' )", Err(PARENTHESES)),
            ("a IN b", Err(A_QUERY)),
            ("a IN", Err(A_QUERY)),
            ("a in /* x */ `b`", Err(A_QUERY)),
            ("exists (x)", Err(A_QUERY)),
            ("inside = 1 AND selected = 2", Ok("inside = 1 AND selected = 2")),
        ] {
            assert_eq!(as_one_expression(sql), expected.map(str::to_owned), "{sql}");
        }
    }

    #[test]
    fn a_name_in_double_quotes_is_a_name() {
        assert_eq!(as_one_expression(r#""a""b`c" = 'x"y' "#).unwrap(), "`a\"b``c` = 'x\"y' ");
        // SQLite reports the error.
        assert_eq!(as_one_expression(r#"a = "b"#).unwrap(), r#"a = "b"#);
    }
}
