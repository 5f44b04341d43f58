//! Parity: blocks from which damaged blocks of sealed files are made again.
//!
//! [`ParityLayout`] says which files a parity file is of, and where each of their blocks belongs; [`ParityTable`] has the
//! checksums of all blocks. The code itself, Reed–Solomon, is in `docs/format.md`.

use std::ops::Range;

use uuid::Uuid;

use super::Damage;
use super::FORMAT_VERSION;
use super::check_envelope;
use super::checksum;
use super::fields::Reader;
use super::names;
use crate::units::Seq;

const MAGIC: [u8; 8] = *b"BKPFSPAR";

/// Length of the header in bytes.
pub const PARITY_HEADER_LEN: usize = 56;

/// Length of a block in bytes: the unit in which damage is found and mended, and that of most disks.
pub const PARITY_BLOCK_LEN: usize = 4096;

/// Maximum number of data blocks of a stripe.
pub const STRIPE_BLOCKS_MAX: u64 = 2048;

/// Maximum number of data blocks of a parity file: those of 64 GiB.
pub const DATA_BLOCKS_MAX: u64 = 1 << 24;

/// Maximum number of members of a parity file.
pub const MEMBERS_MAX: usize = 4096;

const MEMBER_LEN: usize = 17;
const CHECKSUM_LEN: u64 = 4;

/// A file that has parity: it is never changed, only replaced as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protected {
    /// The manifest.
    Manifest,
    /// The results of the checks of snapshots.
    Checked,
    /// What segments need of dropped ones.
    Pruned,
    /// The snapshot with this seq.
    Snapshot(Seq),
    /// The segment whose first record has this seq.
    Segment(Seq),
}

impl Protected {
    /// Name of the file.
    pub fn name(self) -> String {
        match self {
            Self::Manifest => names::MANIFEST.to_owned(),
            Self::Checked => names::CHECKED.to_owned(),
            Self::Pruned => names::PRUNED.to_owned(),
            Self::Snapshot(seq) => names::snapshot(seq),
            Self::Segment(first) => names::segment(first),
        }
    }

    /// The file with this name; `None` for a file without parity.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            names::MANIFEST => Some(Self::Manifest),
            names::CHECKED => Some(Self::Checked),
            names::PRUNED => Some(Self::Pruned),
            _ => names::parse_snapshot(name)
                .map(Self::Snapshot)
                .or_else(|| names::parse_segment(name).map(Self::Segment)),
        }
    }

    fn code(self) -> (u8, u64) {
        match self {
            Self::Manifest => (1, 0),
            Self::Checked => (2, 0),
            Self::Pruned => (3, 0),
            Self::Snapshot(seq) => (4, seq.get()),
            Self::Segment(first) => (5, first.get()),
        }
    }

    fn decode(kind: u8, seq: u64) -> Result<Self, Damage> {
        match (kind, Seq::new(seq)) {
            (1, None) => Ok(Self::Manifest),
            (2, None) => Ok(Self::Checked),
            (3, None) => Ok(Self::Pruned),
            (4, Some(seq)) => Ok(Self::Snapshot(seq)),
            (5, Some(first)) => Ok(Self::Segment(first)),
            (1..=5, _) => Err(Damage::Field { field: "member seq", value: seq }),
            _ => Err(Damage::Field { field: "member kind", value: kind.into() }),
        }
    }
}

/// A file that a parity file is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The file.
    pub file: Protected,
    /// Its length in bytes; not 0.
    pub len: u64,
}

impl Member {
    /// Number of blocks, the last of which may be shorter.
    pub fn blocks(&self) -> u64 {
        self.len.div_ceil(PARITY_BLOCK_LEN as u64)
    }
}

/// The place of a block in its stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InStripe {
    /// The stripe.
    pub stripe: u64,
    /// Position among its data blocks, or among its parity blocks.
    pub position: usize,
}

/// The files that a parity file is of, and how their blocks are distributed. Data blocks are counted through all members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParityLayout {
    members: Vec<Member>,
    /// The data block that each member begins with.
    begins: Vec<u64>,
    data_blocks: u64,
    /// Number of parity blocks of each stripe.
    parity_per_stripe: usize,
}

