use super::super::age::tests::TEST_IDENTITY;
use super::super::key_file::Wrapper;
use super::super::words::{from_words, words};
use super::*;
use crate::crypto::Key;

/// Another identity of age's test kit.
const OTHER_IDENTITY: &str = "AGE-SECRET-KEY-1XMWWC06LY3EE5RYTXM9MFLAZ2U56JJJ36S0MYPDRWSVLUL66MV4QX3S7F6";

fn key(byte: u8) -> MasterKey {
    MasterKey::from_key(Key::new([byte; 32]))
}

fn node(byte: u8) -> NodeSecret {
    NodeSecret::from_hsm_secret(&[byte; 32], None).unwrap()
}

fn identity(text: &str) -> Identity {
    text.parse().unwrap()
}

/// The file of a key that is wrapped for one node and one recipient.
fn file(byte: u8) -> KeyFile {
    let mut file = KeyFile::new(&key(byte), 0);
    file.add_wrap(&key(byte), Wrapper::Node(&node(5))).unwrap();
    file.add_wrap(&key(byte), Wrapper::Recipient(&identity(TEST_IDENTITY).recipient())).unwrap();
    file
}

fn ids(ring: &KeyRing) -> Vec<KeyId> {
    ring.ids().collect()
}

fn unlocked_ids(files: &[KeyFile], with: &Unlock) -> Vec<KeyId> {
    ids(&unlock(files, with).unwrap())
}

#[test]
fn each_way_unlocks_the_key() {
    let file = KeyFile::decode("k/x", &file(7).encode()).unwrap();
    let words = from_words(&words(&key(7))).unwrap();
    for with in [
        Unlock::Node(node(5)),
        Unlock::Words(words),
        Unlock::Identities(vec![identity(TEST_IDENTITY)]),
        Unlock::Identities(vec![identity(OTHER_IDENTITY), identity(TEST_IDENTITY)]),
    ] {
        let ring = unlock(std::slice::from_ref(&file), &with).unwrap();
        assert_eq!(ring.get(key(7).id()).unwrap().bytes(), key(7).bytes(), "{with:?}");
        assert_eq!(ids(&ring), [key(7).id()]);
    }
}

/// A node that keeps no key has one for each run.
#[test]
fn all_keys_that_can_be_unlocked_are() {
    let mut of_another = KeyFile::new(&key(9), 0);
    of_another.add_wrap(&key(9), Wrapper::Recipient(&identity(OTHER_IDENTITY).recipient())).unwrap();
    let files = [file(7), file(8), of_another];
    let mut both = [key(7).id(), key(8).id()];
    both.sort();
    assert_eq!(unlocked_ids(&files, &Unlock::Node(node(5))), both);
    assert_eq!(unlocked_ids(&files, &Unlock::Identities(vec![identity(TEST_IDENTITY)])), both);
    assert_eq!(unlocked_ids(&files, &Unlock::Identities(vec![identity(OTHER_IDENTITY)])), [key(9).id()]);
    let all = Unlock::Identities(vec![identity(OTHER_IDENTITY), identity(TEST_IDENTITY)]);
    assert_eq!(unlocked_ids(&files, &all).len(), 3);
    assert_eq!(unlocked_ids(&files, &Unlock::Words(key(8))), [key(8).id()]);
    // Words need no key file.
    assert_eq!(unlocked_ids(&[], &Unlock::Words(key(8))), [key(8).id()]);
}

#[test]
fn what_opens_nothing_is_told_what_would() {
    let files = [file(7)];
    let recipient = identity(TEST_IDENTITY).recipient();
    let id = hex::encode(&node(5).node_id());
    let ways = format!(
        "this copy can be opened with: the age identity of {recipient}, the node's hsm_secret (node {id}), or its 24 words"
    );
    let sentence = |with: &Unlock| unlock(&files, with).unwrap_err().to_string();
    let other = hex::encode(&node(6).node_id());
    assert_eq!(
        sentence(&Unlock::Node(node(6))),
        format!("the hsm_secret of node {other} opens no key of this copy; {ways}")
    );
    let other = identity(OTHER_IDENTITY);
    assert_eq!(
        sentence(&Unlock::Identities(vec![other.clone()])),
        format!("the age identity of {} opens no key of this copy; {ways}", other.recipient())
    );
    assert_eq!(
        sentence(&Unlock::Words(key(8))),
        format!(
            "these words are of the key {}, and this copy has other keys ({}): they are of another copy",
            key(8).id(),
            key(7).id()
        )
    );
    assert_eq!(unlock(&[], &Unlock::Node(node(5))).unwrap_err(), UnlockError::NoKeyFile);
    let empty = [KeyFile::new(&key(7), 0)];
    assert!(
        unlock(&empty, &Unlock::Node(node(5))).unwrap_err().to_string().ends_with("can be opened with: its 24 words")
    );
}

