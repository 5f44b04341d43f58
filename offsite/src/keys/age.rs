//! [`Recipient`] and [`Identity`] of age, and what is wrapped for them as in its X25519 recipient stanza.
//!
//! Source: c2sp.org/age, "The X25519 recipient type". A public recipient is enough to wrap a key; the secret identity unwraps it.

use std::fmt;
use std::str::FromStr;

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};
use zeroize::Zeroizing;

use crate::crypto::{Cipher, Key, NoRandomness, ONLY_NONCE, TAG_LEN, derive, random};

/// What the wrapping key is derived with.
const INFO: &[u8] = b"age-encryption.org/v1/X25519";

/// What texts begin with, without the `1` that separates it.
const RECIPIENT: &str = "age";
const IDENTITY: &str = "age-secret-key-";

/// The longest text that is read, in bytes. A recipient has 62, an identity 74.
const TEXT_MAX: usize = 90;

/// Why a text is no recipient or identity. The text is not shown: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgeKeyError {
    /// An identity where a recipient is expected.
    #[error(
        "this is an age identity, which is secret: give its recipient, which begins with age1; age-keygen -y prints it"
    )]
    IdentityGiven,
    /// A recipient where an identity is expected.
    #[error("this is an age recipient, which only encrypts: give its identity, which begins with AGE-SECRET-KEY-1")]
    RecipientGiven,
    /// Neither.
    #[error(
        "this is no key of age's own kind: recipients begin with age1 and identities with AGE-SECRET-KEY-1; keys of SSH and of age plugins cannot be used here"
    )]
    AnotherKind,
    /// The checksum of the text does not fit.
    #[error("there is a typo in this age key: its checksum is wrong; copy it again")]
    Checksum,
    /// A point that gives everybody the same secret.
    #[error(
        "this age recipient protects nothing (a point of low order), and no identity belongs to it: make one with age-keygen"
    )]
    LowOrder,
}

/// A public key: what is wrapped for it is unwrapped with its [`Identity`]. Shown as `age1…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipient([u8; 32]);

impl FromStr for Recipient {
    type Err = AgeKeyError;

