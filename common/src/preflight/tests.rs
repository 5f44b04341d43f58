use std::collections::BTreeSet;

use rusqlite::Connection;

use super::*;
use crate::preflight::against_backup::between;
use crate::preflight::backup_evidence::LastRun;
use crate::preflight::channel_state::ChannelState;
use crate::preflight::finding::Bearing;
use crate::preflight::node_state::{DatabaseChannel, NodeState, NodeStateError};
use crate::preflight::report::Verdict;
use crate::preflight::revocations::Standing;
use crate::preflight::witness::WitnessSeen;
use crate::spool::{BehindSpool, SpoolStatus};
use format::units::DataVersion;
use format::version_rules::Commit;
use secrets::shachain::Revocations;
use secrets::static_backup::{BackedUpChannel, StaticBackup};

/// The parts of lightningd's tables that are read.
const TABLES: &str = "
    CREATE TABLE vars (name TEXT, intval INTEGER, blobval BLOB);
    CREATE TABLE blocks (height INT);
    CREATE TABLE shachains (id INTEGER PRIMARY KEY, min_index INTEGER, num_valid INTEGER);
    CREATE TABLE channels (id INTEGER PRIMARY KEY, full_channel_id BLOB, state INTEGER, next_index_local INTEGER,
        shachain_remote_id INTEGER);
    CREATE TABLE channel_htlcs (channel_id INTEGER, cltv_expiry INTEGER, msatoshi INTEGER, hstate INTEGER);
    INSERT INTO vars VALUES ('data_version', 7, NULL);
    INSERT INTO blocks VALUES (100), (101);
    INSERT INTO shachains VALUES (1, 281474976709975, 10), (2, 281474976710656, 0);
    INSERT INTO channels VALUES (1, zeroblob(32), 3, 679, 1), (2, NULL, 1, 1, 2), (3, x'0102030405060708091011121314151617181920212223242526272829303132', 10, 5, 2);
    INSERT INTO channel_htlcs VALUES (1, 138, 5000, 2), (1, 139, 6000, 9), (1, 139, 6000, 19), (3, 139, 6000, 2);";

fn tables() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(TABLES).unwrap();
    connection
}

fn revocations(count: u64) -> Revocations {
    Revocations::of_shachain((1 << 48) - count, u64::from(count > 0)).unwrap()
}

const OPEN: ChannelState = ChannelState::new(3);
const CLOSED: ChannelState = ChannelState::new(10);

fn state(channels: &[(u8, ChannelState, u64)]) -> NodeState {
    let channel = |&(id, state, theirs): &(u8, ChannelState, u64)| DatabaseChannel {
        channel_id: [id; 32],
        state,
        theirs: Some(revocations(theirs)),
        next_own: 1,
        fundings: BTreeSet::new(),
    };
    NodeState { last_block: None, channels: channels.iter().map(channel).collect(), htlcs: Vec::new() }
}

fn witness(seconds: u32, channels: &[(u8, Option<u64>)]) -> Witness {
    let channel = |&(id, count): &(u8, Option<u64>)| BackedUpChannel {
        row: 1,
        channel_id: [id; 32],
        peer: [2; 33],
        revocations: count.map(revocations),
    };
    Witness {
        seen: WitnessSeen {
            path: "emergency.recover".into(),
            written_at: Timestamp::from_micros(i64::from(seconds) * 1_000_000).unwrap(),
        },
        backup: StaticBackup { timestamp: seconds, channels: channels.iter().map(channel).collect() },
    }
}

/// The standings of all channels, and the verdict.
fn judged(database: &NodeState, witnesses: &[Witness]) -> (Vec<Standing>, Verdict) {
    let mut report = Report::new(Path::new("db"));
    report.add_revocations(compare_revocations(database, witnesses), witnesses);
    (report.channels.iter().map(|channel| channel.standing).collect(), report.verdict())
}

#[test]
fn what_is_read_is_what_can_still_be_lost() {
    let state = NodeState::read(&tables()).unwrap();
    assert_eq!(state.last_block, Some(101));
    let read: Vec<_> =
        state.channels.iter().map(|it| (it.state, it.theirs.map(Revocations::get), it.next_own)).collect();
    assert_eq!(read, [(OPEN, Some(681), 679), (CLOSED, Some(0), 5)], "a channel without a commitment does not count");
    let htlcs: Vec<_> = state.htlcs.iter().map(|it| (it.cltv_expiry, it.amount_msat)).collect();
    assert_eq!(htlcs, [(138, 5000)]);
    let connection = tables();
    connection.execute_batch("INSERT INTO vars VALUES ('last_processed_block', 117, NULL)").unwrap();
    assert_eq!(NodeState::read(&connection).unwrap().last_block, Some(117));
}