impl ParityLayout {
    /// The layout for these members; each stripe gets `parity_per_stripe` parity blocks.
    ///
    /// # Errors
    /// When there is no member, or too many, one is empty, or the number of parity blocks is 0 or more than a stripe has data
    /// blocks at most.
    pub fn new(members: Vec<Member>, parity_per_stripe: u64) -> Result<Self, Damage> {
        if members.is_empty() || members.len() > MEMBERS_MAX {
            return Err(Damage::Field { field: "members", value: members.len() as u64 });
        }
        let (mut begins, mut data_blocks) = (Vec::with_capacity(members.len()), 0_u64);
        for member in &members {
            begins.push(data_blocks);
            let blocks = Some(member.blocks()).filter(|&blocks| 0 < blocks && blocks <= DATA_BLOCKS_MAX);
            data_blocks += blocks.ok_or(Damage::Field { field: "member length", value: member.len })?;
        }
        if data_blocks > DATA_BLOCKS_MAX {
            return Err(Damage::Field { field: "data_blocks", value: data_blocks });
        }
        match usize::try_from(parity_per_stripe) {
            Ok(parity_per_stripe @ 1..) if parity_per_stripe as u64 <= STRIPE_BLOCKS_MAX.min(data_blocks) => {
                Ok(Self { members, begins, data_blocks, parity_per_stripe })
            }
            _ => Err(Damage::Field { field: "parity blocks of a stripe", value: parity_per_stripe }),
        }
    }

    /// The members, in order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Number of data blocks.
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// Number of stripes.
    pub fn stripes(&self) -> u64 {
        self.data_blocks.div_ceil(STRIPE_BLOCKS_MAX)
    }

    /// Number of parity blocks of each stripe.
    pub fn parity_per_stripe(&self) -> usize {
        self.parity_per_stripe
    }

    /// Number of parity blocks.
    pub fn parity_blocks(&self) -> u64 {
        self.stripes() * self.parity_per_stripe as u64
    }

    /// The data blocks of a member.
    pub fn blocks_of(&self, file: Protected) -> Option<(Member, Range<u64>)> {
        let at = self.members.iter().position(|member| member.file == file)?;
        let (member, begin) = (self.members[at], self.begins[at]);
        Some((member, begin..begin + member.blocks()))
    }

    /// The member that a data block is of, and the byte of it that the block begins with.
    pub fn place_of(&self, block: u64) -> Option<(Member, u64)> {
        if block >= self.data_blocks {
            return None;
        }
        let at = self.begins.partition_point(|&begin| begin <= block).checked_sub(1)?;
        Some((*self.members.get(at)?, (block - self.begins.get(at)?) * PARITY_BLOCK_LEN as u64))
    }

    /// The place of a data block.
    pub fn stripe_of(&self, block: u64) -> InStripe {
        let stripes = self.stripes();
        // A stripe has at most STRIPE_BLOCKS_MAX of them.
        let position = usize::try_from(block / stripes).unwrap_or(usize::MAX);
        InStripe { stripe: block % stripes, position }
    }

    /// The data blocks of a stripe, in order: neighbours are in different stripes, so that each loses few of a run of damaged
    /// blocks.
    pub fn data_of(&self, stripe: u64) -> impl Iterator<Item = u64> + Clone + use<> {
        let (stripes, data_blocks) = (self.stripes(), self.data_blocks);
        (0..).map(move |position| stripe + position * stripes).take_while(move |&block| block < data_blocks)
    }

    /// The parity blocks of a stripe, in order, counted through all of the file.
    pub fn parity_of(&self, stripe: u64) -> impl Iterator<Item = u64> + Clone + use<> {
        let (stripes, count) = (self.stripes(), self.parity_per_stripe as u64);
        (0..count).map(move |position| stripe + position * stripes)
    }

    /// Length of the members and checksums, behind the header.
    pub fn table_len(&self) -> u64 {
        (self.members.len() * MEMBER_LEN) as u64 + (self.data_blocks + self.parity_blocks()) * CHECKSUM_LEN
    }

    /// The byte of the parity file that a parity block begins with.
    pub fn parity_offset(&self, parity_block: u64) -> u64 {
        PARITY_HEADER_LEN as u64 + self.table_len() + parity_block * PARITY_BLOCK_LEN as u64
    }

    /// Length of the parity file.
    pub fn file_len(&self) -> u64 {
        self.parity_offset(self.parity_blocks())
    }
}

