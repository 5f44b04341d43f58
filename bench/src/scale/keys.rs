//! Which columns of a node's tables hold keys, found in the schema: what must differ from one lap of a trace to the next.
//!
//! A column of whole numbers is a key when it is the primary key of its table, when it refers to one (a declared foreign
//! key), or when it alone has an index: a unique one must not see a value twice, and any other is one for numbers that
//! rise, such as `updated_index`. Of a unique index with neither such a column nor a blob or text in it, the first column
//! is one, too. All columns that share a key share a [`Domain`].

use std::collections::HashMap;

use anyhow::Context as _;
use rusqlite::Connection;

/// The table of a node's variables: there is one of each, in every lap the same.
pub const VARS: &str = "vars";

/// The kind of values of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing that must differ.
    Plain,
    /// A key.
    Key(DomainId),
    /// A text that must be unique.
    Name,
}

/// The index of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DomainId(usize);

/// Numbers that are counted on from lap to lap.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Domain {
    /// The greatest before the lap.
    before: i64,
    /// The greatest of the lap.
    greatest: i64,
}

/// A table and what its columns hold.
#[derive(Debug, Clone)]
pub struct TableKeys {
    columns: Vec<(String, Kind)>,
    rowid: Option<DomainId>,
}

/// All tables.
#[derive(Debug)]
pub struct Keys {
    tables: HashMap<String, TableKeys>,
    variables: HashMap<String, DomainId>,
    domains: Vec<Domain>,
}

impl TableKeys {
    /// The columns in their order.
    pub fn columns(&self) -> &[(String, Kind)] {
        &self.columns
    }

    /// The kind of values of the column of this name.
    pub fn named(&self, name: &str) -> Kind {
        let column = self.columns.iter().find(|(column, _)| column.eq_ignore_ascii_case(name));
        match column {
            Some(&(_, kind)) => kind,
            None if name.eq_ignore_ascii_case("rowid") => self.rowid.map_or(Kind::Plain, Kind::Key),
            None => Kind::Plain,
        }
    }
}

impl Keys {
    /// Reads the schema, and how far each key counts from the database `before` a lap to the one `after` it.
    pub fn read(before: &Connection, after: &Connection) -> anyhow::Result<Self> {
        let mut keys = Self { tables: HashMap::new(), variables: HashMap::new(), domains: Vec::new() };
        let mut statement =
            before.prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")?;
        let names = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        let schemas = names.iter().map(|name| Schema::read(before, name)).collect::<Result<Vec<_>, _>>()?;
        for schema in &schemas {
            keys.add_own(schema, before, after)?;
        }
        // A key that is referred to may itself refer to one.
        for _ in 0..schemas.len() {
            schemas.iter().for_each(|schema| keys.add_references(schema));
        }
        for schema in schemas.iter().filter(|schema| schema.name != VARS) {
            keys.add_of_unique_indexes(schema, before, after)?;
        }
        keys.add_variables(before, after)?;
        Ok(keys)
    }

    /// The table of this name.
    pub fn table(&self, name: &str) -> Option<&TableKeys> {
        self.tables.get(name)
    }

    /// The domain of a variable of the node.
    pub fn variable(&self, name: &str) -> Option<DomainId> {
        self.variables.get(name).copied()
    }

    /// All variables.
    pub fn variables(&self) -> impl Iterator<Item = (&str, DomainId)> {
        self.variables.iter().map(|(name, &domain)| (name.as_str(), domain))
    }

    /// Notes that `value` occurs in a statement of the lap.
    pub fn seen(&mut self, DomainId(domain): DomainId, value: i64) {
        let greatest = &mut self.domains[domain].greatest;
        *greatest = value.max(*greatest);
    }

    /// How far a lap counts.
    pub fn span(&self, DomainId(domain): DomainId) -> i64 {
        let Domain { before, greatest } = self.domains[domain];
        (greatest - before).max(0)
    }

    fn add_domain(
        &mut self,
        table: &str,
        column: &str,
        before: &Connection,
        after: &Connection,
    ) -> anyhow::Result<DomainId> {
        let greatest = |database: &Connection| {
            database.query_row(&format!("SELECT coalesce(max(\"{column}\"), 0) FROM \"{table}\""), [], |row| row.get(0))
        };
        let failed = || format!("the greatest {column} in table {table}");
        let domain =
            Domain { before: greatest(before).with_context(failed)?, greatest: greatest(after).with_context(failed)? };
        self.domains.push(domain);
        Ok(DomainId(self.domains.len() - 1))
    }

