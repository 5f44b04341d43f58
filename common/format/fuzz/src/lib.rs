//! Arbitrary bytes, decoded as each structure of the format that is not compressed: for the bounded run of the test `fuzz`,
//! and for cargo-fuzz (`tests/fuzz`).
//!
//! No C is compiled for this package: it has `format` without its feature `compression`. So a sanitizer sees every
//! instruction, and any target of rustc will do. The targets that need zstd, SQLite or files are in the package `tests`, which
//! takes the [`mutator`] and the [`bounded`] run from here.
//!
//! A target takes bytes and asserts what must hold for any: it returns, soon, without a panic; what was decoded is the same
//! when it is encoded and decoded again. Checksums stop random bytes early, so most structures have a second target,
//! `…_sealed`, that puts the right checksum on its input before it decodes it.

pub mod allocated;
pub mod bounded;
pub mod corpus;
pub mod crc;
pub mod mutator;
pub mod roundtrip;
pub mod seeded;
pub mod statements;

mod fixed;
mod nodes_and_indexes;
mod parity;
mod pruned;
mod records;

use std::path::Path;

/// A function that makes valid inputs.
pub type Corpus = fn() -> Vec<Vec<u8>>;

/// A decoder of bytes from outside, and its inputs.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name, also that of the program for cargo-fuzz.
    pub name: &'static str,
    /// Decodes an input and asserts what must hold. Returns whether it was valid: a run with hardly any valid inputs tests
    /// little.
    pub run: fn(&[u8]) -> bool,
    /// Valid inputs, from which the mutator makes others.
    pub corpus: Corpus,
    /// Cost of one input in units of the cheapest targets.
    pub weight: u64,
    /// Maximum number of bytes allocated at one time, for an input of this length.
    pub bytes_max: fn(u64) -> u64,
}

/// The limit for what is decoded without being decompressed: a few times the input.
pub const fn proportional(len: u64) -> u64 {
    (64 << 10) + 64 * len
}

/// The limit for tables and blocks that are not compressed: 16 bytes for each of at most 1,048,576 literals. A row has a
/// literal for each place of its template, and row and template take a byte at least.
const fn literals(len: u64) -> u64 {
    let literals = if len < 1024 { len * len } else { 1 << 20 };
    (64 << 10) + 256 * len + 32 * literals
}

/// The targets of the format.
pub const TARGETS: &[Target] = &[
    Target { name: "record", run: records::record, corpus: corpus::records, weight: 1, bytes_max: proportional },
    Target {
        name: "record_sealed",
        run: records::record_sealed,
        corpus: corpus::record_bodies,
        weight: 1,
        bytes_max: proportional,
    },
    Target { name: "header", run: fixed::header, corpus: corpus::headers, weight: 1, bytes_max: proportional },
    Target {
        name: "header_sealed",
        run: fixed::header_sealed,
        corpus: corpus::headers,
        weight: 1,
        bytes_max: proportional,
    },
    Target {
        name: "page_map",
        run: nodes_and_indexes::page_map,
        corpus: corpus::nodes,
        weight: 1,
        bytes_max: proportional,
    },
    Target {
        name: "record_index",
        run: nodes_and_indexes::record_index,
        corpus: corpus::indexes,
        weight: 2,
        bytes_max: |len| proportional(len) + 256 * len,
    },
    Target {
        name: "read_sets",
        run: nodes_and_indexes::read_sets,
        corpus: corpus::read_sets,
        weight: 1,
        bytes_max: |len| proportional(len) + 64 * len,
    },
    Target {
        name: "snapshot_index",
        run: nodes_and_indexes::snapshot_index,
        corpus: corpus::snapshot_indexes,
        weight: 1,
        bytes_max: proportional,
    },
    Target { name: "parity", run: parity::parity, corpus: corpus::parity, weight: 2, bytes_max: proportional },
    Target {
        name: "parity_sealed",
        run: parity::parity_sealed,
        corpus: corpus::parity,
        weight: 2,
        bytes_max: proportional,
    },
    Target { name: "pruned", run: pruned::pruned, corpus: corpus::pruned, weight: 1, bytes_max: proportional },
    Target { name: "templates", run: statements::templates, corpus: corpus::tables, weight: 4, bytes_max: literals },
    Target { name: "block", run: statements::block, corpus: corpus::blocks, weight: 8, bytes_max: literals },
    Target {
        name: "normaliser",
        run: statements::normaliser,
        corpus: corpus::statements,
        weight: 2,
        bytes_max: proportional,
    },
];

/// The target of the format with this name.
///
/// # Panics
/// When there is none.
pub fn target(name: &str) -> Target {
    *TARGETS.iter().find(|target| target.name == name).expect("a target of the table")
}

/// Runs the target of this name, as cargo-fuzz does.
///
/// # Panics
/// When something that must hold does not, or there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let _is_valid = (target(name).run)(input);
}

/// Writes the corpus of each target to a directory of its name below `to`, as files whose names begin with `prefix`.
///
/// # Errors
/// When a file cannot be written.
pub fn write_corpus(targets: &[Target], to: &Path, prefix: &str) -> std::io::Result<()> {
    for target in targets {
        let directory = to.join(target.name);
        std::fs::create_dir_all(&directory)?;
        for (number, input) in (target.corpus)().iter().enumerate() {
            std::fs::write(directory.join(format!("{prefix}-{number}")), input)?;
        }
    }
    Ok(())
}