/// The header of a parity file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParityHeader {
    /// UUID of the manifest.
    pub uuid: Uuid,
    /// Number of members.
    pub members: u32,
    /// Number of parity blocks of each stripe.
    pub parity_per_stripe: u32,
    /// Number of data blocks.
    pub data_blocks: u64,
    /// Checksum of members and checksums.
    pub table_checksum: u32,
}

impl ParityHeader {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; PARITY_HEADER_LEN] {
        let mut out = Vec::with_capacity(PARITY_HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.members.to_le_bytes());
        out.extend_from_slice(self.uuid.as_bytes());
        out.extend_from_slice(&self.data_blocks.to_le_bytes());
        out.extend_from_slice(&self.parity_per_stripe.to_le_bytes());
        out.extend_from_slice(&self.table_checksum.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of a header are PARITY_HEADER_LEN bytes")
    }

    /// Decodes a header.
    ///
    /// # Errors
    /// When the bytes are damaged, of another kind, or of a newer format.
    pub fn decode(bytes: &[u8; PARITY_HEADER_LEN]) -> Result<Self, Damage> {
        check_envelope(bytes, MAGIC, "parity file")?;
        let mut fields = Reader::new(bytes);
        fields.bytes(MAGIC.len() + 2)?;
        fields.zeros(2, "reserved")?;
        let members = fields.u32()?;
        let uuid = Uuid::from_bytes(fields.array()?);
        let (data_blocks, parity_per_stripe, table_checksum) = (fields.u64()?, fields.u32()?, fields.u32()?);
        fields.zeros(4, "reserved")?;
        let header = Self { uuid, members, parity_per_stripe, data_blocks, table_checksum };
        // Before anything of that length is read.
        match (members as usize, parity_per_stripe.into(), data_blocks) {
            (1..=MEMBERS_MAX, 1..=STRIPE_BLOCKS_MAX, 1..=DATA_BLOCKS_MAX) => Ok(header),
            (1..=MEMBERS_MAX, 1..=STRIPE_BLOCKS_MAX, _) => {
                Err(Damage::Field { field: "data_blocks", value: data_blocks })
            }
            (1..=MEMBERS_MAX, value, _) => Err(Damage::Field { field: "parity blocks of a stripe", value }),
            _ => Err(Damage::Field { field: "members", value: members.into() }),
        }
    }

    fn parity_blocks(&self) -> u64 {
        self.data_blocks.div_ceil(STRIPE_BLOCKS_MAX) * u64::from(self.parity_per_stripe)
    }

    /// Length of members and checksums.
    pub fn table_len(&self) -> u64 {
        (self.data_blocks + self.parity_blocks()) * CHECKSUM_LEN + u64::from(self.members) * MEMBER_LEN as u64
    }

    /// Length of the whole file.
    pub fn file_len(&self) -> u64 {
        PARITY_HEADER_LEN as u64 + self.table_len() + self.parity_blocks() * PARITY_BLOCK_LEN as u64
    }
}

/// Header, members and checksums of a parity file: everything but the parity blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParityTable {
    /// UUID of the manifest.
    pub uuid: Uuid,
    /// The layout.
    pub layout: ParityLayout,
    /// Checksum of each data block; the last block of a member is filled up with zeros.
    pub data: Vec<u32>,
    /// Checksum of each parity block.
    pub parity: Vec<u32>,
}

impl ParityTable {
    /// Encodes everything before the first parity block.
    pub fn encode(&self) -> Vec<u8> {
        let mut table = Vec::new();
        for Member { file, len } in &self.layout.members {
            let (kind, seq) = file.code();
            table.push(kind);
            table.extend_from_slice(&seq.to_le_bytes());
            table.extend_from_slice(&len.to_le_bytes());
        }
        for sum in self.data.iter().chain(&self.parity) {
            table.extend_from_slice(&sum.to_le_bytes());
        }
        let header = ParityHeader {
            uuid: self.uuid,
            members: u32::try_from(self.layout.members.len()).unwrap_or(u32::MAX),
            parity_per_stripe: u32::try_from(self.layout.parity_per_stripe).unwrap_or(u32::MAX),
            data_blocks: self.layout.data_blocks,
            table_checksum: checksum(&[&table]),
        };
        [&header.encode()[..], &table].concat()
    }

