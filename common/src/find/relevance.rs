//! Which changes can affect the matches of a condition: SQLite reports for every statement which columns of which tables it
//! writes, cascades included.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::condition::{Condition, Hidden};
use super::condition_text::words;
use format::statements::StoredStatement;

/// The possible effect of a statement, or a change, on the matches of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Relevance {
    /// None.
    None,
    /// None, except for rows that its rows replace: it sets no column that the condition reads.
    Beside,
    /// Some, to rows that SQLite reports.
    Rows,
    /// Some, to rows that are not reported.
    Whole,
    /// Any, also for later changes: the schema changes.
    Schema,
}

/// Analyses statements on one schema.
pub(super) struct Statements<'c> {
    connection: &'c Connection,
    condition: &'c Condition,
    /// Whether rows can disappear unreported by SQLite.
    is_opaque: bool,
    found: Arc<Mutex<Relevance>>,
    known: HashMap<String, Relevance>,
    /// Whether the schema has changed since.
    is_over: bool,
}

impl<'c> Statements<'c> {
    /// Analyses statements on a connection that has no other use.
    pub(super) fn on(connection: &'c mut Connection, condition: &'c Condition) -> rusqlite::Result<Self> {
        let found = Arc::new(Mutex::new(Relevance::None));
        // The schema may differ from the one on which the condition was checked.
        let mut about = condition.clone();
        let here = Hidden::of(connection, &condition.table)?;
        let is_opaque = condition.is_opaque || here.is_opaque;
        about.add(here);
        let noting = Arc::clone(&found);
        let authorizer = move |context: AuthContext<'_>| {
            let mut found = noting.lock().unwrap_or_else(PoisonError::into_inner);
            *found = (*found).max(of_action(&about, &context.action));
            // Some PRAGMAs act while they are prepared.
            if matches!(context.action, AuthAction::Pragma { .. }) {
                Authorization::Ignore
            } else {
                Authorization::Allow
            }
        };
        connection.authorizer(Some(authorizer))?;
        Ok(Self { connection, condition, is_opaque, found, known: HashMap::new(), is_over: false })
    }

    /// The possible effect of a stored statement.
    pub(super) fn of_stored(&mut self, statement: &StoredStatement<'_>) -> Relevance {
        match statement {
            StoredStatement::Plain(text) => self.of_text(text),
            StoredStatement::Templated(templated) => self.of_text(templated.template()),
        }
    }

    /// The possible effect of a statement, or of the statements of a template.
    pub(super) fn of_text(&mut self, text: &str) -> Relevance {
        if self.is_over {
            return Relevance::Schema;
        }
        if let Some(&known) = self.known.get(text) {
            return known;
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Relevance::None;
        let prepared = self.connection.prepare(text).map(drop);
        let found = *self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let relevance = match found {
            // It refers to something that this schema lacks.
            _ if prepared.is_err() => Relevance::Whole,
            Relevance::Beside | Relevance::Rows if self.is_opaque || is_silent(text) => Relevance::Whole,
            Relevance::Beside => Relevance::None,
            Relevance::Rows if self.condition.layout.rowid.is_none() => Relevance::Whole,
            found => found,
        };
        self.is_over |= relevance == Relevance::Schema;
        self.known.insert(text.to_owned(), relevance);
        relevance
    }
}

fn of_action(condition: &Condition, action: &AuthAction<'_>) -> Relevance {
    let is_own = |table: &str| table.eq_ignore_ascii_case(&condition.table);
    match *action {
        // SQLite maintains this table when rows are added to others, unreported.
        AuthAction::Insert { .. } if is_own("sqlite_sequence") => Relevance::Whole,
        AuthAction::Insert { table_name } | AuthAction::Delete { table_name } if is_own(table_name) => Relevance::Rows,
        // When the key of a row changes, SQLite reports only the new one.
        AuthAction::Update { table_name, column_name }
            if is_own(table_name) && condition.key.contains(&column_name.to_ascii_lowercase()) =>
        {
            Relevance::Whole
        }
        AuthAction::Update { table_name, column_name } if is_own(table_name) && condition.columns.have(column_name) => {
            Relevance::Rows
        }
        AuthAction::Update { table_name, .. } if is_own(table_name) => Relevance::Beside,
        AuthAction::Insert { .. }
        | AuthAction::Delete { .. }
        | AuthAction::Update { .. }
        | AuthAction::Read { .. }
        | AuthAction::Select
        | AuthAction::Function { .. }
        | AuthAction::Pragma { .. }
        | AuthAction::Recursive
        | AuthAction::Savepoint { .. }
        | AuthAction::Transaction { .. } => Relevance::None,
        _ => Relevance::Schema,
    }
}

/// Whether SQLite may write rows unreported: those replaced in conflicts, and all rows of a table at once (SQLite,
/// `sqlite3_update_hook`), as a DELETE without a WHERE of its own does.
fn is_silent(text: &str) -> bool {
    let (mut depth, mut begins, mut deletes, mut has_where) = (0_usize, None, false, false);
    for word in words(text) {
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
        begins.get_or_insert(is("DELETE"));
        match word {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ if is("REPLACE") => return true,
            _ if is("DELETE") => deletes = true,
            _ if is("WHERE") && depth == 0 => has_where = true,
            _ => {}
        }
    }
    deletes && !(begins == Some(true) && has_where)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_empties_a_table_or_makes_rows_give_way_is_silent() {
        for (text, silent) in [
            ("DELETE FROM t WHERE id = 1", false),
            ("DELETE FROM t -- all\n where (id = 1)", false),
            ("DELETE FROM t", true),
            ("delete from no_such", true),
            ("DELETE FROM \"a WHERE b\"", true),
            ("DELETE FROM [where]", true),
            ("DELETE FROM t /* WHERE id = 1 */", true),
            ("DELETE FROM t -- WHERE", true),
            ("/* first */ DELETE FROM t WHERE x = 'DELETE'", false),
            ("WITH c AS (SELECT 1 WHERE 1) DELETE FROM t", true),
            ("INSERT INTO t VALUES ('DELETE', 'REPLACE')", false),
            ("INSERT INTO deleted SELECT * FROM t", false),
            ("INSERT OR /**/ replace INTO t VALUES (1)", true),
            ("UPDATE OR REPLACE t SET id = 2", true),
        ] {
            assert_eq!(is_silent(text), silent, "{text}");
        }
    }
}
