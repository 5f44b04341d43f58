use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::crypto::Key;

const NAME: &str = "s/7";

fn key(byte: u8) -> MasterKey {
    MasterKey::from_key(Key::new([byte; 32]))
}

fn ring(byte: u8) -> KeyRing {
    [key(byte)].into_iter().collect()
}

/// Bytes without a period of a chunk.
fn plain(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect()
}

fn sealed(name: &str, len: usize, padding: Padding) -> Vec<u8> {
    seal(Sealing::Key(&key(7)), name, &plain(len), padding).unwrap()
}

fn opened(name: &str, object: &[u8]) -> Result<Vec<u8>, SealError> {
    open(Opening::Keys(&ring(7)), name, object)
}

fn checked(name: &str, len: usize) -> Vec<u8> {
    seal(Sealing::None, name, &plain(len), Padding::None).unwrap()
}

#[test]
fn what_was_sealed_is_opened() {
    for padding in [Padding::None, Padding::PowerOfTwo] {
        for len in [0, 1, 2047, 2048, 2049, 16383, 16384, 16385, 32768, 40000] {
            let object = sealed(NAME, len, padding);
            assert_eq!(opened(NAME, &object).unwrap(), plain(len), "{len} {padding:?}");
            let padded = padding.padded_len(len as u64).unwrap();
            assert_eq!(object.len() as u64, layout::sealed_len(padded));
            let object = seal(Sealing::None, NAME, &plain(len), padding).unwrap();
            assert_eq!(open(Opening::None, NAME, &object).unwrap(), plain(len));
            assert_eq!(object.len() as u64, layout::sealed_len(padded));
        }
    }
}

/// The lengths of two changes are not seen from outside: all but salt, length, and what is encrypted is the same.
#[test]
fn a_padded_length_is_hidden() {
    let (short, long) = (sealed(NAME, 1, Padding::PowerOfTwo), sealed(NAME, 2048, Padding::PowerOfTwo));
    assert_eq!((short.len(), &short[..24]), (long.len(), &long[..24]));
    let same_salt = |len| seal_with(Sealing::Key(&key(7)), NAME, &plain(len), Padding::PowerOfTwo, [1; 16]);
    assert_ne!(same_salt(1)[40..48], 1u64.to_le_bytes());
}

#[test]
fn some_chunks_are_opened_without_the_others() {
    let (len, object) = (40_000, sealed(NAME, 40_000, Padding::None));
    let reader = SealedObject::new(Opening::Keys(&ring(7)), NAME, &object[..HEADER_LEN], object.len() as u64).unwrap();
    assert_eq!((reader.plain_len(), reader.layout().chunk_count()), (len as u64, 3));
    for range in [0..1, 0..40_000, 16_383..16_385, 16_384..16_385, 32_768..40_000, 39_999..50_000, 5..5, 50_000..60_000]
    {
        let chunks = reader.layout().chunks_of(range.clone());
        let bytes = reader.layout().bytes_of(chunks.clone());
        let bytes = &object[usize::try_from(bytes.start).unwrap()..usize::try_from(bytes.end).unwrap()];
        let from = usize::try_from(chunks.start * CHUNK_LEN).unwrap();
        let to = usize::try_from(chunks.end * CHUNK_LEN).unwrap().min(len);
        assert_eq!(reader.open_chunks(chunks.clone(), bytes).unwrap(), plain(len)[from..to], "{range:?}");
        // An answer that is too short, too long, or of another place.
        if !bytes.is_empty() {
            assert!(reader.open_chunks(chunks.clone(), &bytes[1..]).is_err());
            assert!(reader.open_chunks(chunks.clone(), &[]).is_err());
            assert!(reader.open_chunks(chunks.clone(), &[bytes, &[0]].concat()).is_err());
            assert!(reader.open_chunks(chunks.start + 1..chunks.end + 1, bytes).is_err());
            assert!(reader.open_chunks(chunks.start..chunks.end + 1, bytes).is_err());
        }
    }
    assert!(reader.open_chunks(u64::MAX - 1..u64::MAX, &[0; 20]).is_err());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let objects = [
        (sealed(NAME, 100, Padding::None), Opening::Keys(&ring(7))),
        (sealed(NAME, 100, Padding::PowerOfTwo), Opening::Keys(&ring(7))),
        (checked(NAME, 100), Opening::None),
    ];
    for (object, opening) in &objects {
        assert_eq!(open(*opening, NAME, object).unwrap(), plain(100));
        for bit in 0..8 * object.len() {
            let mut flipped = object.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(*opening, NAME, &flipped).is_err(), "bit {bit}");
        }
    }
}

