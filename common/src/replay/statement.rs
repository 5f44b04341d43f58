//! One recorded statement executed on a connection: from a prepared template with its literals bound, or as it is.
//!
//! Both ways do the same to the database; the tests compare them on every recorded trace, which is why this is public.

use rusqlite::config::DbConfig;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Batch, Connection, Statement};

use super::parameters::{self, Parameterised, Value};

/// A busy node executes about a hundred kinds of statements.
const CACHED_STATEMENTS_MAX: usize = 256;

/// How a statement was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executed {
    /// From a template that stays prepared, with its literals bound.
    Parameterised,
    /// As it is.
    AsText,
}

/// Makes a connection ready for [`execute`].
///
/// # Errors
/// What SQLite says.
pub fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS_MAX);
    // Or SQLite would look at what is bound, and prepare anew whenever another value might make another plan.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Executes the first statement of a text and drops the rows it may return, in the fastest way that is sure to do what
/// [`execute_text`] does.
///
/// # Errors
/// What SQLite says.
pub fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<Executed> {
    if let Some(split) = parameters::split(sql) {
        // A template that cannot be prepared has done nothing yet: let the text itself say what is wrong with it.
        if let Ok(mut statement) = connection.prepare_cached(&split.template) {
            bind(&mut statement, &split)?;
            step_to_end(&mut statement)?;
            return Ok(Executed::Parameterised);
        }
    }
    execute_text(connection, sql)?;
    Ok(Executed::AsText)
}

/// Executes the first statement of a text, as `lightningd` does, and drops the rows it may return.
///
/// # Errors
/// What SQLite says.
pub fn execute_text(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    match Batch::new(connection, sql).next()? {
        Some(mut statement) => step_to_end(&mut statement),
        None => Ok(()),
    }
}

fn bind(statement: &mut Statement<'_>, split: &Parameterised<'_>) -> rusqlite::Result<()> {
    split.values.iter().enumerate().try_for_each(|(index, value)| statement.raw_bind_parameter(index + 1, value))
}

fn step_to_end(statement: &mut Statement<'_>) -> rusqlite::Result<()> {
    let mut rows = statement.raw_query();
    while rows.next()?.is_some() {}
    Ok(())
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}
