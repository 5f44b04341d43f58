//! Files as the Python plugin `backup` writes them, mistakes included: written here from the description of the format
//! alone, so that they are a check of what reads them.
#![expect(clippy::big_endian_bytes, reason = "the Python plugin writes big-endian numbers")]

/// A file being written by the plugin.
#[derive(Debug, Clone)]
pub struct PythonFile {
    /// What is behind the header.
    records: Vec<u8>,
    version: u32,
    end: u64,
    previous_version: u32,
    newest: u64,
    version_count: u64,
}

/// One record, as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The version after it.
    pub version: u32,
    /// 1 change, 2 snapshot.
    pub kind: u8,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Default for PythonFile {
    /// An empty one.
    fn default() -> Self {
        Self { records: Vec::new(), version: 0, end: 512, previous_version: 0, newest: 0, version_count: 0 }
    }
}

impl PythonFile {
    /// The plugin records a change.
    pub fn change<S: AsRef<str>>(&mut self, version: u32, statements: &[S]) {
        let statements: Vec<&str> = statements.iter().map(AsRef::as_ref).collect();
        self.record(version, 1, statements.join("\0").as_bytes());
    }

    /// The plugin records a snapshot.
    pub fn snapshot(&mut self, version: u32, database: &[u8]) {
        self.record(version, 2, database);
    }

    /// A record of any kind.
    pub fn record(&mut self, version: u32, kind: u8, payload: &[u8]) {
        let len = u32::try_from(payload.len()).expect("less than 4 GiB");
        // It seeks to where the record should go, in a file that is open for appending.
        self.records.extend_from_slice(&len.to_be_bytes());
        self.records.extend_from_slice(&version.to_be_bytes());
        self.records.push(kind);
        self.records.extend_from_slice(payload);
        (self.previous_version, self.newest) = (self.version, self.end);
        self.version = version;
        self.end += 9 + payload.len() as u64;
        self.version_count += 1;
    }

    /// The plugin finds at its start that the newest change was not committed, and takes it back in its own way.
    pub fn rewind(&mut self) {
        (self.version, self.end) = (self.previous_version, self.newest);
        (self.previous_version, self.newest) = (0, 0);
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&1_u32.to_be_bytes());
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&self.end.to_be_bytes());
        out.extend_from_slice(&self.previous_version.to_be_bytes());
        out.extend_from_slice(&self.newest.to_be_bytes());
        out.extend_from_slice(&self.version_count.to_be_bytes());
        out.resize(512, 0);
        out.extend_from_slice(&self.records);
        out
    }
}

/// The records of a file, of which the header must say what they are.
///
/// # Panics
/// When it is not what the plugin writes.
pub fn records(file: &[u8]) -> Vec<Record> {
    let (header, mut rest) = file.split_at(512);
    let u32_at = |bytes: &[u8], at: usize| u32::from_be_bytes(*bytes[at..].first_chunk().expect("4 bytes"));
    let u64_at = |at: usize| u64::from_be_bytes(*header[at..].first_chunk().expect("8 bytes"));
    let mut records = Vec::new();
    let mut newest = 0;
    while !rest.is_empty() {
        newest = (file.len() - rest.len()) as u64;
        let (len, version, kind) = (u32_at(rest, 0) as usize, u32_at(rest, 4), rest[8]);
        assert!(kind == 1 || kind == 2, "type {kind}");
        records.push(Record { version, kind, payload: rest[9..9 + len].to_vec() });
        rest = &rest[9 + len..];
    }
    assert_eq!(u32_at(header, 0), 1, "file version");
    let version_at = |back: usize| records.len().checked_sub(back).map_or(0, |at| records[at].version);
    assert_eq!((u32_at(header, 4), u64_at(8)), (version_at(1), file.len() as u64), "the newest version, and the end");
    assert_eq!((u32_at(header, 16), u64_at(20)), (version_at(2), newest), "the version before, and the newest record");
    assert_eq!(u64_at(28), records.len() as u64, "how many records there are");
    assert!(header[36..].iter().all(|&byte| byte == 0));
    records
}

/// Executes the records of a file on a new database, as the plugin's own restore does; returns it.
///
/// # Panics
/// When a statement fails.
pub fn restored(file: &[u8], to: &std::path::Path) -> rusqlite::Connection {
    let newest = u32::from_be_bytes(*file[4..].first_chunk().expect("a header"));
    let open = || {
        let database = rusqlite::Connection::open(to).expect("a database");
        database.execute_batch("PRAGMA foreign_keys = 1; PRAGMA synchronous = OFF").expect("the settings");
        database
    };
    let mut database = open();
    for record in records(file) {
        if record.kind == 2 {
            drop(database);
            std::fs::write(to, &record.payload).expect("the snapshot");
            database = open();
        } else {
            for statement in record.payload.split(|&byte| byte == 0) {
                let statement = str::from_utf8(statement).expect("text");
                database.execute_batch(statement).expect("a statement that can be executed");
            }
        }
        if record.version == newest {
            break;
        }
    }
    database
}
