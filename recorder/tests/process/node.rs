//! A lightning-dir with a backup of a node that does not exist yet, and the writes of such a node.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

pub struct Node {
    directory: TempDir,
}

impl Node {
    /// A lightning-dir that knows of no backup.
    pub fn without_backup() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// A lightning-dir whose empty backup waits for the first write.
    pub fn with_backup() -> Self {
        let node = Self::without_backup();
        node.create_backup();
        node
    }

    pub fn create_backup(&self) {
        let url = format!("file://{}", self.backup().display());
        common::create_backup(&url.parse().unwrap(), None, &mut |_| ControlFlow::Continue(())).unwrap();
        fs::write(self.path().join("backup.lock"), json!({ "backend_url": url }).to_string()).unwrap();
    }

    /// Says where the database is that `lightningd` uses.
    pub fn name_database(&self, database: &Path) {
        self.change_lock("database", &json!(database));
    }

    /// Says what is done while the backup cannot be written to.
    pub fn on_unreachable(&self, policy: &str) {
        self.change_lock("on_unreachable", &json!(policy));
    }

    fn change_lock(&self, key: &str, value: &Value) {
        let path = self.path().join("backup.lock");
        let mut lock: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        lock[key] = value.clone();
        fs::write(&path, lock.to_string()).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn backup(&self) -> PathBuf {
        self.path().join("node.bkp")
    }
}

/// What takes the database from `data_version - 1` to `data_version`.
pub fn write(data_version: u32) -> Value {
    let mut writes = if data_version == 1 {
        vec![
            "CREATE TABLE vars (name VARCHAR(32) PRIMARY KEY, val VARCHAR(255), intval INTEGER, blobval BLOB)"
                .to_owned(),
            "INSERT INTO vars (name, intval) VALUES ('data_version', 0)".to_owned(),
            "CREATE TABLE payments (id INTEGER PRIMARY KEY, label TEXT)".to_owned(),
        ]
    } else {
        vec![format!("INSERT INTO payments (id, label) VALUES ({data_version}, 'tea \"☕\"\n\tfor two')")]
    };
    writes.push(bump(data_version));
    json!({ "data_version": data_version, "writes": writes })
}

/// The statement that ends every write of a node.
pub fn bump(data_version: u32) -> String {
    format!("UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {}", data_version - 1)
}
