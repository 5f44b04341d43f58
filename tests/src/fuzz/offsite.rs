//! What a reader of an off-site copy gets from a store before anything has authenticated: objects, and key files.

use offsite::keys::key_file::{KeyFile, Wrapper};
use offsite::keys::master_key::MasterKey;
use offsite::keys::node::NodeSecret;
use offsite::keys::unlock::{Unlock, unlock};
use offsite::seal::layout::{CHUNK_LEN, Layout, Padding};
use offsite::seal::{Opening, SealedObject, Sealing, open, seal};
use zeroize::Zeroizing;

/// The name of all objects.
const NAME: &str = "s/7";

/// The lengths of those that are not damaged.
const LENS: [usize; 4] = [0, 100, 3000, 40_000];

fn key() -> MasterKey {
    MasterKey::from_key(Zeroizing::new([7; 32]))
}

fn node() -> NodeSecret {
    NodeSecret::new([2; 33], Zeroizing::new([5; 32]))
}

/// An object, encrypted or not. What is opened at once is what is opened chunk by chunk.
pub(super) fn sealed_object(input: &[u8]) -> bool {
    let keys = [key()].into_iter().collect();
    [Opening::Keys(&keys), Opening::None].into_iter().any(|opening| {
        let Ok(plain) = open(opening, NAME, input) else { return false };
        let object = SealedObject::new(opening, NAME, input, input.len() as u64).expect("it was opened");
        let layout = object.layout();
        assert_eq!(Layout::of(input.len() as u64), Some(layout));
        assert_eq!(object.plain_len(), plain.len() as u64);
        for chunk in 0..layout.chunk_count() {
            let at = |position: u64| usize::try_from(position).expect("a position in the input");
            let bytes = layout.bytes_of(chunk..chunk + 1);
            let opened = object.open_chunks(chunk..chunk + 1, &input[at(bytes.start)..at(bytes.end)]);
            let start = at(chunk * CHUNK_LEN).min(plain.len());
            let end = at((chunk + 1) * CHUNK_LEN).min(plain.len());
            assert_eq!(opened.expect("it was opened"), plain[start..end]);
        }
        true
    })
}

/// A key file. What was read is the same when it is written and read again, and unlocks the right key or none.
pub(super) fn key_file(input: &[u8]) -> bool {
    match KeyFile::decode("k/x", input) {
        Ok(file) => {
            assert_eq!(KeyFile::decode("k/x", &file.encode()).as_ref(), Ok(&file));
            let id = file.key();
            if let Ok(ring) = unlock(&[file], &Unlock::Node(node())) {
                assert!(ring.ids().eq([key().id()]) && id == key().id(), "another key");
            }
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 1000, "{error}");
            false
        }
    }
}

pub(super) fn sealed_objects() -> Vec<Vec<u8>> {
    let sealed = |sealing, padding| LENS.map(|len| seal(sealing, NAME, &vec![9; len], padding).expect("random bytes"));
    let key = key();
    let kinds = [
        (Sealing::Key(&key), Padding::None),
        (Sealing::Key(&key), Padding::PowerOfTwo),
        (Sealing::None, Padding::None),
    ];
    kinds.into_iter().flat_map(|(sealing, padding)| sealed(sealing, padding)).collect()
}

pub(super) fn key_files() -> Vec<Vec<u8>> {
    let empty = KeyFile::new(&key(), 0);
    let recipient = "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef".parse().expect("a recipient");
    let mut file = empty.clone();
    file.add_wrap(&key(), Wrapper::Node(&node())).expect("a wrap");
    file.add_wrap(&key(), Wrapper::Recipient(&recipient)).expect("a wrap");
    let other = String::from_utf8(file.encode()).expect("JSON").replace(r#""kind":"age""#, r#""kind":"tpm""#);
    vec![empty.encode(), file.encode(), other.into_bytes()]
}
