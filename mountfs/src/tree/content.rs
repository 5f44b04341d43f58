//! The contents of `changes.sql` and `info.json`.

use common::{Origin, Version, View};
use format::snapshot_ref::SnapshotReason;
use serde::Serialize;

/// Bytes that a script adds to each statement: `;` and a newline, or two newlines.
const ADDED_BYTES: u64 = 2;

/// The statements of a version as a script: each as it was received, ended by `;` and a newline. One that ends with `;` itself is
/// followed by an empty line instead: so the length of the script is known without reading it.
pub fn changes_sql(statements: &[String]) -> Vec<u8> {
    let mut text = Vec::with_capacity(statements.iter().map(|statement| statement.len() + 2).sum());
    for statement in statements {
        text.extend_from_slice(statement.as_bytes());
        text.extend_from_slice(if statement.ends_with(';') { b"\n\n" } else { b";\n" });
    }
    text
}

/// The length of the script of a version.
pub fn changes_sql_len(version: &Version) -> u64 {
    version.statement_bytes.saturating_add(version.statements.saturating_mul(ADDED_BYTES))
}

/// The size of a version, in pages and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The number of pages of the database.
    pub pages: u32,
    /// The page size in bytes.
    pub page_size: u32,
    /// The size of the database in bytes.
    pub size_bytes: u64,
}

impl Shape {
    /// The size of an open version.
    pub fn of(view: &View) -> Self {
        Self { pages: view.page_count(), page_size: view.page_size().get(), size_bytes: view.size_bytes() }
    }

    /// The size of a version, if the backup has it recorded.
    pub fn recorded(version: &Version) -> Option<Self> {
        let (pages, page_size) = (version.page_count?, version.page_size?.get());
        Some(Self { pages, page_size, size_bytes: u64::from(pages) * u64::from(page_size) })
    }
}

/// The fields of `info.json`, in order. Fields are only ever added.
#[derive(Serialize)]
struct Info<'a> {
    data_version: u32,
    seq: u64,
    recorded_at: String,
    origin: &'static str,
    /// The file of the backup that the version is recorded in.
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<&'a str>,
    /// This and the next two are `null` when the version cannot be read; `problem` is the reason.
    pages: Option<u32>,
    page_size: Option<u32>,
    size_bytes: Option<u64>,
    statements: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
}

/// `info.json` of a version. `shape` is the reason instead when the version cannot be read.
pub fn info_json(version: &Version, segment: Option<&str>, shape: Result<Shape, &str>) -> Vec<u8> {
    let known = shape.ok();
    let info = Info {
        data_version: version.data_version.get(),
        seq: version.seq.get(),
        recorded_at: version.recorded_at.to_string(),
        origin: origin_name(&version.origin),
        segment,
        pages: known.map(|shape| shape.pages),
        page_size: known.map(|shape| shape.page_size),
        size_bytes: known.map(|shape| shape.size_bytes),
        statements: version.statements,
        bytes: version.statement_bytes,
        problem: shape.err(),
    };
    let mut text = serde_json::to_vec_pretty(&info).expect("BUG: numbers and strings are JSON");
    text.push(b'\n');
    text
}

/// The word for the origin of a version, here and in `backupfs versions`.
pub fn origin_name(origin: &Origin) -> &'static str {
    match origin {
        Origin::Change => "change",
        Origin::Snapshot(_) => "snapshot",
    }
}

/// The word for why a snapshot was taken; `None` for a change.
pub fn reason_name(origin: &Origin) -> Option<&'static str> {
    match origin {
        Origin::Change => None,
        Origin::Snapshot(SnapshotReason::Init) => Some("init"),
        Origin::Snapshot(SnapshotReason::Gap) => Some("gap"),
        Origin::Snapshot(SnapshotReason::Changed) => Some("changed"),
        Origin::Snapshot(SnapshotReason::Unreplayable) => Some("unreplayable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_ends_with_one_semicolon_and_adds_two_bytes() {
        let statements = ["PRAGMA foreign_keys = OFF;".to_owned(), "INSERT INTO t VALUES ('a\n;b')".to_owned()];
        assert_eq!(changes_sql(&statements), b"PRAGMA foreign_keys = OFF;\n\nINSERT INTO t VALUES ('a\n;b');\n");
        assert_eq!(changes_sql(&[]), b"");
    }
}