#[test]
fn nothing_follows_from_tables_that_are_not_those_of_lightningd() {
    let read = |sql: &str| {
        let connection = tables();
        connection.execute_batch(sql).unwrap();
        NodeState::read(&connection)
    };
    for (sql, missing) in [
        ("DROP TABLE shachains", "table shachains"),
        ("ALTER TABLE channels DROP COLUMN full_channel_id", "column full_channel_id"),
        ("ALTER TABLE channel_htlcs RENAME COLUMN hstate TO other", "column hstate"),
        ("DROP TABLE blocks; CREATE VIEW blocks AS SELECT 1 AS height", "table blocks"),
    ] {
        let error = read(sql).unwrap_err();
        assert!(matches!(error, NodeStateError::Missing(_)) && error.to_string().contains(missing), "{error}");
    }
    for sql in [
        "UPDATE channels SET full_channel_id = NULL WHERE id = 1",
        "UPDATE channels SET full_channel_id = zeroblob(31) WHERE id = 1",
        "UPDATE channels SET state = 'open' WHERE id = 1",
        "UPDATE channels SET next_index_local = -1 WHERE id = 1",
        "UPDATE channels SET shachain_remote_id = 99 WHERE id = 1",
        "UPDATE shachains SET min_index = -5 WHERE id = 1",
        "UPDATE shachains SET num_valid = NULL WHERE id = 1",
        "UPDATE channel_htlcs SET cltv_expiry = 1 << 40",
        "UPDATE channel_htlcs SET msatoshi = 'all'",
        "UPDATE blocks SET height = 'high'",
    ] {
        let error = read(sql).unwrap_err();
        assert!(matches!(error, NodeStateError::Value { .. }), "{sql}: {error}");
    }
    let impossible = read("UPDATE shachains SET num_valid = 50 WHERE id = 1").unwrap_err();
    assert!(matches!(impossible, NodeStateError::Shachain(_)), "{impossible}");
}

#[test]
fn a_database_with_fewer_revocations_is_an_old_state() {
    let of = |database, counted| judged(&state(&[(1, OPEN, database)]), &[witness(5, &[(1, counted)])]);
    assert_eq!(of(681, Some(681)), (vec![Standing::Equal], Verdict::Current));
    assert_eq!(of(683, Some(681)), (vec![Standing::Ahead { by: 2 }], Verdict::Current));
    assert_eq!(of(680, Some(681)), (vec![Standing::Behind { by: 1 }], Verdict::Stale));
    assert_eq!(of(680, None), (vec![Standing::NotCounted], Verdict::Unknown));
    let two = state(&[(1, OPEN, 5), (2, OPEN, 5)]);
    let one_behind = judged(&two, &[witness(5, &[(1, Some(9)), (2, Some(3))])]);
    assert_eq!(one_behind, (vec![Standing::Behind { by: 4 }, Standing::Ahead { by: 2 }], Verdict::Stale));
}

#[test]
fn channels_that_only_one_of_the_two_has_are_distinguished() {
    let one = state(&[(1, OPEN, 5)]);
    let more = judged(&one, &[witness(5, &[(1, Some(5)), (2, Some(3))])]);
    assert_eq!(more, (vec![Standing::Equal, Standing::NotInDatabase], Verdict::Unknown));
    let fewer = judged(&state(&[(1, OPEN, 5), (2, OPEN, 0)]), &[witness(5, &[(1, Some(5))])]);
    assert_eq!(fewer, (vec![Standing::Equal, Standing::NotInWitness], Verdict::Current));
    assert_eq!(judged(&one, &[witness(5, &[])]), (vec![Standing::NotInWitness], Verdict::Unknown));
    assert_eq!(judged(&state(&[]), &[witness(5, &[])]), (vec![], Verdict::Current));
}

#[test]
fn a_closed_channel_proves_nothing() {
    let of = |counted| judged(&state(&[(1, CLOSED, 5)]), &[witness(5, &[(1, Some(counted))])]);
    assert_eq!(of(5), (vec![Standing::Closed], Verdict::Unknown));
    assert_eq!(of(6), (vec![Standing::ClosedTooEarly], Verdict::Unknown));
    let beside_an_open_one = state(&[(1, CLOSED, 5), (2, OPEN, 7)]);
    assert_eq!(judged(&beside_an_open_one, &[witness(5, &[(2, Some(7))])]), (vec![Standing::Equal], Verdict::Current));
}

