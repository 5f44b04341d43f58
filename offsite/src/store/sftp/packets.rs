//! Packets of SFTP version 3, which every server speaks: requests written, replies read within bounds.
#![expect(clippy::big_endian_bytes, reason = "the protocol's numbers are big-endian")]

/// The maximum length of a packet: the one of OpenSSH.
pub(super) const PACKET_BYTES_MAX: usize = 256 << 10;

/// The maximum length of a handle, as the protocol says.
const HANDLE_BYTES_MAX: usize = 256;

/// The version spoken.
pub(super) const VERSION: u32 = 3;

/// Extensions of OpenSSH that are used where they are offered.
pub(super) const FSYNC: &str = "fsync@openssh.com";
pub(super) const POSIX_RENAME: &str = "posix-rename@openssh.com";
pub(super) const STATVFS: &str = "statvfs@openssh.com";

/// Codes of [`Reply::Status`].
pub(super) mod status {
    pub(in super::super) const OK: u32 = 0;
    pub(in super::super) const EOF: u32 = 1;
    pub(in super::super) const NO_SUCH_FILE: u32 = 2;
    pub(in super::super) const PERMISSION_DENIED: u32 = 3;
    pub(in super::super) const FAILURE: u32 = 4;
    pub(in super::super) const UNSUPPORTED: u32 = 8;
    /// Those of later versions, which some servers send all the same.
    pub(in super::super) const NO_SUCH_PATH: u32 = 10;
    pub(in super::super) const FILE_ALREADY_EXISTS: u32 = 11;
    pub(in super::super) const WRITE_PROTECT: u32 = 12;
    pub(in super::super) const NO_SPACE: u32 = 14;
    pub(in super::super) const QUOTA_EXCEEDED: u32 = 15;
}

/// Types of packets.
mod kind {
    pub(super) const INIT: u8 = 1;
    pub(super) const VERSION: u8 = 2;
    pub(super) const OPEN: u8 = 3;
    pub(super) const CLOSE: u8 = 4;
    pub(super) const READ: u8 = 5;
    pub(super) const WRITE: u8 = 6;
    pub(super) const LSTAT: u8 = 7;
    pub(super) const FSTAT: u8 = 8;
    pub(super) const OPENDIR: u8 = 11;
    pub(super) const READDIR: u8 = 12;
    pub(super) const REMOVE: u8 = 13;
    pub(super) const MKDIR: u8 = 14;
    pub(super) const STAT: u8 = 17;
    pub(super) const RENAME: u8 = 18;
    pub(super) const STATUS: u8 = 101;
    pub(super) const HANDLE: u8 = 102;
    pub(super) const DATA: u8 = 103;
    pub(super) const NAME: u8 = 104;
    pub(super) const ATTRS: u8 = 105;
    pub(super) const EXTENDED: u8 = 200;
    pub(super) const EXTENDED_REPLY: u8 = 201;
}

/// Flags of attributes.
const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_PERMISSIONS: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_EXTENDED: u32 = 1 << 31;

/// How files are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenFor {
    Reading,
    /// A file that must not be there yet.
    WritingNew,
}

/// What the server is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request<'a> {
    Open {
        path: &'a str,
        open_for: OpenFor,
    },
    Close {
        handle: &'a [u8],
    },
    Read {
        handle: &'a [u8],
        offset: u64,
        len: u32,
    },
    Write {
        handle: &'a [u8],
        offset: u64,
        bytes: &'a [u8],
    },
    Lstat {
        path: &'a str,
    },
    Stat {
        path: &'a str,
    },
    Fstat {
        handle: &'a [u8],
    },
    OpenDirectory {
        path: &'a str,
    },
    ReadDirectory {
        handle: &'a [u8],
    },
    Remove {
        path: &'a str,
    },
    MakeDirectory {
        path: &'a str,
    },
    Rename {
        from: &'a str,
        to: &'a str,
    },
    /// [`POSIX_RENAME`].
    Replace {
        from: &'a str,
        to: &'a str,
    },
    /// [`FSYNC`].
    Sync {
        handle: &'a [u8],
    },
    /// [`STATVFS`].
    Space {
        path: &'a str,
    },
}

/// What is known about a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    /// Type and permissions, as in `st_mode`.
    pub(super) mode: Option<u32>,
    /// When it was last written, in seconds since 1970.
    pub(super) written: Option<u32>,
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Status {
        code: u32,
    },
    Handle(Vec<u8>),
    Data(Vec<u8>),
    Names(Vec<(Vec<u8>, Attributes)>),
    Attributes(Attributes),
    /// The body of the answer to an extension.
    Extended(Vec<u8>),
}

/// The first packet: the version that the client speaks.
pub(super) fn init() -> Vec<u8> {
    let mut packet = Packet::new(kind::INIT);
    packet.number(VERSION);
    packet.finish()
}

