use std::net::TcpListener;
use std::time::Instant;

use jiff::SignedDuration;

use super::super::conformance_tests::{conforms, pattern};
use super::*;
use crate::testing::{Conditions, FaultyServer, Kind, Ranges, Trouble};

/// Limits that end a test soon.
fn short() -> Limits {
    let second = Duration::from_secs(1);
    Limits { connect: second, stall: second, call: Duration::from_secs(20) }
}

fn server() -> (FaultyServer, S3Store) {
    let server = FaultyServer::start();
    let store = server.store("node/1", short());
    (server, store)
}

#[test]
fn a_bucket_conforms() {
    let server = FaultyServer::start();
    for prefix in ["", "node", "a b/c"] {
        conforms(&server.store(&prefix.replace(' ', "%20"), Limits::default()));
    }
    server.set_page_len(7);
    conforms(&server.store("pages", Limits::default()));
}

#[test]
fn a_bucket_without_conditions_and_ranges_conforms() {
    let server = FaultyServer::start();
    server.set_ranges(Ranges::Ignored);
    for conditions in [Conditions::Ignored, Conditions::Refused] {
        server.set_conditions(conditions);
        let store = server.store("node", Limits::default());
        conforms(&store);
        assert_eq!(store.refuses_conditions(), conditions == Conditions::Refused);
    }
}

#[test]
fn a_bucket_that_sends_parts_with_status_200_conforms() {
    let server = FaultyServer::start();
    server.set_ranges(Ranges::As200);
    conforms(&server.store("node", Limits::default()));
}

#[test]
fn each_call_is_one_request() {
    let (server, store) = server();
    store.put_new("s/1", &pattern(1000)).unwrap();
    store.get("s/1", Some(10..20)).unwrap();
    store.list("s/").unwrap();
    store.remove("s/1").unwrap();
    let counts = server.counts();
    assert_eq!((counts.put, counts.get, counts.list, counts.delete), (1, 1, 1, 1));
    assert_eq!((counts.requests(), counts.bytes_in), (4, 1000));
}

#[test]
fn an_upload_without_an_answer_may_be_there() {
    let (server, store) = server();
    server.once(Kind::Put, Trouble::DropAfter);
    assert_eq!(store.put_new("s/1", b"x").unwrap_err().failure, Failure::Unreachable);
    assert_eq!(store.get("s/1", None).unwrap(), b"x");
    assert_eq!(store.put_new("s/1", b"x").unwrap(), Put::Exists);
    server.once(Kind::Put, Trouble::DropBefore);
    assert_eq!(store.put_new("s/2", b"x").unwrap_err().failure, Failure::Unreachable);
    assert_eq!(store.get("s/2", None).unwrap_err().failure, Failure::NotFound);
}

#[test]
fn what_is_cut_short_is_an_error_at_every_length() {
    let (server, store) = server();
    let bytes = pattern(3000);
    store.put_new("s/1", &bytes).unwrap();
    for most in [0, 1, 999, 2999] {
        server.always(None, Trouble::CutBody(most));
        assert_eq!(store.get("s/1", None).unwrap_err().failure, Failure::Unreachable, "{most}");
        assert_eq!(store.get("s/1", Some(0..3000)).unwrap_err().failure, Failure::Unreachable, "{most}");
        if most < 300 {
            assert_eq!(store.list("").unwrap_err().failure, Failure::Unreachable, "{most}");
        }
    }
    server.no_trouble();
    assert!(store.get("s/1", None).unwrap() == bytes);
}

#[test]
fn answers_are_told_apart() {
    let (server, store) = server();
    for (status, code, expected) in [
        (503, "SlowDown", Failure::Unreachable),
        (500, "InternalError", Failure::Unreachable),
        // Another upload to this name is under way: whether that is ever stored is not known.
        (409, "ConditionalRequestConflict", Failure::Unreachable),
        (403, "AccessDenied", Failure::Refused),
        (403, "RequestTimeTooSkewed", Failure::Clock),
        (404, "NoSuchBucket", Failure::NotFound),
        (507, "XMinioStorageFull", Failure::Full),
        (301, "PermanentRedirect", Failure::Refused),
    ] {
        server.always(None, Trouble::Answer(status, code));
        for error in [
            store.list("").unwrap_err(),
            store.get("s/1", None).unwrap_err(),
            store.get("s/1", Some(1..2)).unwrap_err(),
            store.put_new("s/1", b"x").unwrap_err(),
            store.replace("s/1", b"x").unwrap_err(),
            store.remove("s/1").unwrap_err(),
        ] {
            assert_eq!(error.failure, expected, "{error}");
            assert!(error.message.contains("node/1") && error.message.contains(code), "{error}");
            assert!(!error.message.contains("Signature") && !error.message.contains("faulty-"), "{error}");
        }
    }
    assert!(server.objects().is_empty());
}

