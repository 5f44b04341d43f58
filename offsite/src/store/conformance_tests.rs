//! What every store must do, for the tests of each.

use std::thread;

use super::{Failure, Listed, OBJECT_BYTES_MAX, Put, Store};

/// Makes every call of the interface on a store that is there and empty, and leaves it empty.
pub(super) fn conforms(store: &dyn Store) {
    assert_eq!(store.list("").unwrap(), [], "{store:?}");
    objects_are_stored_read_replaced_and_removed(store);
    names_are_exclusive(store);
    ranges_end_where_the_object_ends(store);
    empty_objects_are_objects(store);
    the_largest_objects_are_whole(store);
    lists_are_complete_and_in_order(store);
    calls_run_at_once(store);
    what_cannot_be_an_object_is_refused(store);
    assert_eq!(store.list("").unwrap(), []);
}

/// Bytes that differ at each place.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(0x9E37_79B1) >> 13).to_le_bytes()[0]).collect()
}

fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).unwrap().into_iter().map(|listed| listed.name).collect()
}

fn objects_are_stored_read_replaced_and_removed(store: &dyn Store) {
    for name in ["id", "s/1", "a/b/c/d-1.2"] {
        assert_eq!(store.get(name, None).unwrap_err().failure, Failure::NotFound);
        assert_eq!(store.get(name, Some(0..4)).unwrap_err().failure, Failure::NotFound);
        assert_eq!(store.put_new(name, b"first").unwrap(), Put::Stored);
        assert_eq!(store.get(name, None).unwrap(), b"first");
        store.replace(name, b"second, longer").unwrap();
        assert_eq!(store.get(name, None).unwrap(), b"second, longer");
        store.replace(name, b"3").unwrap();
        assert_eq!(store.list(name).unwrap(), [Listed { name: name.to_owned(), len: 1 }]);
        store.remove(name).unwrap();
        assert_eq!(store.get(name, None).unwrap_err().failure, Failure::NotFound);
        store.remove(name).unwrap();
        store.replace(name, b"4").unwrap();
        assert_eq!(store.get(name, None).unwrap(), b"4");
        store.remove(name).unwrap();
    }
}

fn names_are_exclusive(store: &dyn Store) {
    assert_eq!(store.put_new("w/1", b"mine").unwrap(), Put::Stored);
    // A store that cannot refuse says that it has stored it.
    let second = store.put_new("w/1", b"other").unwrap();
    let expected: &[u8] = if second == Put::Exists { b"mine" } else { b"other" };
    assert_eq!(store.get("w/1", None).unwrap(), expected);
    store.remove("w/1").unwrap();
}

fn ranges_end_where_the_object_ends(store: &dyn Store) {
    let bytes = pattern(100_000);
    store.put_new("s/1", &bytes).unwrap();
    for range in [0..1, 0..100_000, 16_384..32_768, 99_999..100_000, 5..5, 0..0] {
        let expected = &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        assert!(store.get("s/1", Some(range.clone())).unwrap() == expected, "{range:?}");
    }
    assert!(store.get("s/1", Some(0..u64::MAX)).unwrap() == bytes);
    assert!(store.get("s/1", Some(99_000..200_000)).unwrap() == bytes[99_000..]);
    assert_eq!(store.get("s/1", Some(100_000..100_001)).unwrap(), b"");
    assert_eq!(store.get("s/1", Some(1 << 40..1 << 41)).unwrap(), b"");
    #[expect(clippy::reversed_empty_ranges, reason = "an error of the caller")]
    let reversed = store.get("s/1", Some(9..3)).unwrap();
    assert_eq!(reversed, b"");
    store.remove("s/1").unwrap();
}

fn empty_objects_are_objects(store: &dyn Store) {
    assert_eq!(store.put_new("k/0", b"").unwrap(), Put::Stored);
    assert_eq!(store.get("k/0", None).unwrap(), b"");
    assert_eq!(store.get("k/0", Some(0..10)).unwrap(), b"");
    assert_eq!(store.list("k/").unwrap(), [Listed { name: "k/0".to_owned(), len: 0 }]);
    store.replace("k/0", b"").unwrap();
    store.remove("k/0").unwrap();
}

