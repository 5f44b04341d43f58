use super::{ConditionalPut, FileStore, Limits, probe_conditional_put};
use crate::testing::{Conditions, FaultyServer, Kind, Trouble};

#[test]
fn what_a_store_does_with_conditions_is_found_out() {
    for (conditions, expected) in [
        (Conditions::Enforced, ConditionalPut::Enforced),
        (Conditions::Ignored, ConditionalPut::Ignored),
        (Conditions::Refused, ConditionalPut::Refused),
    ] {
        let server = FaultyServer::start();
        server.set_conditions(conditions);
        let store = server.store("node", Limits::default());
        // Again, too: the name exists then.
        for _ in 0..2 {
            assert_eq!(probe_conditional_put(&store, "probe", b"probe").unwrap(), expected);
        }
        server.always(Some(Kind::Put), Trouble::Answer(403, "AccessDenied"));
        probe_conditional_put(&store, "probe-2", b"probe").unwrap_err();
    }
}

#[test]
fn a_directory_enforces_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::new(directory.path());
    assert_eq!(probe_conditional_put(&store, "probe", b"probe").unwrap(), ConditionalPut::Enforced);
}