impl Request<'_> {
    /// The packet, with its length before it.
    pub(super) fn encode(&self, id: u32) -> Vec<u8> {
        let begin = |kind| {
            let mut packet = Packet::new(kind);
            packet.number(id);
            packet
        };
        let of_one = |kind, text: &[u8]| {
            let mut packet = begin(kind);
            packet.text(text);
            packet
        };
        let packet = match *self {
            Self::Open { path, open_for } => {
                let mut packet = of_one(kind::OPEN, path.as_bytes());
                match open_for {
                    OpenFor::Reading => {
                        packet.number(0x01);
                        packet.number(0);
                    }
                    OpenFor::WritingNew => {
                        // Write, create, exclusively.
                        packet.number(0x02 | 0x08 | 0x20);
                        packet.permissions(0o600);
                    }
                }
                packet
            }
            Self::Close { handle } => of_one(kind::CLOSE, handle),
            Self::Read { handle, offset, len } => {
                let mut packet = of_one(kind::READ, handle);
                packet.0.extend(offset.to_be_bytes());
                packet.number(len);
                packet
            }
            Self::Write { handle, offset, bytes } => {
                let mut packet = of_one(kind::WRITE, handle);
                packet.0.extend(offset.to_be_bytes());
                packet.text(bytes);
                packet
            }
            Self::Lstat { path } => of_one(kind::LSTAT, path.as_bytes()),
            Self::Stat { path } => of_one(kind::STAT, path.as_bytes()),
            Self::Fstat { handle } => of_one(kind::FSTAT, handle),
            Self::OpenDirectory { path } => of_one(kind::OPENDIR, path.as_bytes()),
            Self::ReadDirectory { handle } => of_one(kind::READDIR, handle),
            Self::Remove { path } => of_one(kind::REMOVE, path.as_bytes()),
            Self::MakeDirectory { path } => {
                let mut packet = of_one(kind::MKDIR, path.as_bytes());
                packet.permissions(0o700);
                packet
            }
            Self::Rename { from, to } => {
                let mut packet = of_one(kind::RENAME, from.as_bytes());
                packet.text(to.as_bytes());
                packet
            }
            Self::Replace { from, to } => {
                let mut packet = of_one(kind::EXTENDED, POSIX_RENAME.as_bytes());
                packet.text(from.as_bytes());
                packet.text(to.as_bytes());
                packet
            }
            Self::Sync { handle } => {
                let mut packet = of_one(kind::EXTENDED, FSYNC.as_bytes());
                packet.text(handle);
                packet
            }
            Self::Space { path } => {
                let mut packet = of_one(kind::EXTENDED, STATVFS.as_bytes());
                packet.text(path.as_bytes());
                packet
            }
        };
        packet.finish()
    }
}

/// A packet being written.
struct Packet(Vec<u8>);

impl Packet {
    fn new(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind])
    }

    fn number(&mut self, number: u32) {
        self.0.extend(number.to_be_bytes());
    }

    /// Texts are paths, handles and parts of objects, which are all shorter than 4 GiB.
    fn text(&mut self, text: &[u8]) {
        self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text);
    }

    fn permissions(&mut self, mode: u32) {
        self.number(HAS_PERMISSIONS);
        self.number(mode);
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len() - 4).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_be_bytes());
        self.0
    }
}

/// The length of a packet from the four bytes before it; `None` when no packet has it.
pub(super) fn packet_len(bytes: [u8; 4]) -> Option<usize> {
    let len = usize::try_from(u32::from_be_bytes(bytes)).ok()?;
    (5..=PACKET_BYTES_MAX).contains(&len).then_some(len)
}

/// Reads the server's first packet: its extensions; `None` when it is not of this version or damaged.
pub(super) fn decode_version(packet: &[u8]) -> Option<Vec<String>> {
    let mut rest = Rest(packet);
    if rest.byte()? != kind::VERSION || rest.number()? < VERSION {
        return None;
    }
    let mut extensions = Vec::new();
    while !rest.0.is_empty() {
        extensions.push(String::from_utf8_lossy(rest.text()?).into_owned());
        rest.text()?;
    }
    Some(extensions)
}

/// Reads a reply and the number of its request; `None` when it is damaged.
pub(super) fn decode(packet: &[u8]) -> Option<(u32, Reply)> {
    let mut rest = Rest(packet);
    let kind = rest.byte()?;
    let id = rest.number()?;
    let reply = match kind {
        kind::STATUS => Reply::Status { code: rest.number()? },
        kind::HANDLE => {
            let handle = rest.text()?;
            if handle.is_empty() || handle.len() > HANDLE_BYTES_MAX {
                return None;
            }
            Reply::Handle(handle.to_vec())
        }
        kind::DATA => Reply::Data(rest.text()?.to_vec()),
        kind::NAME => {
            let count = rest.number()?;
            let mut names = Vec::new();
            // Each takes bytes of the packet, so that the count cannot make this long.
            for _ in 0..count {
                let name = rest.text()?.to_vec();
                rest.text()?;
                names.push((name, rest.attributes()?));
            }
            Reply::Names(names)
        }
        kind::ATTRS => Reply::Attributes(rest.attributes()?),
        kind::EXTENDED_REPLY => Reply::Extended(rest.0.to_vec()),
        _ => return None,
    };
    Some((id, reply))
}