fn the_largest_objects_are_whole(store: &dyn Store) {
    let bytes = pattern(OBJECT_BYTES_MAX);
    assert_eq!(store.put_new("x/1.1", &bytes).unwrap(), Put::Stored);
    assert!(store.get("x/1.1", None).unwrap() == bytes);
    assert!(store.get("x/1.1", Some(5_000_000..9_000_001)).unwrap() == bytes[5_000_000..9_000_001]);
    assert_eq!(store.list("x/").unwrap()[0].len, OBJECT_BYTES_MAX as u64);
    store.remove("x/1.1").unwrap();
    let too_long = vec![0; OBJECT_BYTES_MAX + 1];
    assert_eq!(store.put_new("x/1.2", &too_long).unwrap_err().failure, Failure::Protocol);
    assert_eq!(store.replace("x/1.2", &too_long).unwrap_err().failure, Failure::Protocol);
}

fn lists_are_complete_and_in_order(store: &dyn Store) {
    let mut stored: Vec<String> = (0..230).map(|number| format!("t/{number}")).collect();
    stored.extend(["t-1", "t/a/1", "t/a-b", "t/a.b", "t1", "u/1"].map(str::to_owned));
    thread::scope(|scope| {
        for chunk in stored.chunks(60) {
            scope.spawn(move || {
                for name in chunk {
                    assert_eq!(store.put_new(name, name.as_bytes()).unwrap(), Put::Stored);
                }
            });
        }
    });
    stored.sort();
    assert_eq!(names(store, ""), stored);
    for prefix in ["t", "t/", "t/1", "t/a", "t/a/", "u/1", "v"] {
        let expected: Vec<_> = stored.iter().filter(|name| name.starts_with(prefix)).cloned().collect();
        assert_eq!(names(store, prefix), expected, "{prefix}");
    }
    assert!(store.list("").unwrap().iter().all(|listed| listed.len == listed.name.len() as u64));
    stored.iter().for_each(|name| store.remove(name).unwrap());
}

fn calls_run_at_once(store: &dyn Store) {
    let bytes = pattern(300_000);
    thread::scope(|scope| {
        for number in 0..8 {
            let bytes = &bytes;
            scope.spawn(move || {
                let name = format!("c/{number}/1");
                let own = &bytes[number * 1000..];
                assert_eq!(store.put_new(&name, own).unwrap(), Put::Stored);
                for start in [0, 70_000, 200_000] {
                    let range = start as u64..start as u64 + 20_000;
                    assert!(store.get(&name, Some(range)).unwrap() == own[start..start + 20_000]);
                }
                assert!(store.get(&name, None).unwrap() == own);
                store.remove(&name).unwrap();
            });
        }
    });
    // Of several that store the same name, those that are told so have stored it, and it is whole.
    let stored: usize = thread::scope(|scope| {
        let racers: Vec<_> =
            (0..6).map(|number| scope.spawn(move || store.put_new("w/2", &vec![number; 50_000]).unwrap())).collect();
        racers.into_iter().map(|racer| usize::from(racer.join().unwrap() == Put::Stored)).sum()
    });
    let there = store.get("w/2", None).unwrap();
    assert!(stored >= 1 && there.len() == 50_000 && there.iter().all(|byte| *byte == there[0]));
    store.remove("w/2").unwrap();
}

fn what_cannot_be_an_object_is_refused(store: &dyn Store) {
    for name in ["", "../x", "/x", "a//b", "a/", ".x", "a b"] {
        assert_eq!(store.get(name, None).unwrap_err().failure, Failure::Protocol, "{name:?}");
        assert_eq!(store.put_new(name, b"").unwrap_err().failure, Failure::Protocol, "{name:?}");
        assert_eq!(store.replace(name, b"").unwrap_err().failure, Failure::Protocol, "{name:?}");
        assert_eq!(store.remove(name).unwrap_err().failure, Failure::Protocol, "{name:?}");
    }
}