/// The same node id with another secret: a node id can be claimed by anybody.
#[test]
fn a_node_that_claims_another_id_opens_nothing() {
    let claimed = NodeSecret::new(node(5).node_id(), Key::new([1; 32]));
    let error = unlock(&[file(7)], &Unlock::Node(claimed)).unwrap_err();
    assert!(matches!(error, UnlockError::NotAuthentic { .. }), "{error}");
}

/// Every bit of a file, for each way that reads it: either it makes no difference to the key, or no key comes out.
#[test]
fn flipped_bits_of_a_key_file_never_give_another_key() {
    let bytes = file(7).encode();
    let ways = [Unlock::Node(node(5)), Unlock::Identities(vec![identity(TEST_IDENTITY)])];
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let Ok(file) = KeyFile::decode("k/x", &flipped) else { continue };
        for with in &ways {
            if let Ok(ring) = unlock(std::slice::from_ref(&file), with) {
                assert_eq!(ids(&ring), [key(7).id()], "byte {at}");
            }
        }
    }
}

/// Each hexadecimal digit of what is wrapped.
#[test]
fn a_changed_wrap_does_not_authenticate() {
    let text = String::from_utf8(file(7).encode()).unwrap();
    for (field, count) in [("\"salt\":\"", 1), ("\"ephemeral\":\"", 1), ("\"wrapped\":\"", 2)] {
        let starts: Vec<_> = text.match_indices(field).map(|(at, _)| at + field.len()).collect();
        assert_eq!(starts.len(), count);
        for start in starts {
            let len = text[start..].find('"').unwrap();
            for at in start..start + len {
                let digit = if &text[at..=at] == "0" { "1" } else { "0" };
                let changed = format!("{}{digit}{}", &text[..at], &text[at + 1..]);
                let file = KeyFile::decode("k/x", changed.as_bytes()).unwrap();
                let opens = |with: &Unlock| unlock(std::slice::from_ref(&file), with);
                let results =
                    [opens(&Unlock::Node(node(5))), opens(&Unlock::Identities(vec![identity(TEST_IDENTITY)]))];
                let failed =
                    results.iter().filter(|result| matches!(result, Err(UnlockError::NotAuthentic { .. }))).count();
                assert_eq!(failed, 1, "{field} {at}");
            }
        }
    }
}

/// The wraps of one key under the id of another.
#[test]
fn a_wrap_of_another_key_is_refused() {
    let renamed =
        String::from_utf8(file(7).encode()).unwrap().replace(&key(7).id().to_string(), &key(8).id().to_string());
    let file = KeyFile::decode("k/x", renamed.as_bytes()).unwrap();
    for with in [Unlock::Node(node(5)), Unlock::Identities(vec![identity(TEST_IDENTITY)])] {
        let error = unlock(std::slice::from_ref(&file), &with).unwrap_err();
        assert!(matches!(error, UnlockError::NotAuthentic { .. }), "{error}");
    }
}

#[test]
fn a_long_list_is_cut() {
    let mut file = KeyFile::new(&key(7), 0);
    for byte in 1..=20 {
        file.add_wrap(&key(7), Wrapper::Node(&node(byte))).unwrap();
    }
    let sentence = unlock(&[file], &Unlock::Node(node(100))).unwrap_err().to_string();
    assert!(sentence.ends_with(", 12 more, or its 24 words"), "{sentence}");
}

#[test]
fn nothing_secret_is_shown() {
    let secrets = [
        hex::encode(key(7).bytes()),
        hex::encode(node(5).bytes()),
        TEST_IDENTITY.to_lowercase(),
        words(&key(7)).to_string(),
    ];
    for with in [Unlock::Node(node(5)), Unlock::Words(key(7)), Unlock::Identities(vec![identity(TEST_IDENTITY)])] {
        let shown =
            format!("{with:?} {:?} {:?}", unlock(&[file(7)], &with), unlock(&[file(8)], &Unlock::Words(key(7))));
        let shown = shown.to_lowercase();
        for secret in &secrets {
            assert!(!shown.contains(secret.as_str()) && !shown.contains("7, 7, 7"), "{shown}");
        }
    }
}