    fn from_str(text: &str) -> Result<Self, AgeKeyError> {
        let recipient = Self(*bytes_of(text, RECIPIENT)?);
        // Any secret will do.
        shared(&StaticSecret::from([1; 32]), &recipient.0).map(|_| recipient).ok_or(AgeKeyError::LowOrder)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = bech32::encode_lower_to_fmt::<Bech32, _>(f, Hrp::parse_unchecked(RECIPIENT), &self.0);
        written.map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

/// A secret key. Wiped when it is dropped.
#[derive(Clone)]
pub struct Identity {
    secret: StaticSecret,
    recipient: Recipient,
}

impl Identity {
    /// Its public key.
    pub fn recipient(&self) -> Recipient {
        self.recipient
    }

    fn new(secret: StaticSecret) -> Self {
        let recipient = Recipient(PublicKey::from(&secret).to_bytes());
        Self { secret, recipient }
    }

    /// Unwraps what was wrapped for its recipient; `None` if it was wrapped for another one, or changed.
    pub(super) fn unwrap(&self, ephemeral: &[u8; 32], wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let key = wrapping_key(&shared(&self.secret, ephemeral)?, ephemeral, &self.recipient);
        let mut opened = Zeroizing::new(wrapped.to_vec());
        Cipher::new(&key).open(ONLY_NONCE, &[], &mut opened).ok()?;
        let len = opened.len() - TAG_LEN;
        opened.truncate(len);
        Some(opened)
    }
}

impl FromStr for Identity {
    type Err = AgeKeyError;

    fn from_str(text: &str) -> Result<Self, AgeKeyError> {
        bytes_of(text, IDENTITY).map(|secret| Self::new(StaticSecret::from(*secret)))
    }
}

impl fmt::Debug for Identity {
    /// The recipient only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.recipient)
    }
}

/// Wraps bytes for a recipient, under a new ephemeral key: its public half, and the encrypted bytes with their tag.
///
/// # Errors
/// When there are no random bytes.
pub(super) fn wrap(recipient: &Recipient, plain: &[u8]) -> Result<([u8; 32], Vec<u8>), NoRandomness> {
    let ephemeral = StaticSecret::from(*random()?);
    Ok(wrap_with(&ephemeral, recipient, plain))
}

fn wrap_with(ephemeral: &StaticSecret, recipient: &Recipient, plain: &[u8]) -> ([u8; 32], Vec<u8>) {
    let share = PublicKey::from(ephemeral).to_bytes();
    let Some(secret) = shared(ephemeral, &recipient.0) else {
        unreachable!("a recipient of low order is refused when it is read");
    };
    let mut wrapped = Vec::with_capacity(plain.len() + TAG_LEN);
    wrapped.extend_from_slice(plain);
    let tag = Cipher::new(&wrapping_key(&secret, &share, recipient)).seal(ONLY_NONCE, &[], &mut wrapped);
    wrapped.extend_from_slice(&tag);
    (share, wrapped)
}

/// The secret that two keys share; `None` for a public key of low order, with which it is the same for everybody.
fn shared(secret: &StaticSecret, public: &[u8; 32]) -> Option<SharedSecret> {
    Some(secret.diffie_hellman(&PublicKey::from(*public))).filter(SharedSecret::was_contributory)
}

fn wrapping_key(shared: &SharedSecret, ephemeral: &[u8; 32], recipient: &Recipient) -> Key {
    derive(shared.as_bytes(), &[ephemeral.as_slice(), &recipient.0].concat(), &[INFO])
}

/// The 32 bytes that a text encodes in Bech32.
fn bytes_of(text: &str, expected: &str) -> Result<Key, AgeKeyError> {
    let begins = |with: &str| text.get(..=with.len()).is_some_and(|it| it.eq_ignore_ascii_case(&format!("{with}1")));
    if !begins(expected) {
        return Err(match () {
            () if begins(IDENTITY) => AgeKeyError::IdentityGiven,
            () if begins(RECIPIENT) => AgeKeyError::RecipientGiven,
            () => AgeKeyError::AnotherKind,
        });
    }
    if text.len() > TEXT_MAX {
        return Err(AgeKeyError::AnotherKind);
    }
    let decoded = CheckedHrpstring::new::<Bech32>(text).map_err(|_| AgeKeyError::Checksum)?;
    if !decoded.hrp().as_str().eq_ignore_ascii_case(expected) {
        return Err(AgeKeyError::AnotherKind);
    }
    decoded.validate_segwit_padding().map_err(|_| AgeKeyError::Checksum)?;
    let mut bytes = Key::default();
    let mut from = decoded.byte_iter();
    if from.len() != bytes.len() {
        return Err(AgeKeyError::AnotherKind);
    }
    bytes.iter_mut().zip(&mut from).for_each(|(to, byte)| *to = byte);
    Ok(bytes)
}

#[cfg(test)]
mod interop_tests;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::hex;

    /// The identity of most files of age's test kit (C2SP/CCTV).
    pub(crate) const TEST_IDENTITY: &str = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";

    /// The file `x25519` of that kit: its identity, and share and body of its stanza, which were Base64.
    const IDENTITY: &str = "AGE-SECRET-KEY-1XMWWC06LY3EE5RYTXM9MFLAZ2U56JJJ36S0MYPDRWSVLUL66MV4QX3S7F6";
    const SHARE: &str = "4c4885d32a6aafe6e9bdca973720952692fb3aec0f755c0f2fb29011b1433827";
    const BODY: &str = "12610200470a37e9ff56cf526d6895f87bb4afe13c47bec375663277cde7c3b5";

    fn identity(text: &str) -> Identity {
        text.parse().unwrap()
    }

    #[test]
    fn a_stanza_of_age_is_unwrapped() {
        let (share, body) = (hex::decode(SHARE).unwrap(), hex::decode::<32>(BODY).unwrap());
        assert_eq!(*identity(IDENTITY).unwrap(&share, &body).unwrap(), b"YELLOW SUBMARINE");
        assert!(identity(TEST_IDENTITY).unwrap(&share, &body).is_none());
        for bit in 0..8 * 32 {
            let flip = |bytes: &[u8; 32]| {
                let mut flipped = *bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                flipped
            };
            // The top bit of a share is not part of the point, but of the salt.
            assert!(identity(IDENTITY).unwrap(&flip(&share), &body).is_none(), "bit {bit} of the share");
            assert!(identity(IDENTITY).unwrap(&share, &flip(&body)).is_none(), "bit {bit} of the body");
        }
        assert!(identity(IDENTITY).unwrap(&share, &body[..15]).is_none());
    }

