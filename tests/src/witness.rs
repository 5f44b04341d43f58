//! A node with keys and channels, as `preflight` looks at them: `hsm_secret`, `emergency.recover`, and lightningd's tables.

use std::fs;
use std::path::Path;

use crypto_secretstream::{Key, PushStream, Tag};
use rand_core::OsRng;
use rusqlite::Connection;
use secrets::derive::{make_secret, node_id};
use secrets::seed::Seed;
use zeroize::Zeroizing;

/// The seed of the node.
pub const SEED: [u8; 32] = [7; 32];

/// A channel of `emergency.recover`.
#[derive(Debug, Clone, Copy)]
pub struct WitnessChannel {
    /// All 32 bytes of its id.
    pub id: u8,
    /// The revocations that the peer has sent.
    pub revocations: u64,
}

fn seed(bytes: [u8; 32]) -> Seed {
    Seed::Raw(Zeroizing::new(bytes))
}

/// The id of the node with this seed, in hexadecimal.
pub fn node_id_of(bytes: [u8; 32]) -> String {
    let id = node_id(&seed(bytes)).expect("a valid seed");
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of an `emergency.recover` of the node with this seed, as `plugins/chanbackup.c` of Core Lightning writes them.
pub fn emergency_recover(bytes: [u8; 32], channels: &[WitnessChannel]) -> Vec<u8> {
    let (header, mut stream) = PushStream::init(OsRng, &Key::from(*make_secret(&seed(bytes), b"scb secret")));
    let mut message = decrypted(channels);
    stream.push(&mut message, &[], Tag::Message).expect("encryption");
    [header.as_ref().as_slice(), &message].concat()
}

/// The message in it: `static_chan_backup_with_tlvs` of `common/scb_wire.csv`.
#[expect(clippy::big_endian_bytes, reason = "the numbers of Lightning's wire are big-endian")]
pub fn decrypted(channels: &[WitnessChannel]) -> Vec<u8> {
    let count = u16::try_from(channels.len()).expect("a few channels");
    let mut message = [&6137_u16.to_be_bytes()[..], &1_u64.to_be_bytes(), &1_700_000_000_u32.to_be_bytes()].concat();
    message.extend(count.to_be_bytes());
    for channel in channels {
        message.extend(1_u64.to_be_bytes());
        message.extend([channel.id; 32]);
        message.extend([2; 33]);
        message.extend([1, 127, 0, 0, 1, 0x26, 0x07]);
        message.extend([0xbb; 36 + 8]);
        message.extend([0, 2, 0x10, 0]);
        let known = u32::from(channel.revocations > 0);
        let mut tlv = [&((1_u64 << 48) - channel.revocations).to_be_bytes()[..], &known.to_be_bytes()].concat();
        tlv.extend(vec![9; 40 * usize::try_from(known).expect("a few")]);
        let tlv_len = u8::try_from(tlv.len()).expect("a short TLV");
        message.extend((u32::from(tlv_len) + 2).to_be_bytes());
        message.extend([1, tlv_len]);
        message.extend(tlv);
    }
    message
}

/// Writes `hsm_secret` and `emergency.recover` to a lightning-dir.
pub fn write_files(lightning_dir: &Path, channels: &[WitnessChannel]) {
    write_private(&lightning_dir.join("hsm_secret"), &SEED);
    write_private(&lightning_dir.join("emergency.recover"), &emergency_recover(SEED, channels));
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    let _ = fs::remove_file(path);
    fs::write(path, bytes).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o400)).expect("its mode");
}

/// The statements that create the tables of lightningd that are read, with one open channel.
pub fn tables(channel: WitnessChannel) -> Vec<String> {
    let WitnessChannel { id, revocations } = channel;
    let min_index = (1_u64 << 48) - revocations;
    vec![
        "CREATE TABLE blocks (height INT);".to_owned(),
        "CREATE TABLE shachains (id INTEGER, min_index INTEGER, num_valid INTEGER, PRIMARY KEY (id));".to_owned(),
        "CREATE TABLE channels (id INTEGER, full_channel_id BLOB, state INTEGER, next_index_local INTEGER, \
         shachain_remote_id INTEGER, PRIMARY KEY (id));"
            .to_owned(),
        "CREATE TABLE channel_htlcs (id INTEGER, channel_id INTEGER, cltv_expiry INTEGER, msatoshi INTEGER, hstate INTEGER, \
         PRIMARY KEY (id));"
            .to_owned(),
        "INSERT INTO blocks VALUES (117);".to_owned(),
        format!("INSERT INTO shachains VALUES (1, {min_index}, 1);"),
        format!("INSERT INTO channels VALUES (1, x'{}', 3, 5, 1);", format!("{id:02x}").repeat(32)),
    ]
}

/// A database of the node, at version 7, with one open channel.
pub fn write_database(path: &Path, channel: WitnessChannel) -> Connection {
    let connection = Connection::open(path).expect("a database");
    let vars = "CREATE TABLE vars (name TEXT, val TEXT, intval INTEGER, blobval BLOB, PRIMARY KEY (name)); \
                INSERT INTO vars (name, intval) VALUES ('data_version', 7);";
    let id = format!("INSERT INTO vars (name, blobval) VALUES ('node_id', x'{}');", node_id_of(SEED));
    connection.execute_batch(&[vars, &id, &tables(channel).concat()].concat()).expect("tables");
    connection
}
