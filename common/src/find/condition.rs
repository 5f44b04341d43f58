//! [`Condition`]: a condition on rows, checked before it is evaluated.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::FindError;
use super::condition_text::{as_one_expression, quoted};
use crate::compare::table::{Layout, tables};
use crate::replay::reason;
use crate::replay::sqlite_reason::whole_message;

/// Functions whose results vary, that concern the connection, or that load code.
const FORBIDDEN_FUNCTIONS: [&str; 9] = [
    "random",
    "randomblob",
    "changes",
    "total_changes",
    "last_insert_rowid",
    "load_extension",
    "fts3_tokenizer",
    "sqlite_log",
    "sqlite_offset",
];

/// A condition on the rows of a table: one SQL expression about the columns of a row.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    /// Name of the table as in its schema.
    pub(super) table: String,
    sql: String,
    /// Key and columns of the table.
    pub(super) layout: Layout,
    /// Columns that the condition depends on, in lower case.
    pub(super) columns: Columns,
    /// Columns of the key, in lower case.
    pub(super) key: BTreeSet<String>,
    /// Whether a row can disappear unreported by SQLite: by a trigger, or by a conflict.
    pub(super) is_opaque: bool,
}

/// Columns that a condition depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Columns {
    /// These.
    Some(BTreeSet<String>),
    /// All: generated columns may depend on any.
    All,
}

impl Columns {
    /// Whether this column is included.
    pub(super) fn have(&self, column: &str) -> bool {
        match self {
            Self::Some(columns) => columns.contains(&column.to_ascii_lowercase()),
            Self::All => true,
        }
    }
}

/// The reports of SQLite while it prepared the condition.
#[derive(Debug, Default)]
struct Asked {
    columns: BTreeSet<String>,
    selects: u32,
    refused: Option<String>,
}

impl Condition {
    /// Checks a condition on a database with the table.
    ///
    /// # Errors
    /// When the table does not exist, or the condition is not a single expression about its columns.
    pub(super) fn check(connection: &mut Connection, table: &str, sql: &str) -> Result<Self, FindError> {
        let fail = |error: rusqlite::Error| FindError::Unreadable { reason: reason(&error) };
        let bad = |reason: String| FindError::Condition { condition: sql.to_owned(), reason };
        let expression = as_one_expression(sql).map_err(|why| bad(why.to_owned()))?;
        let known = tables(connection).map_err(fail)?;
        let known = known.into_iter().find(|known| known.name.eq_ignore_ascii_case(table));
        let known = known.ok_or_else(|| FindError::NoSuchTable { table: table.to_owned() })?;
        let layout = Layout::of(connection, &known).map_err(fail)?;
        let name = known.name;
        let Hidden { key, has_generated, is_opaque } = Hidden::of(connection, &name).map_err(fail)?;
        let asked = Arc::new(Mutex::new(Asked::default()));
        let (answering, of_table) = (Arc::clone(&asked), name.clone());
        let authorizer = move |context: AuthContext<'_>| answer(&answering, &of_table, &context);
        connection.authorizer(Some(authorizer)).map_err(fail)?;
        let of = quoted(&name);
        // A single expression fits in both places. The line break ends a comment that would hide the parenthesis.
        let prepared = [
            format!("SELECT ({expression}\n) FROM main.{of}"),
            format!("SELECT 1 FROM main.{of} WHERE ({expression}\n)"),
        ]
        .map(|text| {
            asked.lock().unwrap_or_else(PoisonError::into_inner).selects = 0;
            let prepared =
                connection.prepare(&text).map(|statement| (statement.parameter_count(), statement.readonly()));
            (prepared, asked.lock().unwrap_or_else(PoisonError::into_inner).selects)
        });
        connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).map_err(fail)?;
        let asked = std::mem::take(&mut *asked.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(refused) = asked.refused {
            return Err(bad(refused));
        }
        for (prepared, selects) in prepared {
            match prepared {
                Err(error) => return Err(bad(whole_message(&error))),
                Ok((0, true)) if selects == 1 => {}
                Ok((0, _)) => return Err(bad("it must be a single expression".to_owned())),
                Ok(_) => return Err(bad("it has parameters".to_owned())),
            }
        }
        let mut columns = asked.columns;
        columns.extend(key.iter().cloned());
        // A row without a key is another row after any change.
        let columns = if has_generated || layout.key.is_empty() { Columns::All } else { Columns::Some(columns) };
        Ok(Self { table: name, sql: expression, layout, columns, key, is_opaque })
    }

