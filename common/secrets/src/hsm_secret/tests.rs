use super::*;

/// A vector of BIP39 (`vectors.json` of its reference implementation).
const WORDS: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";
/// Its seed with the passphrase `TREZOR`.
const SEED_OF_TREZOR: &str = "2e8905819b8723fe2c1d161860e5ee1830318dbf49a83bd451cfb8440c28bd6fa457fe1296106559a3c80937a1c1069be3a3a5bd381ee6260e8d9739fce1f607";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::from_first_line(text.as_bytes()).unwrap()
}

fn mnemonic_file(seed_hash: &[u8], words: &str) -> Vec<u8> {
    [seed_hash, words.as_bytes()].concat()
}

/// The error of a mnemonic.
fn refused(words: &str) -> HsmSecretError {
    HsmSecret::decode(&mnemonic_file(&[0; 32], words)).unwrap_err()
}

#[test]
fn a_seed_of_32_bytes_is_taken_as_it_is() {
    let secret = HsmSecret::decode(&[7; 32]).unwrap();
    assert_eq!((secret.form(), secret.needs_passphrase()), (HsmSecretForm::Raw, false));
    assert_eq!(secret.seed(None).unwrap().bytes(), [7; 32]);
    assert_eq!(secret.seed(Some(&passphrase("x"))).unwrap_err(), HsmSecretError::PassphraseNotNeeded);
    for len in 0..32 {
        assert_eq!(HsmSecret::decode(&vec![7; len]).unwrap_err(), HsmSecretError::TooShort { len });
    }
}

#[test]
fn a_mnemonic_gives_the_seed_of_bip39() {
    let secret = HsmSecret::decode(&mnemonic_file(&[0; 32], WORDS)).unwrap();
    assert_eq!((secret.form(), secret.needs_passphrase()), (HsmSecretForm::Mnemonic, false));
    let seed = secret.seed(None).unwrap();
    assert!(matches!(seed, Seed::Mnemonic(_)) && seed.bytes() != bytes(SEED_OF_TREZOR));
    assert_eq!(secret.seed(Some(&passphrase("x"))).unwrap_err(), HsmSecretError::PassphraseNotNeeded);
    // lightningd reads a C string.
    let ended = HsmSecret::decode(&mnemonic_file(&[0; 32], &format!("{WORDS}\0and more"))).unwrap();
    assert_eq!(ended.seed(None).unwrap().bytes(), seed.bytes());
}

#[test]
fn a_mnemonic_with_a_passphrase_gives_the_seed_of_bip39_for_the_right_one_only() {
    let seed_hash: [u8; 32] = Sha256::digest(bytes(SEED_OF_TREZOR)).into();
    let secret = HsmSecret::decode(&mnemonic_file(&seed_hash, WORDS)).unwrap();
    assert_eq!((secret.form(), secret.needs_passphrase()), (HsmSecretForm::MnemonicWithPassphrase, true));
    assert_eq!(secret.seed(Some(&passphrase("TREZOR"))).unwrap().bytes(), bytes(SEED_OF_TREZOR));
    assert_eq!(secret.seed(Some(&passphrase("trezor"))).unwrap_err(), HsmSecretError::WrongPassphrase);
    assert_eq!(secret.seed(None).unwrap_err(), HsmSecretError::PassphraseNeeded);
    // Not normalised: this "ä" is one character. The hash is that of PBKDF2 with those bytes.
    let seed_hash = bytes("fd491953b4f34a5dd97cd18175661b974740aa270498ea1a986cc4acf429204c");
    let secret = HsmSecret::decode(&mnemonic_file(&seed_hash, WORDS)).unwrap();
    assert!(secret.seed(Some(&passphrase("p\u{e4}sswort"))).is_ok());
    assert_eq!(secret.seed(Some(&passphrase("pa\u{308}sswort"))).unwrap_err(), HsmSecretError::WrongPassphrase);
}

/// Made with libsodium: `crypto_pwhash` and `crypto_secretstream_xchacha20poly1305_push`, as `encrypt_legacy_hsm_secret` calls them.
#[test]
fn an_encrypted_seed_is_that_of_libsodium() {
    let file = bytes(
        "a96250d20baed9c08bff8806007b80cbfe60a41e509a340cac0b66241f6bf02cae648beffb9f3be8748302eb250709e7fff37029f858334fb7f67a9a593a3680f1e0e63f265b3f2f78",
    );
    let secret = HsmSecret::decode(&file).unwrap();
    assert_eq!((secret.form(), secret.needs_passphrase()), (HsmSecretForm::Encrypted, true));
    assert_eq!(secret.seed(None).unwrap_err(), HsmSecretError::PassphraseNeeded);
    let seed = secret.seed(Some(&passphrase("a pass phrase\n"))).unwrap();
    assert_eq!(seed.bytes(), [b"lightning-1".as_slice(), &[0; 21]].concat());
    assert_eq!(secret.seed(Some(&passphrase("a pass phrase "))).unwrap_err(), HsmSecretError::WrongPassphrase);
}

#[test]
fn a_typo_is_named_by_its_place_and_never_by_its_word() {
    assert_eq!(refused(&WORDS.replace("year", "yeer")), HsmSecretError::UnknownWord(4));
    assert_eq!(refused(&WORDS.replace("thank year wave", "year thank wave")), HsmSecretError::Checksum);
    assert_eq!(refused(&WORDS.replace(" yellow", "")), HsmSecretError::WordCount(11));
    assert_eq!(refused(&format!("{WORDS}\n")), HsmSecretError::Spaces);
    assert_eq!(refused(&WORDS.replace("winner ", "winner  ")), HsmSecretError::Spaces);
    assert_eq!(refused(" "), HsmSecretError::WordCount(0));
    assert_eq!(HsmSecret::decode(&[0xff; 40]).unwrap_err(), HsmSecretError::NotText);
    assert!(!refused(&WORDS.replace("year", "yeer")).to_string().contains("yeer"));
}

#[test]
fn a_file_is_never_shown() {
    let shown = |bytes: &[u8]| format!("{:?}", HsmSecret::decode(bytes).unwrap());
    assert_eq!(shown(&[7; 32]), "HsmSecret(Raw)");
    assert_eq!(shown(&[7; ENCRYPTED_LEN]), "HsmSecret(Encrypted)");
    assert_eq!(shown(&mnemonic_file(&[0; 32], WORDS)), "HsmSecret(Mnemonic)");
    assert_eq!(shown(&mnemonic_file(&[1; 32], WORDS)), "HsmSecret(MnemonicWithPassphrase)");
}
