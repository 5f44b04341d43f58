use proptest::prelude::*;
use serde_json::json;

use super::super::age::Identity;
use super::super::age::tests::TEST_IDENTITY;
use super::*;
use crate::crypto::Key;
use crate::hex;

fn key() -> MasterKey {
    MasterKey::from_key(Key::new([7; 32]))
}

fn node() -> NodeSecret {
    NodeSecret::from_hsm_secret(&[5; 32], None).unwrap()
}

fn file() -> KeyFile {
    let identity: Identity = TEST_IDENTITY.parse().unwrap();
    let mut file = KeyFile::new(&key(), 1_795_356_307);
    file.add_wrap(&key(), Wrapper::Node(&node())).unwrap();
    file.add_wrap(&key(), Wrapper::Recipient(&identity.recipient())).unwrap();
    file
}

fn refused(bytes: &[u8]) -> String {
    KeyFile::decode("k/x", bytes).unwrap_err().to_string()
}

/// The file with a change in its JSON.
fn changed(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut json = serde_json::from_slice(&file().encode()).unwrap();
    change(&mut json);
    serde_json::to_vec(&json).unwrap()
}

#[test]
fn what_was_written_is_read() {
    let file = file();
    let read = KeyFile::decode("k/x", &file.encode()).unwrap();
    assert_eq!(read, file);
    assert_eq!((read.key(), read.created(), read.wraps().len()), (key().id(), 1_795_356_307, 2));
    assert_eq!(read.object_name(), format!("k/{}", key().id()));
    assert_eq!(KeyFile::new(&key(), u64::MAX).created(), CREATED_MAX);
}

#[test]
fn a_file_has_no_key_in_it() {
    let text = String::from_utf8(file().encode()).unwrap();
    assert!(!text.contains(&hex::encode(key().bytes())), "{text}");
    let shown = format!("{:?} {:?}", file(), Wrapper::Node(&node()));
    assert!(!shown.contains("7, 7, 7, 7") && !shown.contains(&hex::encode(node().bytes())), "{shown}");
}

#[test]
fn a_kind_that_is_not_known_is_kept() {
    let bytes = changed(|json| {
        json["wraps"].as_array_mut().unwrap().push(json!({"kind": "tpm-2", "blob": [1, {"a": null}]}));
    });
    let mut read = KeyFile::decode("k/x", &bytes).unwrap();
    assert!(matches!(&read.wraps()[2], Wrap::Other(wrap) if wrap.kind() == "tpm-2"));
    read.add_wrap(&key(), Wrapper::Node(&node())).unwrap();
    let again = KeyFile::decode("k/x", &read.encode()).unwrap();
    assert_eq!((&again, again.wraps().len()), (&read, 4));
    assert!(String::from_utf8(read.encode()).unwrap().contains(r#"{"blob":[1,{"a":null}],"kind":"tpm-2"}"#));
}

#[test]
fn only_its_own_key_is_wrapped_and_not_without_bound() {
    let other = MasterKey::from_key(Key::new([8; 32]));
    let mut file = file();
    let expected = KeyFileError::OtherKey { file: key().id(), given: other.id() };
    assert_eq!(file.add_wrap(&other, Wrapper::Node(&node())), Err(expected));
    let refused = std::iter::repeat_with(|| file.add_wrap(&key(), Wrapper::Node(&node()))).find_map(Result::err);
    assert_eq!(refused, Some(KeyFileError::TooManyWraps(key().id())));
    assert!(file.encode().len() <= KEY_FILE_MAX && file.wraps().len() > 100, "{}", file.wraps().len());
    assert_eq!(KeyFile::decode("k/x", &file.encode()).unwrap(), file);
}

#[test]
fn what_is_no_key_file_is_refused() {
    let valid = file().encode();
    for len in 0..valid.len() {
        assert!(KeyFile::decode("k/x", &valid[..len]).is_err(), "{len} bytes");
    }
    assert!(refused(&[valid.as_slice(), b"x"].concat()).contains("k/x is not a key file"));
    assert!(refused(&vec![b' '; KEY_FILE_MAX + 1]).contains("more than 65536 bytes"));
    assert!(refused("[".repeat(60_000).as_bytes()).contains("not a JSON object"));
    assert!(refused(format!("[1,\"{}\",0,[]]", key().id()).as_bytes()).contains("not a JSON object"));
    let (open, close) = ("[".repeat(20_000), "]".repeat(20_000));
    let deep = format!(r#"{{"format":1,"key":"","created":0,"wraps":[{{"kind":"x","deep":{open}{close}}}]}}"#);
    assert!(refused(deep.as_bytes()).contains("recursion limit"));
    let hostile = refused(&changed(|json| json["\u{1b}[2J".repeat(1000)] = json!(1)));
    assert!(hostile.len() < 500 && !hostile.contains('\u{1b}'), "{hostile}");
    let newer = changed(|json| json["format"] = json!(2));
    let expected = KeyFileError::NewerFormat { name: "k/x".to_owned(), format: 2 };
    assert_eq!(KeyFile::decode("k/x", &newer), Err(expected));
    for (field, value) in [
        ("format", json!(0)),
        ("format", json!("1")),
        ("key", json!("00")),
        ("key", json!("0000000000000G00")),
        ("created", json!(-1)),
        ("created", json!(CREATED_MAX + 1)),
        ("created", json!(1.5)),
        ("wraps", json!({})),
        ("wraps", json!([1])),
        ("wraps", json!([{}])),
        ("wraps", json!([{"kind": 1}])),
        ("wraps", json!([{"kind": ""}])),
        ("wraps", json!([{"kind": "a".repeat(33)}])),
        ("wraps", json!([{"kind": "\u{1b}[2J"}])),
        ("more", json!(1)),
    ] {
        let bytes = changed(|json| json[field] = value.clone());
        assert!(KeyFile::decode("k/x", &bytes).is_err(), "{field} {value}");
    }
    for (wrap, field) in
        [(0, "node_id"), (0, "salt"), (0, "wrapped"), (1, "recipient"), (1, "ephemeral"), (1, "wrapped")]
    {
        for value in [json!(null), json!(""), json!("00"), json!("é"), json!(7), json!("ab".repeat(200))] {
            let bytes = changed(|json| json["wraps"][wrap][field] = value.clone());
            assert!(refused(&bytes).contains(&format!("wrap {}: ", wrap + 1)), "{field} {value}");
        }
        let missing = changed(|json| drop(json["wraps"][wrap].as_object_mut().unwrap().remove(field)));
        assert!(refused(&missing).contains(field), "{field}");
    }
    assert!(refused(&changed(|json| json["wraps"][0]["more"] = json!(1))).contains("more"));
}

/// A recipient for which anybody could unwrap.
#[test]
fn a_recipient_of_low_order_is_refused() {
    let low = bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("age").unwrap(), &[0; 32]).unwrap();
    assert!(refused(&changed(|json| json["wraps"][1]["recipient"] = json!(low))).contains("low order"));
}

proptest! {
    #[test]
    fn hostile_files_do_not_panic(at in 0usize..700, with in proptest::collection::vec(any::<u8>(), 0..4), text in "\\PC{0,100}") {
        let _: Result<KeyFile, KeyFileError> = KeyFile::decode("k/x", text.as_bytes());
        let mut bytes = file().encode();
        let at = at.min(bytes.len());
        bytes.splice(at..(at + with.len()).min(bytes.len()), with);
        if let Ok(file) = KeyFile::decode("k/x", &bytes) {
            prop_assert_eq!(KeyFile::decode("k/x", &file.encode()).unwrap(), file);
        }
    }
}