/// In several chunks: every bit at their edges, and one in each stretch of 97 bytes.
#[test]
fn flipped_bits_are_noticed_in_every_chunk() {
    let object = sealed(NAME, 40_000, Padding::None);
    let edges = (0..3).flat_map(|chunk| chunk * 16_400..chunk * 16_400 + 100);
    for at in edges.chain((0..object.len()).step_by(97)).chain(object.len() - 40..object.len()) {
        let mut flipped = object.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(opened(NAME, &flipped).is_err(), "byte {at}");
    }
}

#[test]
fn damage_is_told_with_its_place() {
    let mut object = sealed(NAME, 40_000, Padding::None);
    object[64 + 16_400 + 5] ^= 1;
    assert_eq!(opened(NAME, &object), Err(SealError::NotAuthentic { name: NAME.to_owned(), offset: 64 + 16_400 }));
}

#[test]
fn a_cut_or_extended_object_is_noticed_at_every_length() {
    for object in [sealed(NAME, 40_000, Padding::None), sealed(NAME, 20_000, Padding::PowerOfTwo)] {
        let boundaries = (0..=3).flat_map(|chunk| 64 + chunk * 16_400 - 40..64 + chunk * 16_400 + 40);
        for len in (0..200).chain(boundaries).chain((0..object.len()).step_by(501)) {
            if len < object.len() {
                assert!(opened(NAME, &object[..len]).is_err(), "{len} bytes");
            }
        }
        for more in [1, 15, 16, 17, 16_400] {
            assert!(opened(NAME, &[object.as_slice(), &vec![0; more]].concat()).is_err(), "{more} more bytes");
        }
        assert!(opened(NAME, &[object.as_slice(), &object[64..]].concat()).is_err());
    }
    let short = checked(NAME, 100);
    for len in 0..short.len() {
        assert!(open(Opening::None, NAME, &short[..len]).is_err(), "{len} bytes");
    }
    assert!(matches!(opened(NAME, b"BKPFSOBJ"), Err(SealError::Length { len: 8, .. })));
    assert!(matches!(opened(NAME, b""), Err(SealError::NotAnObject { .. })));
}

/// A store that lies about the length is noticed when the header is read, whatever range is asked for afterwards.
#[test]
fn a_length_that_lies_is_noticed_in_the_header() {
    let object = sealed(NAME, 40_000, Padding::None);
    let read = |len| SealedObject::new(Opening::Keys(&ring(7)), NAME, &object[..HEADER_LEN], len).map(|_| ());
    assert_eq!(read(object.len() as u64), Ok(()));
    for len in [0, 64, 80, 64 + 16_400, object.len() as u64 - 1, object.len() as u64 + 1, 1 << 40, u64::MAX] {
        assert_eq!(read(len), Err(SealError::Length { name: NAME.to_owned(), len }));
    }
}

#[test]
fn exchanged_chunks_are_noticed() {
    for (object, other, opening) in [
        (sealed(NAME, 49_152, Padding::None), sealed(NAME, 49_152, Padding::None), Opening::Keys(&ring(7))),
        (checked(NAME, 49_152), checked(NAME, 49_152), Opening::None),
    ] {
        let chunk = |at: usize| 64 + at * 16_400..64 + (at + 1) * 16_400;
        for (one, another) in [(0, 1), (1, 2), (0, 2)] {
            // Within an object.
            let mut swapped = object.clone();
            swapped[chunk(one)].copy_from_slice(&object[chunk(another)]);
            swapped[chunk(another)].copy_from_slice(&object[chunk(one)]);
            assert!(open(opening, NAME, &swapped).is_err());
            // From another upload of the same bytes under the same name.
            let mut mixed = object.clone();
            mixed[chunk(one)].copy_from_slice(&other[chunk(one)]);
            assert!(open(opening, NAME, &mixed).is_err());
        }
        // The last chunk left out, or another one in its place.
        assert!(open(opening, NAME, &object[..chunk(2).start]).is_err());
        let shorter = [&object[..chunk(1).start], &object[chunk(2)]].concat();
        assert!(open(opening, NAME, &shorter).is_err());
        // The header of another upload.
        assert!(open(opening, NAME, &[&other[..64], &object[64..]].concat()).is_err());
    }
}

#[test]
fn a_renamed_object_is_noticed() {
    for (object, opening) in
        [(sealed(NAME, 100, Padding::None), Opening::Keys(&ring(7))), (checked(NAME, 100), Opening::None)]
    {
        for name in ["s/8", "s/07", "x/7", "S/7", "s/77", "", "s/7\0"] {
            let expected = SealError::NotAuthentic { name: name.to_owned(), offset: 0 };
            assert_eq!(open(opening, name, &object), Err(expected), "{name}");
        }
    }
}