/// Before v25.05 `lightningd` deleted the shachain of a channel that it closed. Most nodes of some age have such channels.
#[test]
fn a_channel_that_was_closed_long_ago_has_no_revocations() {
    let connection = tables();
    connection.execute_batch("UPDATE channels SET shachain_remote_id = 99 WHERE id = 3").unwrap();
    let mut read = NodeState::read(&connection).unwrap();
    let closed = read.channels.pop().unwrap();
    assert_eq!((closed.state, closed.theirs), (CLOSED, None));
    let beside_an_open_one =
        NodeState { channels: vec![closed.clone(), state(&[(1, OPEN, 5)]).channels.remove(0)], ..state(&[]) };
    let mut old = witness(5, &[(1, Some(5)), (2, Some(9))]);
    assert_eq!(judged(&beside_an_open_one, &[witness(5, &[(1, Some(5))])]), (vec![Standing::Equal], Verdict::Current));
    old.backup.channels[1].channel_id = closed.channel_id;
    assert_eq!(judged(&beside_an_open_one, &[old]), (vec![Standing::Closed, Standing::Equal], Verdict::Current));
}

/// A splice revokes nothing. A database from before it does not know where the funds are.
#[test]
fn a_splice_in_between_is_not_nothing() {
    let connection = tables();
    let read = |sql: &str| {
        connection.execute_batch(sql).unwrap();
        NodeState::read(&connection).unwrap()
    };
    let before = read(
        "ALTER TABLE channels ADD funding_tx_id BLOB; ALTER TABLE channels ADD funding_tx_outnum INTEGER;
         UPDATE channels SET funding_tx_id = zeroblob(32), funding_tx_outnum = 1;
         CREATE TABLE channel_funding_inflights (channel_id INTEGER, funding_tx_id BLOB, funding_tx_outnum INTEGER)",
    );
    assert!(between(&before, &before).is_nothing());
    let signed = read("INSERT INTO channel_funding_inflights VALUES (1, zeroblob(32), 0)");
    assert_eq!((between(&before, &signed).funded, between(&signed, &signed).funded), (1, 0));
    assert!(!between(&before, &signed).is_nothing());
    let locked_in =
        read("UPDATE channels SET funding_tx_outnum = 0 WHERE id = 1; DELETE FROM channel_funding_inflights");
    assert_eq!((between(&before, &locked_in).funded, between(&signed, &locked_in).funded), (1, 0));
}

#[test]
fn of_several_witnesses_the_most_revocations_count() {
    let one = state(&[(1, OPEN, 5)]);
    let (old, new) = (|| witness(5, &[(1, Some(4)), (2, Some(1))]), || witness(6, &[(1, Some(6))]));
    // The older file has a channel that was forgotten since.
    assert_eq!(judged(&one, &[new(), old()]), (vec![Standing::Behind { by: 1 }], Verdict::Stale));
    assert_eq!(judged(&one, &[old(), new()]), (vec![Standing::Behind { by: 1 }], Verdict::Stale));
    // A clock that was wrong does not matter.
    let wrong = witness(1, &[(1, Some(6))]);
    assert!(judged(&one, &[witness(6, &[(1, Some(5))]), wrong]).1 == Verdict::Stale);
}

/// As `lightningd` leaves it when it dies in the hook, while its backup is out of reach.
#[test]
fn a_change_in_the_spool_that_was_never_committed_makes_no_old_state() {
    let verdict = |commit, version, last_run| {
        let mut report = Report::new(Path::new("db"));
        report.add(Finding::KeysFit { path: "hsm_secret".into() });
        let newest = Some(DataVersion::new(8));
        let behind = BehindSpool { path: "spool".into(), changes: 1, from_version: newest, to_version: newest, commit };
        report.add_spool(&SpoolStatus::Behind(behind), DataVersion::new(version), last_run);
        report.verdict()
    };
    assert_eq!(verdict(Commit::Unknown, 7, LastRun::On), Verdict::Current);
    assert_eq!(verdict(Commit::Unknown, 7, LastRun::Unknown), Verdict::Unknown, "it may be a copy");
    assert_eq!(verdict(Commit::Certain, 7, LastRun::On), Verdict::Stale);
    assert_eq!(verdict(Commit::Unknown, 6, LastRun::On), Verdict::Stale);
    assert_eq!(verdict(Commit::Unknown, 8, LastRun::Unknown), Verdict::Current);
}

#[test]
fn the_gravest_finding_decides() {
    let mut report = Report::new(Path::new("db"));
    assert_eq!(report.verdict(), Verdict::Unknown, "nothing was found out");
    report.add(Finding::RolledBack);
    assert_eq!(report.verdict(), Verdict::Current);
    report.add(Finding::NoWitness);
    assert_eq!(report.verdict(), Verdict::Unknown);
    report.add(Finding::BehindSpool { path: "spool".into(), newest: DataVersion::new(7) });
    assert_eq!(report.verdict(), Verdict::Stale);
    assert!(Bearing::Stale > Bearing::Unknown && Bearing::Unknown > Bearing::Note);
}
