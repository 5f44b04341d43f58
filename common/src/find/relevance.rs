//! Which changes can change what a condition says: SQLite tells of every statement which columns of which tables it writes,
//! cascades included.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::condition::Condition;
use crate::format::statements::StoredStatement;

/// What a statement, or a change, can do to what a condition says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Relevance {
    /// Nothing.
    None,
    /// Nothing, but for rows that give way to those that it writes: what the condition reads is not in what it sets.
    Beside,
    /// Something, and SQLite tells which rows it writes.
    Rows,
    /// Something, to rows that nobody tells.
    Whole,
    /// Anything, and what comes after it too: the schema is another one then.
    Schema,
}

/// Statements looked at on one schema.
pub(super) struct Statements<'c> {
    connection: &'c Connection,
    condition: &'c Condition,
    found: Arc<Mutex<Relevance>>,
    known: HashMap<String, Relevance>,
    /// Whether the schema has changed since.
    is_over: bool,
}

impl<'c> Statements<'c> {
    /// Looks at statements on a connection that is used for nothing else.
    pub(super) fn on(connection: &'c mut Connection, condition: &'c Condition) -> rusqlite::Result<Self> {
        let found = Arc::new(Mutex::new(Relevance::None));
        let (noting, about) = (Arc::clone(&found), condition.clone());
        let authorizer = move |context: AuthContext<'_>| {
            let mut found = noting.lock().unwrap_or_else(PoisonError::into_inner);
            *found = (*found).max(of_action(&about, &context.action));
            // Some of them act while they are prepared.
            if matches!(context.action, AuthAction::Pragma { .. }) {
                Authorization::Ignore
            } else {
                Authorization::Allow
            }
        };
        connection.authorizer(Some(authorizer))?;
        Ok(Self { connection, condition, found, known: HashMap::new(), is_over: false })
    }

    /// What a statement can do, as it is stored.
    pub(super) fn of_stored(&mut self, statement: &StoredStatement<'_>) -> Relevance {
        match statement {
            StoredStatement::Plain(text) => self.of_text(text),
            StoredStatement::Templated(templated) => self.of_text(templated.template()),
        }
    }

    /// What a statement, or the statements of a template, can do.
    pub(super) fn of_text(&mut self, text: &str) -> Relevance {
        if self.is_over {
            return Relevance::Whole;
        }
        if let Some(&known) = self.known.get(text) {
            return known;
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Relevance::None;
        let prepared = self.connection.prepare(text).map(drop);
        let found = *self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let relevance = match found {
            // It is about what this schema does not have.
            _ if prepared.is_err() => Relevance::Whole,
            Relevance::Beside | Relevance::Rows if self.condition.is_opaque || is_silent(text) => Relevance::Whole,
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
        AuthAction::Insert { table_name } | AuthAction::Delete { table_name } if is_own(table_name) => Relevance::Rows,
        // Of a row that gets another key SQLite tells only the new one.
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

/// Whether SQLite may write rows without telling: those that give way to others, and all of a table at once (SQLite,
/// `sqlite3_update_hook`). A comment may hide what it is.
fn is_silent(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    let is_everything = text.contains("DELETE") && !text.contains("WHERE");
    is_everything || text.contains("REPLACE") || text.contains("--") || text.contains("/*")
}