    /// The same key wrapped here is unwrapped with the formulas of age, written once more.
    #[test]
    fn what_is_wrapped_is_a_stanza_of_age() {
        let to = identity(IDENTITY);
        let (share, body) = wrap_with(&StaticSecret::from([9; 32]), &to.recipient(), b"YELLOW SUBMARINE");
        let secret = x25519_dalek::x25519(to.secret.to_bytes(), share);
        let salt = [share, to.recipient().0].concat();
        let key = derive(&secret, &salt, &[b"age-encryption.org/v1/X25519"]);
        let mut opened = body.clone();
        Cipher::new(&key).open([0; 12], &[], &mut opened).unwrap();
        assert_eq!(&opened[..16], b"YELLOW SUBMARINE");
        let (again, _) = wrap(&to.recipient(), b"x").unwrap();
        assert_ne!(again, wrap(&to.recipient(), b"x").unwrap().0);
    }

    /// What `age-keygen -y` prints for the two identities.
    #[test]
    fn a_recipient_is_that_of_its_identity() {
        let recipient = identity(TEST_IDENTITY).recipient();
        assert_eq!(recipient.to_string(), "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef");
        let other = identity(IDENTITY).recipient().to_string();
        assert_eq!(other, "age1w3tyke4gev25vaxxsvcgqu4484rf6ejpmavs57p6yz6lhy2sfs5swrvwyn");
        assert_eq!(recipient.to_string().parse(), Ok(recipient));
        assert_eq!(recipient.to_string().to_uppercase().parse(), Ok(recipient));
        assert_eq!(
            TEST_IDENTITY.to_lowercase().parse::<Identity>().unwrap().recipient(),
            identity(TEST_IDENTITY).recipient()
        );
    }

    /// The points of low order (cr.yp.to/ecdh.html). One is the share of the file `x25519_low_order` of the test kit.
    #[test]
    fn points_of_low_order_are_refused() {
        for point in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ] {
            let point = hex::decode(point).unwrap();
            assert_eq!(Recipient(point).to_string().parse::<Recipient>(), Err(AgeKeyError::LowOrder));
            assert!(identity(TEST_IDENTITY).unwrap(&point, &[0; 48]).is_none());
        }
    }

    #[test]
    fn what_is_no_key_is_told_apart_and_not_shown() {
        let recipient = identity(TEST_IDENTITY).recipient().to_string();
        let error = |text: &str| text.parse::<Recipient>().unwrap_err();
        assert_eq!(error(TEST_IDENTITY), AgeKeyError::IdentityGiven);
        assert_eq!(recipient.parse::<Identity>().unwrap_err(), AgeKeyError::RecipientGiven);
        for at in 5..recipient.len() {
            let with = if &recipient[at..=at] == "q" { "p" } else { "q" };
            let typo = format!("{}{with}{}", &recipient[..at], &recipient[at + 1..]);
            assert_eq!(error(&typo), AgeKeyError::Checksum, "{typo}");
        }
        for text in ["", "age", "é", "agé1", "ssh-ed25519 AAAA", "age-plugin-yubikey-1q", "hello"] {
            assert_eq!(error(text), AgeKeyError::AnotherKind, "{text}");
        }
        let plugin = bech32::encode::<Bech32>(Hrp::parse("age1yubikey").unwrap(), &[2; 33]).unwrap();
        assert_eq!(error(&plugin), AgeKeyError::AnotherKind);
        for len in [0, 31, 33] {
            let text = bech32::encode::<Bech32>(Hrp::parse("age").unwrap(), &vec![9; len]).unwrap();
            assert_eq!(error(&text), AgeKeyError::AnotherKind, "{len} bytes");
        }
        assert_eq!(error(&format!("age1{}", "q".repeat(5000))), AgeKeyError::AnotherKind);
        assert_eq!(format!("{:?}", identity(TEST_IDENTITY)), format!("Identity({recipient})"));
    }
}