    /// Keys that a table has of its own.
    fn add_own(&mut self, schema: &Schema, before: &Connection, after: &Connection) -> anyhow::Result<()> {
        let rowid = self.add_domain(&schema.name, "rowid", before, after)?;
        let mut columns = Vec::new();
        for column in &schema.columns {
            let refers = schema.references.iter().any(|reference| reference.from == column.name);
            let alone = |index: &Index| index.columns == [column.name.as_str()];
            let kind = if column.is_integer() && schema.is_primary_key(&column.name) {
                Kind::Key(rowid)
            } else if column.is_integer() && !refers && schema.indexes.iter().any(alone) {
                Kind::Key(self.add_domain(&schema.name, &column.name, before, after)?)
            } else if column.is_text() && schema.name != VARS && schema.is_in_unique_index(&column.name) {
                Kind::Name
            } else {
                Kind::Plain
            };
            columns.push((column.name.clone(), kind));
        }
        self.tables.insert(schema.name.clone(), TableKeys { columns, rowid: Some(rowid) });
        Ok(())
    }

    fn add_references(&mut self, schema: &Schema) {
        for reference in &schema.references {
            let Some(parent) = self.tables.get(&reference.table) else { continue };
            let kind = match &reference.to {
                Some(column) => parent.named(column),
                None => parent.rowid.map_or(Kind::Plain, Kind::Key),
            };
            self.set(&schema.name, &reference.from, kind);
        }
    }

    fn add_of_unique_indexes(
        &mut self,
        schema: &Schema,
        before: &Connection,
        after: &Connection,
    ) -> anyhow::Result<()> {
        for index in schema.indexes.iter().filter(|index| index.is_unique) {
            let columns = || schema.columns.iter().filter(|column| index.columns.contains(&column.name));
            let all_plain = columns()
                .all(|column| column.is_integer() && self.tables[&schema.name].named(&column.name) == Kind::Plain);
            if let Some(first) = columns().next().filter(|_| all_plain) {
                let domain = self.add_domain(&schema.name, &first.name, before, after)?;
                self.set(&schema.name, &first.name, Kind::Key(domain));
            }
        }
        Ok(())
    }

    fn set(&mut self, table: &str, column: &str, kind: Kind) {
        let columns = self.tables.get_mut(table).map(|table| &mut table.columns);
        if let Some((_, found)) = columns.into_iter().flatten().find(|(name, _)| name == column) {
            *found = kind;
        }
    }

    fn add_variables(&mut self, before: &Connection, after: &Connection) -> anyhow::Result<()> {
        let values = |database: &Connection| -> rusqlite::Result<HashMap<String, i64>> {
            let mut select = database.prepare("SELECT name, coalesce(intval, 0) FROM vars")?;
            select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        let before = values(before).context("the variables before the lap")?;
        for (name, greatest) in values(after).context("the variables after the lap")? {
            let before = before.get(&name).copied().unwrap_or(0);
            self.variables.insert(name, DomainId(self.domains.len()));
            self.domains.push(Domain { before, greatest });
        }
        Ok(())
    }
}

/// The schema of a table, as SQLite reports it.
struct Schema {
    name: String,
    columns: Vec<ColumnSchema>,
    references: Vec<Reference>,
    indexes: Vec<Index>,
}

struct ColumnSchema {
    name: String,
    declared: String,
    in_primary_key: bool,
}

struct Reference {
    from: String,
    table: String,
    to: Option<String>,
}

struct Index {
    is_unique: bool,
    columns: Vec<String>,
}

impl Schema {
    fn read(database: &Connection, name: &str) -> rusqlite::Result<Self> {
        let mut select = database.prepare("SELECT name, type, pk > 0 FROM pragma_table_info(?1)")?;
        let columns = select.query_map([name], |row| {
            Ok(ColumnSchema { name: row.get(0)?, declared: row.get(1)?, in_primary_key: row.get(2)? })
        })?;
        let columns = columns.collect::<Result<_, _>>()?;
        let mut select = database.prepare("SELECT \"from\", \"table\", \"to\" FROM pragma_foreign_key_list(?1)")?;
        let references =
            select.query_map([name], |row| Ok(Reference { from: row.get(0)?, table: row.get(1)?, to: row.get(2)? }))?;
        let references = references.collect::<Result<_, _>>()?;
        let mut select = database.prepare("SELECT name, \"unique\" FROM pragma_index_list(?1)")?;
        let listed = select.query_map([name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)))?;
        let mut indexes = Vec::new();
        for index in listed {
            let (index, is_unique) = index?;
            let mut select = database.prepare("SELECT name FROM pragma_index_info(?1) ORDER BY seqno")?;
            // An expression has no name.
            let columns = select.query_map([index], |row| row.get::<_, Option<String>>(0))?;
            let columns = columns.map(|name| name.map(Option::unwrap_or_default)).collect::<Result<_, _>>()?;
            indexes.push(Index { is_unique, columns });
        }
        Ok(Self { name: name.to_owned(), columns, references, indexes })
    }

