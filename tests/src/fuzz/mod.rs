//! Any bytes at all, read as each structure that this project reads: for the bounded run of the test `fuzz`, and for
//! cargo-fuzz (`tests/fuzz`).
//!
//! A target takes bytes and asserts what must hold whatever they are: it returns, soon, without a panic; what was
//! understood is the same when it is written and read again. Checksums stop random bytes early, so most structures have a
//! second target, `…_sealed`, that puts the right checksum on its input before it reads it.

pub mod allocated;
pub mod corpus;
pub mod crc;
pub mod mutator;

mod files;
mod fixed;
mod hook;
mod lock;
mod pieces;
mod python;
mod records;
mod remains;
mod statements;
mod static_backup;

use self::corpus::Corpus;

/// Something that reads bytes which anybody may have written.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Reads them, and asserts what must hold. Returns whether they were understood: if hardly any are, the inputs are not
    /// worth much.
    pub run: fn(&[u8]) -> bool,
    /// Inputs to begin with.
    pub corpus: fn(&Corpus) -> Vec<Vec<u8>>,
    /// What one input costs, compared with those of most targets.
    pub weight: u64,
    /// Most bytes that it may have allocated at one time, for an input of so many.
    pub bytes_max: fn(u64) -> u64,
}

/// For what is read without being decompressed: a few times the input.
const fn proportional(len: u64) -> u64 {
    (64 << 10) + 64 * len
}

/// For a zstd frame: what so many bytes can stand for (docs/format.md names the limits, each at most 1280 MiB), and as much
/// again for what is made of it.
const fn expanding(len: u64) -> u64 {
    let content = if len > 40 << 10 { 1280 << 20 } else { len * (32 << 10) };
    (1 << 20) + 3 * content
}

/// For tables and blocks, not compressed: 16 bytes for each of at most 1,048,576 literals, of which a row has one for each
/// place of its template; both take a byte at least.
const fn literals(len: u64) -> u64 {
    let literals = if len < 1024 { len * len } else { 1 << 20 };
    (64 << 10) + 256 * len + 32 * literals
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "record", run: records::record, corpus: Corpus::records, weight: 1, bytes_max: proportional },
    Target {
        name: "record_sealed",
        run: records::record_sealed,
        corpus: Corpus::record_bodies,
        weight: 1,
        bytes_max: proportional,
    },
    Target { name: "header", run: fixed::header, corpus: Corpus::headers, weight: 1, bytes_max: proportional },
    Target {
        name: "header_sealed",
        run: fixed::header_sealed,
        corpus: Corpus::headers,
        weight: 1,
        bytes_max: proportional,
    },
    Target { name: "page_map", run: pieces::page_map, corpus: Corpus::nodes, weight: 1, bytes_max: proportional },
    Target {
        name: "page_images",
        run: pieces::page_images,
        corpus: Corpus::images,
        weight: 4,
        bytes_max: |len| proportional(len) + (256 << 10),
    },
    Target {
        name: "record_index",
        run: pieces::record_index,
        corpus: Corpus::indexes,
        weight: 2,
        bytes_max: |len| proportional(len) + 256 * len,
    },
    Target {
        name: "snapshot_index",
        run: pieces::snapshot_index,
        corpus: Corpus::snapshot_indexes,
        weight: 1,
        bytes_max: proportional,
    },
    Target { name: "remains", run: remains::remains, corpus: Corpus::remains, weight: 1, bytes_max: proportional },
    Target { name: "compressed", run: pieces::compressed, corpus: Corpus::frames, weight: 8, bytes_max: expanding },
    Target { name: "templates", run: statements::templates, corpus: Corpus::tables, weight: 4, bytes_max: literals },
    Target { name: "block", run: statements::block, corpus: Corpus::blocks, weight: 8, bytes_max: literals },
    Target {
        name: "normaliser",
        run: statements::normaliser,
        corpus: Corpus::statements,
        weight: 2,
        bytes_max: proportional,
    },
    Target {
        name: "hook",
        run: hook::hook,
        corpus: Corpus::messages,
        weight: 4,
        bytes_max: |len| (1 << 20) + 128 * len,
    },
    Target {
        name: "backup_lock",
        run: lock::backup_lock,
        corpus: |_| lock::corpus(),
        weight: 1,
        bytes_max: |len| (64 << 10) + 128 * len,
    },
    Target {
        name: "spool_place",
        run: lock::spool_place,
        corpus: |_| lock::spool_places(),
        weight: 1,
        bytes_max: |len| (64 << 10) + 128 * len,
    },
    Target {
        name: "python_records",
        run: python::python_records,
        corpus: Corpus::python_files,
        weight: 8,
        bytes_max: |len| (1 << 20) + 64 * len,
    },
    Target {
        name: "python_import",
        run: python::python_import,
        corpus: Corpus::python_files,
        weight: 600,
        bytes_max: |_| 1 << 30,
    },
    Target {
        name: "static_backup",
        run: static_backup::static_backup,
        corpus: |_| static_backup::static_backups(),
        weight: 1,
        bytes_max: proportional,
    },
    Target {
        name: "hsm_secret",
        run: static_backup::hsm_secret,
        corpus: |_| static_backup::hsm_secrets(),
        weight: 2,
        bytes_max: proportional,
    },
    Target { name: "file", run: files::file, corpus: Corpus::files, weight: 600, bytes_max: |_| 1 << 30 },
    Target { name: "file_sealed", run: files::file_sealed, corpus: Corpus::files, weight: 600, bytes_max: |_| 1 << 30 },
];

/// Runs the target of this name, as cargo-fuzz does.
///
/// # Panics
/// When something that must hold does not, or there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of the table");
    let _understood = (target.run)(input);
}

/// Writes the corpus of each target to a directory of its name below `to`.
///
/// # Errors
/// When a file cannot be written.
pub fn write_corpus(to: &std::path::Path) -> std::io::Result<()> {
    for target in TARGETS {
        let directory = to.join(target.name);
        std::fs::create_dir_all(&directory)?;
        for (number, input) in (target.corpus)(&corpus::CORPUS).iter().enumerate() {
            std::fs::write(directory.join(format!("golden-{number}")), input)?;
        }
    }
    Ok(())
}
