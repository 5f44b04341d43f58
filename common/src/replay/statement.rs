//! Execution of one recorded statement: from a prepared template with its literals bound, or as text.
//!
//! Both ways have the same effect; the tests compare them on every recorded trace, so this module is public.

use std::cell::Cell;
use std::iter;

use rusqlite::config::DbConfig;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Batch, CachedStatement, Connection, Statement, StatementStatus};

use format::sql::lexed::LexedStatement;
use format::sql::parameters;
use format::sql::parameters::Value;
use format::statements::{StoredStatement, Templates};

/// Size of the statement cache; a busy node executes about a hundred kinds of statements.
const CACHED_STATEMENTS_MAX: usize = 256;

/// The method by which a statement was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executed {
    /// A prepared template was executed, with its literals bound.
    Parameterised,
    /// The text was executed.
    AsText,
}

/// Prepares a connection for [`execute`].
///
/// # Errors
/// Errors of SQLite.
pub fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS_MAX);
    // Otherwise SQLite would prepare a statement again when another bound value might lead to another plan.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Executes the first statement of a text and drops returned rows, in the fastest way with the same effect as [`execute_text`].
///
/// # Errors
/// Errors of SQLite.
pub fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<Executed> {
    if let Some(split) = parameters::split(sql) {
        // A template that cannot be prepared has had no effect yet: executing the text gives the error message.
        if let Ok(mut statement) = connection.prepare_cached(&split.template) {
            bind(&mut statement, split.literals.iter().map(|literal| literal.meaning.value()))?;
            step_to_end(&mut statement)?;
            return Ok(Executed::Parameterised);
        }
    }
    execute_text(connection, sql)?;
    Ok(Executed::AsText)
}

/// Like [`execute`], for a statement whose literals were already extracted.
pub(super) fn execute_lexed(connection: &Connection, statement: &LexedStatement<'_>) -> rusqlite::Result<Executed> {
    if let Some(shape) = statement.shape
        && let Ok(mut prepared) = connection.prepare_cached(&shape.template)
    {
        bind(&mut prepared, statement.literals().map(|literal| literal.meaning.value()))?;
        step_to_end(&mut prepared)?;
        return Ok(Executed::Parameterised);
    }
    execute_text(connection, statement.text)?;
    Ok(Executed::AsText)
}

/// Executes the first statement of a text, as `lightningd` does, and drops returned rows.
///
/// # Errors
/// Errors of SQLite.
pub fn execute_text(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    match Batch::new(connection, sql).next()? {
        Some(mut statement) => step_to_end(&mut statement),
        None => Ok(()),
    }
}

/// The templates of a table, prepared on a connection on first use.
pub struct PreparedTemplates<'c> {
    connection: &'c Connection,
    slots: Vec<Slot<'c>>,
}

enum Slot<'c> {
    NotYet,
    /// Returns to the connection's cache in the end, for the next table with this template.
    Prepared(CachedStatement<'c>),
    /// The template cannot be prepared, or its parameters are not as many as the literals: the text gives the error message.
    AsText,
}

impl<'c> PreparedTemplates<'c> {
    /// Creates it for statements of blocks with this table only.
    pub fn new(connection: &'c Connection, templates: &Templates) -> Self {
        Self { connection, slots: iter::repeat_with(|| Slot::NotYet).take(templates.len()).collect() }
    }

    /// Like [`execute`], for a stored statement.
    ///
    /// # Errors
    /// Errors of SQLite.
    pub fn execute(&mut self, statement: &StoredStatement<'_>) -> rusqlite::Result<Executed> {
        let templated = match statement {
            StoredStatement::Templated(templated) => templated,
            StoredStatement::Plain(text) => {
                return execute_text(self.connection, text).map(|()| Executed::AsText);
            }
        };
        let Some(slot) = self.slots.get_mut(templated.id().index()) else {
            return execute(self.connection, &templated.text());
        };
        if matches!(slot, Slot::NotYet) {
            let prepared = self.connection.prepare_cached(templated.template());
            *slot = match prepared {
                Ok(prepared) if prepared.parameter_count() == templated.literal_count() => Slot::Prepared(prepared),
                _ => Slot::AsText,
            };
        }
        if let Slot::Prepared(prepared) = slot {
            bind(prepared, templated.values())?;
            step_to_end(prepared)?;
            return Ok(Executed::Parameterised);
        }
        // The schema may change, so the next attempt may succeed.
        *slot = Slot::NotYet;
        execute_text(self.connection, &templated.text()).map(|()| Executed::AsText)
    }
}

fn bind<'v>(statement: &mut Statement<'_>, values: impl Iterator<Item = Value<'v>>) -> rusqlite::Result<()> {
    values.enumerate().try_for_each(|(index, value)| statement.raw_bind_parameter(index + 1, Bound(value)))
}

thread_local! {
    /// Steps of SQLite's virtual machine that statements have taken in this thread.
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// Steps of SQLite's virtual machine in this thread since the last call: a cost of replay that is the same on every machine.
pub(crate) fn take_steps() -> u64 {
    STEPS.take()
}

fn step_to_end(statement: &mut Statement<'_>) -> rusqlite::Result<()> {
    let mut rows = statement.raw_query();
    while rows.next()?.is_some() {}
    drop(rows);
    let steps = statement.reset_status(StatementStatus::VmStep);
    STEPS.set(STEPS.get() + u64::from(steps.unsigned_abs()));
    Ok(())
}

/// A literal as a parameter for SQLite.
struct Bound<'v>(Value<'v>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match &self.0 {
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}