    /// Adds the dependencies in another schema.
    pub(super) fn add(&mut self, other: Hidden) {
        match &mut self.columns {
            Columns::Some(columns) if !other.has_generated => columns.extend(other.key.iter().cloned()),
            columns => *columns = Columns::All,
        }
        self.key.extend(other.key);
        self.is_opaque |= other.is_opaque;
    }

    /// A query for the keys of all matching rows.
    pub(super) fn matching(&self) -> String {
        let table = quoted(&self.table);
        format!("SELECT {} FROM main.{table} WHERE ({}\n)", self.key_list(), self.sql)
    }

    /// A query that returns a row if the row with the bound rowid matches.
    pub(super) fn matches(&self) -> Option<String> {
        let rowid = self.layout.rowid?;
        let table = quoted(&self.table);
        Some(format!("SELECT 1 FROM main.{table} WHERE {rowid} = ?1 AND ({}\n)", self.sql))
    }

    /// Names of the columns of a key.
    pub(super) fn key_columns(&self) -> &[String] {
        if self.layout.key.is_empty() { &self.layout.columns } else { &self.layout.key }
    }

    fn key_list(&self) -> String {
        match self.layout.rowid {
            Some(rowid) => rowid.to_owned(),
            None => self.key_columns().iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "),
        }
    }
}

/// Properties of a schema by which rows change without a write to a column of the condition.
#[derive(Debug)]
pub(super) struct Hidden {
    /// Columns of the key, in lower case.
    key: BTreeSet<String>,
    /// Whether the table has generated columns.
    has_generated: bool,
    /// Whether a row can disappear unreported by SQLite: by a trigger, or by a conflict.
    pub(super) is_opaque: bool,
}

impl Hidden {
    pub(super) fn of(connection: &Connection, table: &str) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare("SELECT lower(name), pk, hidden FROM pragma_table_xinfo(?1)")?;
        let rows = statement
            .query_map([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))?;
        let (mut key, mut has_generated) = (BTreeSet::from(["rowid".to_owned()]), false);
        for row in rows {
            let (name, key_position, hidden) = row?;
            has_generated |= hidden > 0;
            if key_position > 0 {
                key.insert(name);
            }
        }
        let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' OR upper(sql) LIKE '%REPLACE%'";
        let is_opaque = connection.query_row(sql, [], |row| row.get::<_, i64>(0))? > 0;
        Ok(Self { key, has_generated, is_opaque })
    }
}

fn answer(asked: &Mutex<Asked>, table: &str, context: &AuthContext<'_>) -> Authorization {
    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    let refused = match context.action {
        AuthAction::Select => {
            asked.selects += 1;
            if asked.selects == 1 {
                return Authorization::Allow;
            }
            "it must be a single expression about one row, without a query in it".to_owned()
        }
        AuthAction::Read { table_name, column_name } if table_name.eq_ignore_ascii_case(table) => {
            asked.columns.insert(column_name.to_ascii_lowercase());
            return Authorization::Allow;
        }
        AuthAction::Read { table_name, .. } => {
            format!("it reads {table_name}; a condition is about one row of {table}")
        }
        AuthAction::Function { function_name }
            if FORBIDDEN_FUNCTIONS.iter().any(|name| function_name.eq_ignore_ascii_case(name)) =>
        {
            format!("{function_name}() does not depend on the row alone")
        }
        AuthAction::Function { .. } => return Authorization::Allow,
        _ => "it does something else than to look at a row".to_owned(),
    };
    asked.refused.get_or_insert(refused);
    Authorization::Deny
}
