//! The fuzz targets that need zstd, SQLite or files, and inputs from real backups for those of the format.
//!
//! [`format_fuzz`] says what a target is, and has those of the format. Both run bounded in the test `fuzz`, and in cargo-fuzz
//! (`tests/fuzz`).

mod compressed;
mod corpus;
mod files;
mod hook;
mod lock;
mod offsite;
mod pruned;
mod python;
mod static_backup;

use format_fuzz::{Corpus, Target, proportional};

use self::corpus::CORPUS;

/// The limit for a zstd frame: what so many bytes can expand to (docs/format.md has the limits, each at most 1280 MiB), and as
/// much again for what is made of it.
const fn expanding(len: u64) -> u64 {
    let content = if len > 40 << 10 { 1280 << 20 } else { len * (32 << 10) };
    (1 << 20) + 3 * content
}

/// The targets of this crate.
pub const TARGETS: &[Target] = &[
    Target {
        name: "page_images",
        run: compressed::page_images,
        corpus: || CORPUS.images(),
        weight: 4,
        bytes_max: |len| proportional(len) + (256 << 10),
    },
    Target {
        name: "compressed",
        run: compressed::compressed,
        corpus: || CORPUS.frames(),
        weight: 8,
        bytes_max: expanding,
    },
    Target {
        name: "hook",
        run: hook::hook,
        corpus: || CORPUS.messages(),
        weight: 4,
        bytes_max: |len| (1 << 20) + 128 * len,
    },
    Target {
        name: "backup_lock",
        run: lock::backup_lock,
        corpus: lock::corpus,
        weight: 1,
        bytes_max: |len| (64 << 10) + 128 * len,
    },
    Target {
        name: "spool_place",
        run: lock::spool_place,
        corpus: lock::spool_places,
        weight: 1,
        bytes_max: |len| (64 << 10) + 128 * len,
    },
    Target {
        name: "python_records",
        run: python::python_records,
        corpus: || CORPUS.python_files(),
        weight: 8,
        bytes_max: |len| (1 << 20) + 64 * len,
    },
    Target {
        name: "python_import",
        run: python::python_import,
        corpus: || CORPUS.python_files(),
        weight: 600,
        bytes_max: |_| 1 << 30,
    },
    Target { name: "file", run: files::file, corpus: || CORPUS.files(), weight: 600, bytes_max: |_| 1 << 30 },
    Target {
        name: "file_sealed",
        run: files::file_sealed,
        corpus: || CORPUS.files(),
        weight: 600,
        bytes_max: |_| 1 << 30,
    },
    Target {
        name: "static_backup",
        run: static_backup::static_backup,
        corpus: static_backup::static_backups,
        weight: 1,
        bytes_max: proportional,
    },
    Target {
        name: "hsm_secret",
        run: static_backup::hsm_secret,
        corpus: static_backup::hsm_secrets,
        weight: 2,
        bytes_max: proportional,
    },
    Target {
        name: "sealed_object",
        run: offsite::sealed_object,
        corpus: offsite::sealed_objects,
        weight: 1,
        bytes_max: proportional,
    },
    Target {
        name: "offsite_key_file",
        run: offsite::key_file,
        corpus: offsite::key_files,
        weight: 4,
        bytes_max: |len| (64 << 10) + 256 * len,
    },
];

/// The targets of the format, with inputs from the files of backups. [`format_fuzz`] runs them with its own inputs; here
/// they get a quarter as many.
pub fn with_real_inputs() -> Vec<Target> {
    let corpora: [(_, Corpus); 10] = [
        ("record", || CORPUS.records()),
        ("record_sealed", || CORPUS.record_bodies()),
        ("header", || CORPUS.headers()),
        ("header_sealed", || CORPUS.headers()),
        ("page_map", || CORPUS.nodes()),
        ("record_index", || CORPUS.indexes()),
        ("read_sets", || CORPUS.read_sets()),
        ("pruned", || CORPUS.pruned()),
        ("templates", || CORPUS.tables()),
        ("normaliser", || CORPUS.statements()),
    ];
    let target = |name| format_fuzz::target(name);
    corpora.map(|(name, corpus)| Target { corpus, weight: 4 * target(name).weight, ..target(name) }).to_vec()
}

/// Runs the target of this name, as cargo-fuzz does.
///
/// # Panics
/// When something that must hold does not, or there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of the table");
    let _is_valid = (target.run)(input);
}