    fn is_primary_key(&self, name: &str) -> bool {
        let mut key = self.columns.iter().filter(|column| column.in_primary_key);
        key.next().is_some_and(|column| column.name == name) && key.next().is_none()
    }

    fn is_in_unique_index(&self, name: &str) -> bool {
        self.indexes.iter().any(|index| index.is_unique && index.columns.iter().any(|column| column == name))
    }
}

impl ColumnSchema {
    fn is_integer(&self) -> bool {
        self.declared.to_ascii_uppercase().contains("INT")
    }

    fn is_text(&self) -> bool {
        self.declared.eq_ignore_ascii_case("TEXT")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_the_schema() {
        let schema = "CREATE TABLE vars (name TEXT, intval INTEGER, PRIMARY KEY (name));
            CREATE TABLE parent (id INTEGER, label TEXT, amount INTEGER, paid INTEGER, PRIMARY KEY (id), UNIQUE (label));
            CREATE UNIQUE INDEX parent_paid ON parent (paid);
            CREATE TABLE child (parent INTEGER REFERENCES parent(id), number INTEGER, hash BLOB, changed INTEGER,
                UNIQUE (parent, number), UNIQUE (hash, number));
            CREATE INDEX child_changed ON child (changed);
            CREATE TABLE pair (a INTEGER, b INTEGER, PRIMARY KEY (a, b));";
        let [before, after] = [(), ()].map(|()| Connection::open_in_memory().unwrap());
        before.execute_batch(schema).unwrap();
        after.execute_batch(schema).unwrap();
        before.execute_batch("INSERT INTO parent (id) VALUES (3); INSERT INTO vars VALUES ('v', 7)").unwrap();
        after.execute_batch("INSERT INTO parent (id) VALUES (9); INSERT INTO vars VALUES ('v', 9), ('w', 4)").unwrap();
        let mut keys = Keys::read(&before, &after).unwrap();
        let kind = |keys: &Keys, table: &str, column: &str| keys.table(table).unwrap().named(column);
        let Kind::Key(parent) = kind(&keys, "parent", "id") else { panic!("{keys:?}") };
        assert_eq!(kind(&keys, "child", "parent"), Kind::Key(parent));
        assert_eq!(kind(&keys, "parent", "rowid"), Kind::Key(parent));
        assert_eq!(kind(&keys, "parent", "label"), Kind::Name);
        for (table, column) in [("parent", "paid"), ("child", "changed"), ("pair", "a")] {
            assert!(matches!(kind(&keys, table, column), Kind::Key(own) if own != parent), "{table}.{column}");
        }
        for (table, column) in
            [("parent", "amount"), ("child", "number"), ("child", "hash"), ("pair", "b"), ("vars", "name")]
        {
            assert_eq!(kind(&keys, table, column), Kind::Plain, "{table}.{column}");
        }
        assert_eq!(keys.span(parent), 6);
        keys.seen(parent, 11);
        keys.seen(parent, 10);
        assert_eq!(keys.span(parent), 8);
        assert_eq!(["v", "w"].map(|name| keys.span(keys.variable(name).unwrap())), [2, 4]);
    }
}