#[test]
fn what_cannot_be_opened_is_told_apart() {
    let object = sealed(NAME, 100, Padding::None);
    let name = || NAME.to_owned();
    let other = open(Opening::Keys(&ring(8)), NAME, &object).unwrap_err();
    assert_eq!(other, SealError::OtherKey { name: name(), key: key(7).id() });
    assert!(other.to_string().contains(&key(7).id().to_string()));
    assert_eq!(open(Opening::None, NAME, &object), Err(SealError::Encrypted { name: name(), key: key(7).id() }));
    assert_eq!(opened(NAME, &checked(NAME, 100)), Err(SealError::NotEncrypted { name: name() }));
    assert_eq!(opened(NAME, b"PK\x03\x04"), Err(SealError::NotAnObject { name: name() }));
    let mut newer = object.clone();
    newer[8] = 2;
    assert_eq!(opened(NAME, &newer), Err(SealError::NewerVersion { name: name(), version: 2 }));
    // A ring of several keys.
    let both: KeyRing = [key(8), key(7)].into_iter().collect();
    assert_eq!(open(Opening::Keys(&both), NAME, &object).unwrap(), plain(100));
}

#[test]
fn no_nonce_is_used_twice_in_an_object() {
    let mut seen = HashSet::new();
    for chunk in (0..2000).chain([1 << 16, 1 << 32, 1 << 46]) {
        for position in [Position::Inner, Position::Last] {
            assert!(seen.insert(chunk_nonce(chunk, position)), "{chunk} {position:?}");
        }
    }
    assert_eq!(chunk_nonce(0x0102, Position::Last), [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1]);
}

/// What the key of an object hangs on: the ciphertext of zeros is the key stream, so equal keys would give equal bytes.
#[test]
fn every_upload_has_a_key_of_its_own() {
    let stream = |key: &MasterKey, name: &str, len: usize, padding, salt| {
        seal_with(Sealing::Key(key), name, &vec![0; len], padding, salt)[64..96].to_vec()
    };
    let mut seen = HashSet::new();
    for salt in [[0; 16], [1; 16]] {
        for name in ["s/7", "s/8", "t/7"] {
            for (len, padding) in [(2048, Padding::None), (2048, Padding::PowerOfTwo), (2047, Padding::PowerOfTwo)] {
                for key in [key(7), key(8)] {
                    assert!(seen.insert(stream(&key, name, len, padding, salt)));
                }
            }
        }
    }
    let (one, again) = (sealed(NAME, 100, Padding::None), sealed(NAME, 100, Padding::None));
    assert_ne!(one[24..40], again[24..40], "the salt is new for each upload");
    assert_ne!(one[64..], again[64..]);
}

proptest! {
    #[test]
    fn any_bytes_are_opened_as_they_were_sealed(
        bytes in vec(any::<u8>(), 0..40_000),
        name in "[a-z]/[0-9]{1,9}",
        is_padded: bool,
        is_encrypted: bool,
    ) {
        let padding = if is_padded { Padding::PowerOfTwo } else { Padding::None };
        let (key, ring) = (key(7), ring(7));
        let (sealing, opening) = if is_encrypted {
            (Sealing::Key(&key), Opening::Keys(&ring))
        } else {
            (Sealing::None, Opening::None)
        };
        let object = seal(sealing, &name, &bytes, padding).unwrap();
        prop_assert_eq!(open(opening, &name, &object).unwrap(), bytes);
    }

    /// No bytes panic, and none but sealed ones are opened.
    #[test]
    fn hostile_bytes_are_refused(
        start in vec(any::<u8>(), 0..200),
        field in vec(any::<u8>(), 1..9),
        at in 0usize..80,
        object_len: u64,
    ) {
        for (object, opening) in [(sealed(NAME, 50, Padding::None), Opening::Keys(&ring(7))), (checked(NAME, 50), Opening::None)] {
            prop_assert!(open(opening, NAME, &start).is_err());
            prop_assert!(open(opening, NAME, &[b"BKPFSOBJ\x01\0", start.as_slice()].concat()).is_err());
            let mut changed = object.clone();
            changed[at..at + field.len()].copy_from_slice(&field);
            prop_assert!(changed == object || open(opening, NAME, &changed).is_err());
            let reader = SealedObject::new(opening, NAME, &object, object_len);
            prop_assert!(reader.is_err() || object_len == object.len() as u64);
        }
    }

    /// Anybody can make an object that is not encrypted, with any length in its header.
    #[test]
    fn a_length_that_was_made_up_is_refused(plain_len: u64, object_len: u64, is_padded: bool) {
        let padding = if is_padded { Padding::PowerOfTwo } else { Padding::None };
        let header = header(None, NAME, plain_len, padding, [3; SALT_LEN]);
        if let Ok(reader) = SealedObject::new(Opening::None, NAME, &header, object_len) {
            prop_assert!(reader.plain_len() <= object_len);
            prop_assert!(reader.open_chunks(0..1, &[0; 100]).is_err());
        }
    }
}

