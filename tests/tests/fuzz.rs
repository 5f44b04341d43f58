//! A bounded run of the fuzz targets: [`format_fuzz::bounded`] says what can be set. `BACKUPFS_FUZZ_CORPUS` is a directory
//! that gets the corpus of every target, for cargo-fuzz.

use std::fs;
use std::path::Path;

use format_fuzz::allocated::Counting;
use format_fuzz::{Target, write_corpus};
use tests::fuzz::{TARGETS, with_real_inputs};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_bytes_do_harm() {
    let targets = [TARGETS, &with_real_inputs()].concat();
    if let Some(to) = std::env::var_os("BACKUPFS_FUZZ_CORPUS") {
        write_corpus(&targets, to.as_ref(), "real").expect("a directory for the corpus");
        write_corpus(format_fuzz::TARGETS, to.as_ref(), "encoded").expect("a directory for the corpus");
    }
    format_fuzz::bounded::run_all(&targets);
}

/// cargo-fuzz has a program for every target, and needs the C of this package for those of this package only.
#[test]
fn every_target_is_one_of_cargo_fuzz() {
    let of_cargo_fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(of_cargo_fuzz.join("Cargo.toml")).expect("a manifest");
    let check = |targets: &[Target], owner: &str, needs: &str| {
        for Target { name, .. } in targets {
            let program = fs::read_to_string(of_cargo_fuzz.join(format!("fuzz_targets/{name}.rs")));
            let call = format!("{owner}::run(\"{name}\", input)");
            assert!(program.is_ok_and(|program| program.contains(&call)), "{name}: no {call}");
            let entry = format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n{needs}test = false");
            assert!(manifest.contains(&entry), "{name}: not in the manifest as\n{entry}");
        }
    };
    check(TARGETS, "tests::fuzz", "required-features = [\"engine\"]\n");
    check(format_fuzz::TARGETS, "format_fuzz", "");
}
