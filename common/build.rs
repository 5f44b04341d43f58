//! Checks that SQLite is built with what the snapshot needs, rather than have `init` fail on the day it is run.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBSQLITE3_FLAGS");
    let flags = std::env::var("LIBSQLITE3_FLAGS").unwrap_or_default();
    if !flags.contains("SQLITE_ENABLE_DBPAGE_VTAB") {
        println!(
            "cargo::error=SQLite would be built without `sqlite_dbpage`: run cargo inside the checkout, where \
             .cargo/config.toml sets LIBSQLITE3_FLAGS, or add -DSQLITE_ENABLE_DBPAGE_VTAB to yours"
        );
    }
}