#[test]
fn a_reader_shows_no_key() {
    let object = sealed(NAME, 100, Padding::None);
    let reader = SealedObject::new(Opening::Keys(&ring(7)), NAME, &object, object.len() as u64).unwrap();
    assert_eq!(format!("{reader:?}"), r#"SealedObject { name: "s/7", plain_len: 100, .. }"#);
    let sealing = format!("{:?} {:?}", Sealing::Key(&key(7)), Opening::Keys(&ring(7)));
    let id = key(7).id();
    assert_eq!(sealing, format!("Key(MasterKey({id})) Keys({{KeyId({id})}})"));
}

/// The bytes in docs/offsite-format.md, which were made with another program: see there.
#[test]
fn the_examples_in_the_document_are_what_the_code_writes() {
    let document = include_str!("../../../docs/offsite-format.md");
    let mut blocks = document.split("```hex\n").skip(1).filter_map(|block| block.split("```").next());
    let key = MasterKey::from_key(Key::new(std::array::from_fn(|at| u8::try_from(at).unwrap())));
    let salt = std::array::from_fn(|at| 0xa0 + u8::try_from(at).unwrap());
    for sealing in [Sealing::Key(&key), Sealing::None] {
        let expected = dump(&seal_with(sealing, "t/1.1", b"lightning", Padding::None, salt));
        let found = blocks.next().unwrap_or_default();
        assert!(found == expected, "docs/offsite-format.md shows another object; the code writes\n{expected}");
    }
}

/// Lines of 16 bytes, as in docs/format.md.
fn dump(bytes: &[u8]) -> String {
    let line = |(number, line): (usize, &[u8])| {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            line.iter().map(|&b| if b.is_ascii_graphic() || b == b' ' { b as char } else { '.' }).collect();
        format!("{:04x}  {:<47}  |{text}|\n", number * 16, hex.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}

/// `decrypt.py`, if it can be run here.
fn decryptor() -> Option<PathBuf> {
    let import = Command::new("python3").args(["-c", "import cryptography"]).output();
    if !import.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: python3 or its package cryptography is not installed, decrypt.py is not tested");
        return None;
    }
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("decrypt.py"))
}

#[test]
fn the_decryptor_in_python_opens_what_was_sealed() {
    let Some(script) = decryptor() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (copy, key_file) = (dir.path().join("copy"), dir.path().join("key"));
    fs::create_dir_all(copy.join("s")).unwrap();
    fs::write(copy.join("id"), "{}").unwrap();
    fs::write(&key_file, format!("{}\n", crate::hex::encode(key(7).bytes()))).unwrap();
    let lens = [0, 1, 100, 2048, 2049, 16_384, 16_385, 40_000];
    let run = |key: &str, source: &Path, target: &Path| {
        Command::new("python3").arg(&script).arg(key).args([source, target]).output().unwrap()
    };
    for (round, sealing) in [Sealing::Key(&key(7)), Sealing::None].into_iter().enumerate() {
        let key = if round == 0 { key_file.to_str().unwrap() } else { "none" };
        for padding in [Padding::None, Padding::PowerOfTwo] {
            for len in lens {
                let name = format!("s/{len}");
                fs::write(copy.join(&name), seal(sealing, &name, &plain(len), padding).unwrap()).unwrap();
            }
            let out = dir.path().join(format!("{round} {padding:?}"));
            let ran = run(key, &copy, &out);
            assert!(ran.status.success(), "{ran:?}");
            for len in lens {
                assert_eq!(fs::read(out.join(format!("s/{len}"))).unwrap(), plain(len), "{len}");
            }
            assert!(!out.join("id").exists());
        }
        if round == 0 {
            let words = dir.path().join("words");
            fs::write(&words, format!("{}\n", *crate::keys::words::words(&self::key(7)))).unwrap();
            assert_eq!(run(words.to_str().unwrap(), &copy.join("s/100"), Path::new("s/100")).stdout, plain(100));
        }
        // One object, under its name and under another one; damaged ones are told, the others written.
        assert_eq!(run(key, &copy.join("s/100"), Path::new("s/100")).stdout, plain(100));
        assert!(!run(key, &copy.join("s/100"), Path::new("s/101")).status.success());
        let mut damaged = fs::read(copy.join("s/100")).unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(copy.join("s/100"), damaged).unwrap();
        let out = dir.path().join(format!("{round} damaged"));
        let ran = run(key, &copy, &out);
        assert!(!ran.status.success() && String::from_utf8_lossy(&ran.stderr).contains("s/100: "), "{ran:?}");
        assert!(out.join("s/1").exists() && !out.join("s/100").exists());
    }
}
