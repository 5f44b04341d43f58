//! With the program `age` itself: what it wrapped is unwrapped, and what was wrapped here it unwraps. Of its files this has just what
//! is needed: a stanza, the header's HMAC, and one chunk.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::tests::TEST_IDENTITY;
use super::*;
use ring::hmac;

const PLAIN: &[u8] = b"a master key would be here";

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 without padding.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0u32, |number, &byte| number << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            text.push(ALPHABET[(number >> (18 - 6 * digit) & 63) as usize] as char);
        }
    }
    text
}

fn from_base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| u32::try_from(ALPHABET.iter().position(|&it| it == byte).unwrap()).unwrap();
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let number = group.iter().fold(0, |number, &byte| number << 6 | digit(byte)) << (6 * (4 - group.len()));
        let group_bytes = [number >> 16 & 255, number >> 8 & 255, number & 255].map(|byte| u8::try_from(byte).unwrap());
        bytes.extend(&group_bytes[..group.len() - 1]);
    }
    bytes
}

/// The HMAC of a header, which ends with `---`.
fn header_tag(file_key: &[u8], header: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, derive(file_key, &[], &[b"header"]).as_slice());
    base64(hmac::sign(&key, header.as_bytes()).as_ref())
}

/// The cipher of the payload, and the nonce of a chunk that is the only one.
fn payload(file_key: &[u8], nonce: &[u8]) -> (Cipher, [u8; 12]) {
    let mut only = [0; 12];
    only[11] = 1;
    (Cipher::new(&derive(file_key, nonce, &[b"payload"])), only)
}

/// Runs `age` with this input; `None`, with a line, if it is not installed.
fn age(arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let piped = || Stdio::piped();
    let Ok(mut child) = Command::new("age").args(arguments).stdin(piped()).stdout(piped()).spawn() else {
        eprintln!("SKIPPED: age is not installed, wraps for its recipients are tested with its test kit only");
        return None;
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(output.stdout)
}

#[test]
fn what_age_wraps_is_unwrapped() {
    let identity: Identity = TEST_IDENTITY.parse().unwrap();
    let Some(file) = age(&["-r", &identity.recipient().to_string()], PLAIN) else { return };
    let line = |number: usize| std::str::from_utf8(file.split(|&byte| byte == b'\n').nth(number).unwrap()).unwrap();
    let share = from_base64(line(1).strip_prefix("-> X25519 ").unwrap());
    let file_key = identity.unwrap(&share.try_into().unwrap(), &from_base64(line(2))).unwrap();
    let header = format!("{}\n{}\n{}\n---", line(0), line(1), line(2));
    assert_eq!(line(3), format!("--- {}", header_tag(&file_key, &header)));
    let body = &file[header.len() + line(3).len() - 2..];
    let (cipher, nonce) = payload(&file_key, &body[..16]);
    let mut opened = body[16..].to_vec();
    cipher.open(nonce, &[], &mut opened).unwrap();
    assert_eq!(&opened[..PLAIN.len()], PLAIN);
}

#[test]
fn age_unwraps_what_is_wrapped() {
    let identity: Identity = TEST_IDENTITY.parse().unwrap();
    let file_key = *random::<16>().unwrap();
    let (share, body) = wrap(&identity.recipient(), &file_key).unwrap();
    let header = format!("age-encryption.org/v1\n-> X25519 {}\n{}\n---", base64(&share), base64(&body));
    let nonce = *random::<16>().unwrap();
    let (cipher, chunk_nonce) = payload(&file_key, &nonce);
    let mut chunk = PLAIN.to_vec();
    let tag = cipher.seal(chunk_nonce, &[], &mut chunk);
    let head = format!("{header} {}\n", header_tag(&file_key, &header));
    let file = [head.as_bytes(), &nonce, &chunk, &tag].concat();
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("key.txt");
    std::fs::write(&key_file, TEST_IDENTITY).unwrap();
    if let Some(opened) = age(&["-d", "-i", key_file.to_str().unwrap()], &file) {
        assert_eq!(opened, PLAIN);
    }
}
