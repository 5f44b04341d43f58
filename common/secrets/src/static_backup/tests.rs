#![expect(clippy::big_endian_bytes, reason = "the numbers of Lightning's wire are big-endian")]

use proptest::prelude::*;

use super::*;

/// A channel of the older layout, from `test_recoverchannel` in `tests/test_misc.py` of Core Lightning.
const LEGACY_CHANNEL: &str = "0000000000000001c3a7b9d74a174497122bc52d74d6d69836acadc77e0429c6d8b68b48d5c9139a022d223620a359a47ff7f7ac447c85c46c923da53389221a0054c11c1e3ca31d5904017f0000019f0bc3a7b9d74a174497122bc52d74d6d69836acadc77e0429c6d8b68b48d5c9139a0000000000000000000186a000021000";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn message(kind: u16, version: u64, channels: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(channels.len()).unwrap();
    let mut message = [&kind.to_be_bytes()[..], &version.to_be_bytes(), &1_700_000_000_u32.to_be_bytes()].concat();
    message.extend(count.to_be_bytes());
    message.extend(channels.concat());
    message
}

/// A channel with this address and these TLVs.
fn channel_with(address: &[u8], tlvs: &[u8]) -> Vec<u8> {
    let mut channel = [&7_u64.to_be_bytes()[..], &[0xaa; 32], &[2; 33], address, &[0xbb; 36], &[0; 8]].concat();
    channel.extend([0, 2, 0x10, 0]);
    channel.extend(u32::try_from(tlvs.len()).unwrap().to_be_bytes());
    channel.extend(tlvs);
    channel
}

const IPV4: &[u8] = &[1, 127, 0, 0, 1, 0x26, 0x07];

fn shachain_tlv(min_index: u64, num_valid: u32, secrets: u32) -> Vec<u8> {
    let mut value = [&min_index.to_be_bytes()[..], &num_valid.to_be_bytes()].concat();
    value.extend(vec![9; 40 * usize::try_from(secrets).unwrap()]);
    let len = u16::try_from(value.len()).unwrap();
    [&[1, 0xfd][..], &len.to_be_bytes(), &value].concat()
}

fn only(decoded: Result<StaticBackup, StaticBackupError>) -> BackedUpChannel {
    let mut channels = decoded.unwrap().channels;
    assert_eq!(channels.len(), 1);
    channels.remove(0)
}

#[test]
fn the_older_layout_has_no_shachain() {
    let channel = only(StaticBackup::decode(&message(6135, 1, &[bytes(LEGACY_CHANNEL)])));
    assert_eq!(channel.row, 1);
    assert_eq!(channel.channel_id[..4], [0xc3, 0xa7, 0xb9, 0xd7]);
    assert_eq!(channel.peer[..4], [0x02, 0x2d, 0x22, 0x36]);
    assert_eq!(channel.revocations, None);
}

#[test]
fn the_shachain_is_found_between_the_other_fields() {
    let basepoints = [3, 2, 0, 0];
    let opener_delay_and_unknown = [5, 1, 1, 7, 2, 0, 6, 101, 0];
    let tlvs = [&basepoints[..], &shachain_tlv((1 << 48) - 681, 3, 3), &opener_delay_and_unknown].concat();
    let decoded = StaticBackup::decode(&message(6137, 1, &[channel_with(IPV4, &tlvs)]));
    assert_eq!(decoded.as_ref().unwrap().timestamp, 1_700_000_000);
    let channel = only(decoded);
    assert_eq!(channel.row, 7);
    assert_eq!(channel.revocations.map(Revocations::get), Some(681));
    let without = only(StaticBackup::decode(&message(6137, 1, &[channel_with(IPV4, &[])])));
    assert_eq!(without.revocations, None);
}

#[test]
fn every_kind_of_address_is_skipped() {
    let port = [0x26, 0x07];
    let of = |kind: u8, len: usize| [&[kind][..], &vec![0x61; len], &port].concat();
    let dns = [&[5, 4][..], b"node", &port].concat();
    for address in [of(1, 4), of(2, 16), of(3, 10), of(4, 35), dns] {
        let tlvs = shachain_tlv((1 << 48) - 1, 1, 1);
        let channels = [channel_with(&address, &tlvs), channel_with(IPV4, &tlvs)];
        let decoded = StaticBackup::decode(&message(6137, 1, &channels)).unwrap();
        assert!(decoded.channels.iter().all(|it| it.revocations.map(Revocations::get) == Some(1)), "{address:?}");
    }
    let unknown = StaticBackup::decode(&message(6137, 1, &[channel_with(&of(6, 4), &[])]));
    assert_eq!(unknown, Err(StaticBackupError::OtherAddress { number: 1, found: 6 }));
}

#[test]
fn what_a_newer_release_wrote_is_distinguished() {
    let decode = |bytes: &[u8]| StaticBackup::decode(bytes);
    assert_eq!(decode(&message(6139, 1, &[])), Err(StaticBackupError::OtherMessage { found: 6139 }));
    assert_eq!(decode(&message(6137, 4, &[])), Err(StaticBackupError::OtherVersion { found: 4 }));
    assert!(decode(&message(6137, 3, &[])).is_ok(), "the other half of the bits need not be known");
    let even = [channel_with(IPV4, &[2, 0])];
    assert_eq!(decode(&message(6137, 1, &even)), Err(StaticBackupError::OtherField { number: 1, found: 2 }));
    let longer = [message(6137, 1, &[channel_with(IPV4, &[])]), vec![1, 2, 3]].concat();
    assert!(decode(&longer).is_ok());
}

#[test]
fn an_impossible_shachain_is_no_number() {
    let of = |tlv: Vec<u8>| StaticBackup::decode(&message(6137, 1, &[channel_with(IPV4, &tlv)]));
    assert!(matches!(of(shachain_tlv(u64::MAX, 1, 1)), Err(StaticBackupError::Shachain { number: 1, .. })));
    assert!(matches!(of(shachain_tlv(5, u32::MAX, 1)), Err(StaticBackupError::Shachain { number: 1, .. })));
    assert_eq!(of(shachain_tlv(5, 2, 1)), Err(StaticBackupError::Short { within: "shachain" }));
}

#[test]
fn cut_anywhere_it_is_short() {
    let whole = message(6137, 1, &[channel_with(IPV4, &shachain_tlv((1 << 48) - 2, 2, 2)), channel_with(IPV4, &[])]);
    assert!(StaticBackup::decode(&whole).is_ok());
    for len in 0..whole.len() {
        let cut = StaticBackup::decode(&whole[..len]);
        assert!(matches!(cut, Err(StaticBackupError::Short { .. })), "{len} bytes: {cut:?}");
    }
    // More channels than there are bytes for.
    let mut more = message(6137, 1, &[]);
    more.splice(14..16, [0xff, 0xff]);
    assert_eq!(StaticBackup::decode(&more), Err(StaticBackupError::Short { within: "channels" }));
}

proptest! {
    #[test]
    fn no_bytes_panic(rest in proptest::collection::vec(any::<u8>(), 0..400), with_tlvs: bool) {
        let mut whole = message(if with_tlvs { 6137 } else { 6135 }, 1, &[]);
        whole.splice(14..16, [0, 3]);
        whole.extend(&rest);
        let decoded = StaticBackup::decode(&whole);
        prop_assert!(decoded.is_err() || decoded.is_ok_and(|it| it.channels.len() == 3));
        let _ = StaticBackup::decode(&rest);
    }
}