/// The bytes and files that the server has room for, of the answer to [`Request::Space`].
pub(super) fn decode_space(body: &[u8]) -> Option<(u64, u64)> {
    let mut rest = Rest(body);
    let mut fields = [0; 8];
    for field in &mut fields {
        *field = rest.long()?;
    }
    let [_, fragment, _, _, available, _, _, files] = fields;
    Some((fragment.saturating_mul(available), files))
}

/// What of a packet is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn long(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        self.take(len)
    }

    fn attributes(&mut self) -> Option<Attributes> {
        let flags = self.number()?;
        let size = if flags & HAS_SIZE != 0 { Some(self.long()?) } else { None };
        if flags & HAS_OWNER != 0 {
            self.take(8)?;
        }
        let mode = if flags & HAS_PERMISSIONS != 0 { Some(self.number()?) } else { None };
        let written = if flags & HAS_TIMES != 0 { Some((self.number()?, self.number()?).1) } else { None };
        if flags & HAS_EXTENDED != 0 {
            for _ in 0..self.number()? {
                self.text()?;
                self.text()?;
            }
        }
        Some(Attributes { size, mode, written })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_written_as_the_protocol_says() {
        assert_eq!(init(), [0, 0, 0, 5, 1, 0, 0, 0, 3]);
        assert_eq!(
            Request::Open { path: "a", open_for: OpenFor::WritingNew }.encode(7),
            [0, 0, 0, 22, 3, 0, 0, 0, 7, 0, 0, 0, 1, b'a', 0, 0, 0, 0x2a, 0, 0, 0, 4, 0, 0, 1, 0x80]
        );
        assert_eq!(
            Request::Read { handle: b"h", offset: 1 << 32, len: 9 }.encode(8),
            [0, 0, 0, 22, 5, 0, 0, 0, 8, 0, 0, 0, 1, b'h', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]
        );
        assert_eq!(
            Request::Write { handle: b"h", offset: 2, bytes: b"xy" }.encode(9),
            [0, 0, 0, 24, 6, 0, 0, 0, 9, 0, 0, 0, 1, b'h', 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, b'x', b'y']
        );
        let sync = Request::Sync { handle: b"h" }.encode(1);
        assert_eq!(sync[4], 200);
        assert!(sync.ends_with(b"\0\0\0\x11fsync@openssh.com\0\0\0\x01h"));
    }

    #[test]
    fn replies_are_read() {
        assert_eq!(decode(b"\x65\0\0\0\x07\0\0\0\x02"), Some((7, Reply::Status { code: 2 })));
        assert_eq!(decode(b"\x66\0\0\0\x07\0\0\0\x02ab"), Some((7, Reply::Handle(b"ab".to_vec()))));
        let names = b"\x68\0\0\0\x07\0\0\0\x01\0\0\0\x01a\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x09\0\0\x81\x80";
        let attributes = Attributes { size: Some(9), mode: Some(0o100_600), written: None };
        assert_eq!(decode(names), Some((7, Reply::Names(vec![(b"a".to_vec(), attributes)]))));
        assert_eq!(decode_version(b"\x02\0\0\0\x03\0\0\0\x01x\0\0\0\x011"), Some(vec!["x".to_owned()]));
        for len in 0..names.len() {
            assert_eq!(decode(&names[..len]), None, "{len}");
        }
    }

    #[test]
    fn lengths_that_no_packet_has_are_refused() {
        assert_eq!(packet_len([0, 0, 0, 4]), None);
        assert_eq!(packet_len([0, 0, 0, 5]), Some(5));
        assert_eq!(packet_len([0, 4, 0, 0]), Some(PACKET_BYTES_MAX));
        assert_eq!(packet_len([0, 4, 0, 1]), None);
        assert_eq!(packet_len(*b"Welc"), None);
        // Counts and lengths far behind the end of the packet.
        for packet in [
            &b"\x68\0\0\0\x07\xff\xff\xff\xff"[..],
            b"\x67\0\0\0\x07\xff\xff\xff\xff",
            b"\x66\0\0\0\x07\0\0\0\0",
            b"\x69\0\0\0\x07\x80\0\0\0\xff\xff\xff\xff",
            b"\x02\0\0\0\x02",
            b"\x01\0\0\0\x03",
        ] {
            assert_eq!(decode(packet), None);
            assert_eq!(decode_version(packet), None);
        }
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 100u8..110) {
            let _ = (decode(&bytes), decode_version(&bytes), decode_space(&bytes));
            let _ = decode(&[&[kind, 0, 0, 0, 1][..], &bytes].concat());
            let _ = decode(&[&[kind, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3][..], &bytes].concat());
        }
    }
}