#[test]
fn a_refusal_before_the_upload_is_read_is_heard() {
    let (server, store) = server();
    let bytes = pattern(OBJECT_BYTES_MAX);
    for (code, expected) in [("AccessDenied", Failure::Refused), ("QuotaExceeded", Failure::Full)] {
        server.always(Some(Kind::Put), Trouble::AnswerEarly(403, code));
        for bytes in [&bytes[..], &bytes[..ASKED_FIRST], &bytes[..1000]] {
            let error = store.put_new("s/1", bytes).unwrap_err();
            assert_eq!(error.failure, expected, "{} bytes: {error}", bytes.len());
        }
    }
    server.no_trouble();
    assert_eq!(store.put_new("s/1", &bytes).unwrap(), Put::Stored);
    server.always(Some(Kind::Put), Trouble::AnswerEarly(412, "PreconditionFailed"));
    assert_eq!(store.put_new("s/1", &bytes).unwrap(), Put::Exists);
}

#[test]
fn a_connection_that_the_server_has_ended_is_not_used_again() {
    let (server, store) = server();
    server.always(None, Trouble::CutBody(usize::MAX));
    for number in 0..20 {
        store.put_new(&format!("s/{number}"), b"x").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(store.get(&format!("s/{number}"), None).unwrap(), b"x");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_wrong_clock_is_told() {
    let (server, store) = server();
    server.set_clock_off(SignedDuration::from_hours(2));
    let error = store.put_new("s/1", b"x").unwrap_err();
    assert_eq!(error.failure, Failure::Clock);
    assert!(error.message.contains("differs by 7"), "{error}");
}

#[test]
fn wrong_credentials_are_refused_and_not_shown() {
    let server = FaultyServer::start();
    let super::super::StoreUrl::S3(url) = server.url("node") else { panic!("a bucket") };
    for (access, secret, code) in
        [("faulty-access", "geheim", "SignatureDoesNotMatch"), ("another", "geheim", "InvalidAccessKeyId")]
    {
        let store = S3Store::new(&url, &Credentials::new(access, secret, Some("token")), None, short()).unwrap();
        let error = store.list("").unwrap_err();
        assert_eq!(error.failure, Failure::Refused);
        assert!(error.message.contains(code) && error.message.contains("check the access key"), "{error}");
        for shown in [error.to_string(), format!("{error:?}"), format!("{store:?}")] {
            assert!(!shown.contains("geheim") && !shown.contains(access) && !shown.contains("token"), "{shown}");
        }
    }
}

#[test]
fn no_bucket_is_told() {
    let server = FaultyServer::start();
    let other: super::super::StoreUrl =
        server.url("x").to_string().replace("s3://bucket", "s3://none").parse().unwrap();
    let super::super::StoreUrl::S3(url) = other else { panic!("a bucket") };
    let store = S3Store::new(&url, &FaultyServer::credentials(), None, short()).unwrap();
    for error in [store.list("").unwrap_err(), store.remove("s/1").unwrap_err(), store.put_new("s/1", b"").unwrap_err()]
    {
        assert_eq!(error.failure, Failure::NotFound);
        assert!(error.message.contains("create the bucket"), "{error}");
    }
}

#[test]
fn a_server_that_hangs_is_given_up() {
    let (server, store) = server();
    server.always(None, Trouble::Hang(Duration::from_secs(4)));
    let start = Instant::now();
    let error = store.get("s/1", None).unwrap_err();
    assert_eq!(error.failure, Failure::Unreachable, "{error}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_slow_server_is_waited_for() {
    let (server, store) = server();
    server.set_delay(Duration::from_millis(300));
    store.put_new("s/1", b"x").unwrap();
    assert_eq!(store.get("s/1", None).unwrap(), b"x");
}

#[test]
fn garbage_is_an_error() {
    let (server, store) = server();
    for bytes in [
        &b"SSH-2.0-OpenSSH\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01",
        b"HTTP/1.1 200 OK\r\n\r\nwithout a length",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
        b"HTTP/1.1 206 Partial\r\ncontent-length: 2\r\n\r\nxx",
        b"HTTP/1.1 206 Partial\r\ncontent-range: bytes 0-1/2\r\ncontent-length: 1\r\n\r\nx",
        b"HTTP/1.1 206 Partial\r\ncontent-range: bytes 4-5/9\r\ncontent-length: 2\r\n\r\nxx",
        b"HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n",
        b"",
    ] {
        server.always(None, Trouble::Garbage(bytes.to_vec()));
        for error in [
            store.get("s/1", Some(0..2)).unwrap_err(),
            store.get("s/1", None).unwrap_err(),
            store.list("").unwrap_err(),
        ] {
            let kinds = [Failure::Unreachable, Failure::Protocol, Failure::Refused];
            assert!(kinds.contains(&error.failure), "{error:?} {}", String::from_utf8_lossy(bytes));
        }
    }
    let long = vec![b'x'; 1 << 20];
    server.always(None, Trouble::Garbage([b"HTTP/1.1 200 OK\r\nx: ".to_vec(), long].concat()));
    store.get("s/1", None).unwrap_err();
}

#[test]
fn an_object_larger_than_any_is_not_read() {
    let (server, store) = server();
    server.plant("node/1/x/1", vec![0; OBJECT_BYTES_MAX + 1]);
    assert_eq!(store.get("x/1", None).unwrap_err().failure, Failure::Protocol);
    assert_eq!(store.get("x/1", Some(0..3)).unwrap(), [0; 3]);
    server.set_ranges(Ranges::Ignored);
    assert_eq!(store.get("x/1", Some(0..3)).unwrap_err().failure, Failure::Protocol);
}

#[test]
fn a_list_that_does_not_end_is_ended() {
    // Of so many pages one may take long on a busy machine.
    let server = FaultyServer::start();
    let store = server.store("node/1", Limits::default());
    let page = "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><IsTruncated>true</IsTruncated>\
                <NextContinuationToken>again</NextContinuationToken></ListBucketResult>";
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len());
    server.always(None, Trouble::Garbage(answer.into_bytes()));
    assert_eq!(store.list("").unwrap_err().failure, Failure::Protocol);
}

#[test]
fn foreign_objects_are_left_out_of_the_list() {
    let (server, store) = server();
    for name in ["node/1/s/1", "node/1/a_b", "node/1/../x", "node/1/ü &<", "node/1/", "node/12/s/1", "other"] {
        server.plant(name, *b"x");
    }
    assert_eq!(store.list("").unwrap(), [Listed { name: "s/1".to_owned(), len: 1 }]);
    server.forget_newest(7);
    assert!(server.objects().is_empty());
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (endpoint, expected) in [
        (format!("http://127.0.0.1:{port}"), "refused"),
        ("https://no-such-host.invalid".to_owned(), "name of the host is not known"),
    ] {
        let url: super::super::StoreUrl = format!("s3://bucket?endpoint={endpoint}").parse().unwrap();
        let store = super::super::open(&url, Some(FaultyServer::credentials()), None).unwrap();
        let error = store.list("").unwrap_err();
        assert_eq!(error.failure, Failure::Unreachable, "{error}");
        assert!(error.message.contains(expected), "{error}");
    }
    let url: super::super::StoreUrl = "s3://bucket?endpoint=https://store.invalid".parse().unwrap();
    for scheme in ["socks5", "http"] {
        let proxy = format!("{scheme}://127.0.0.1:{port}").parse().unwrap();
        let store = super::super::open(&url, Some(FaultyServer::credentials()), Some(proxy)).unwrap();
        let error = store.list("").unwrap_err();
        assert_eq!(error.failure, Failure::Unreachable, "{error}");
        assert!(error.message.contains("proxy"), "{error}");
    }
}

#[test]
fn a_server_without_tls_is_not_the_right_one() {
    let server = FaultyServer::start();
    let url = server.url("x").to_string().replace("http://", "https://");
    let url: super::super::StoreUrl = url.parse().unwrap();
    server.always(None, Trouble::Garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    let store = super::super::open(&url, Some(FaultyServer::credentials()), None).unwrap();
    let error = store.list("").unwrap_err();
    assert!(matches!(error.failure, Failure::Identity | Failure::Unreachable), "{error:?}");
}

#[test]
fn what_is_missing_for_a_bucket_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    let url: super::super::StoreUrl = format!("s3://b?endpoint=https://h&ca={}", ca.display()).parse().unwrap();
    let open = |credentials| super::super::open(&url, credentials, None).map(|_| ()).unwrap_err().to_string();
    assert!(open(None).contains("needs credentials"));
    for text in ["", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"] {
        assert!(open(Some(FaultyServer::credentials())).contains("cannot use the certificates"));
        std::fs::write(&ca, text).unwrap();
    }
    assert!(open(Some(FaultyServer::credentials())).contains("cannot use the certificates"));
}