    /// Decodes members and checksums, which are all of `bytes`.
    ///
    /// # Errors
    /// When they are damaged, or contradict the header.
    pub fn decode(header: &ParityHeader, bytes: &[u8]) -> Result<Self, Damage> {
        let (found, computed) = (header.table_checksum, checksum(&[bytes]));
        if found != computed {
            return Err(Damage::Checksum { found, computed });
        }
        let mut fields = Reader::new(bytes);
        let mut members: Vec<Member> = Vec::new();
        for _ in 0..header.members {
            let (kind, seq, len) = (fields.u8()?, fields.u64()?, fields.u64()?);
            let file = Protected::decode(kind, seq)?;
            if members.last().is_some_and(|before| file <= before.file) {
                return Err(Damage::Contradiction("the members of a parity file are not in order"));
            }
            members.push(Member { file, len });
        }
        let layout = ParityLayout::new(members, header.parity_per_stripe.into())?;
        if layout.data_blocks != header.data_blocks || layout.table_len() != bytes.len() as u64 {
            return Err(Damage::Contradiction("a parity file has not as many checksums as its members have blocks"));
        }
        let sums = fields.rest().chunks_exact(4).map(|sum| u32::from_le_bytes(*sum.first_chunk().unwrap_or(&[0; 4])));
        let data_blocks = usize::try_from(layout.data_blocks).unwrap_or(usize::MAX);
        let (data, parity) = (sums.clone().take(data_blocks).collect(), sums.skip(data_blocks).collect());
        Ok(Self { uuid: header.uuid, layout, data, parity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(number: u64) -> Seq {
        Seq::new(number).unwrap()
    }

    fn sample() -> ParityTable {
        let members = vec![
            Member { file: Protected::Segment(seq(1)), len: 9000 },
            Member { file: Protected::Segment(seq(901)), len: 4096 },
            Member { file: Protected::Segment(seq(1803)), len: 1 },
        ];
        let layout = ParityLayout::new(members, 2).unwrap();
        ParityTable { uuid: Uuid::from_u128(7), layout, data: (0..5).collect(), parity: vec![10, 11] }
    }

    fn decode(bytes: &[u8]) -> Result<ParityTable, Damage> {
        let (header, table) = bytes.split_first_chunk().ok_or(Damage::Compression)?;
        ParityTable::decode(&ParityHeader::decode(header)?, table)
    }

    #[test]
    fn decodes_what_it_encodes() {
        let table = sample();
        let bytes = table.encode();
        assert_eq!(bytes.len() as u64, table.layout.parity_offset(0));
        assert_eq!(decode(&bytes), Ok(table));
    }

    #[test]
    fn rejects_every_flipped_bit_and_every_cut() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn each_block_is_in_one_stripe_and_one_member() {
        for (lens, stripes) in
            [(vec![1], 1), (vec![9000, 4096, 1], 1), (vec![2048 * 4096], 1), (vec![2048 * 4096 + 1], 2)]
        {
            let members =
                lens.iter().zip(1..).map(|(&len, first)| Member { file: Protected::Segment(seq(first)), len });
            let layout = ParityLayout::new(members.collect(), 1).unwrap();
            assert_eq!(layout.stripes(), stripes);
            let mut blocks: Vec<u64> = (0..stripes).flat_map(|stripe| layout.data_of(stripe)).collect();
            blocks.sort_unstable();
            assert!(blocks.into_iter().eq(0..layout.data_blocks()));
            for block in 0..layout.data_blocks() {
                let InStripe { stripe, position } = layout.stripe_of(block);
                assert_eq!(layout.data_of(stripe).nth(position), Some(block));
                let (member, offset) = layout.place_of(block).unwrap();
                let (again, range) = layout.blocks_of(member.file).unwrap();
                assert_eq!((again, range.start + offset / 4096), (member, block));
                assert!(offset < member.len);
            }
            assert_eq!(layout.place_of(layout.data_blocks()), None);
        }
    }

    #[test]
    fn names_of_protected_files_are_parsed_back() {
        for file in [
            Protected::Manifest,
            Protected::Checked,
            Protected::Pruned,
            Protected::Snapshot(seq(3)),
            Protected::Segment(seq(u64::MAX)),
        ] {
            assert_eq!(Protected::parse(&file.name()), Some(file));
            let (kind, seq) = file.code();
            assert_eq!(Protected::decode(kind, seq), Ok(file));
        }
        assert_eq!(Protected::parse("log-00000000000000000001"), None);
        assert!(
            Protected::decode(6, 0).is_err() && Protected::decode(1, 1).is_err() && Protected::decode(5, 0).is_err()
        );
    }
}
