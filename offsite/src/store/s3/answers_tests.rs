use proptest::prelude::*;

use super::answers::{Call, Fault, list_page};
use super::*;

fn error(fault: Fault) -> StoreError {
    fault.into_error(&Call { doing: "read", name: "s/1", store: "s3://b" })
}

#[test]
fn a_refused_removal_asks_for_the_right_to_delete() {
    let refused = |doing| {
        let fault = Fault::new(403, b"<Error><Code>AccessDenied</Code><Message>m</Message></Error>", None);
        fault.into_error(&Call { doing, name: "s/1", store: "s3://b" }).message
    };
    assert!(refused("remove").contains("let these credentials delete there"), "{}", refused("remove"));
    assert!(refused("store").contains("read, write and list"), "{}", refused("store"));
}

#[test]
fn kinds_of_failure_are_told_apart() {
    for (status, code, expected) in [
        (404, "NoSuchKey", Failure::NotFound),
        (404, "NoSuchBucket", Failure::NotFound),
        (404, "", Failure::NotFound),
        (403, "AccessDenied", Failure::Refused),
        (403, "InvalidAccessKeyId", Failure::Refused),
        (403, "SignatureDoesNotMatch", Failure::Refused),
        (400, "ExpiredToken", Failure::Refused),
        (301, "PermanentRedirect", Failure::Refused),
        (407, "", Failure::Refused),
        (403, "RequestTimeTooSkewed", Failure::Clock),
        (403, "QuotaExceeded", Failure::Full),
        (507, "XMinioStorageFull", Failure::Full),
        (507, "", Failure::Full),
        (503, "SlowDown", Failure::Unreachable),
        (500, "InternalError", Failure::Unreachable),
        (502, "", Failure::Unreachable),
        (429, "", Failure::Unreachable),
        (400, "BadDigest", Failure::Unreachable),
        (400, "InvalidRequest", Failure::Protocol),
        (418, "", Failure::Protocol),
    ] {
        let body = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        let error = error(Fault::new(status, body.as_bytes(), None));
        assert_eq!(error.failure, expected, "{error}");
        let told = format!("cannot read s/1 in s3://b: the store answers {status}");
        assert!(error.message.starts_with(&told) && error.message.contains(code), "{error}");
    }
}

#[test]
fn a_wrong_clock_is_found_by_the_server_s_date() {
    let body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
    let off = error(Fault::new(403, body, Some(Duration::from_secs(5000))));
    assert_eq!(off.failure, Failure::Clock);
    assert!(off.message.contains("differs by 5000 s"), "{off}");
    assert_eq!(error(Fault::new(403, body, Some(Duration::from_secs(60)))).failure, Failure::Refused);
    let body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
    assert_eq!(error(Fault::new(403, body, None)).failure, Failure::Clock);
}

#[test]
fn a_code_is_shown_only_if_it_is_one() {
    let long = "x".repeat(65);
    for code in ["a b", "<b>", "a\u{1b}[0m", long.as_str()] {
        let error = error(Fault::new(403, format!("<Code>{code}</Code>").as_bytes(), None));
        assert!(!error.message.contains(code), "{error}");
    }
}

#[test]
fn a_page_that_is_none_is_refused() {
    let ns = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
    for text in [
        String::new(),
        "<html><body>Log in</body></html>".to_owned(),
        format!("<ListBucketResult {ns}>"),
        format!("<ListBucketResult {ns}><Contents><Key>a</Key></Contents></ListBucketResult>"),
        format!("<ListBucketResult {ns}><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>"),
        format!(
            "<ListBucketResult {ns}><Contents><Key>a</Key><Size>99999999999999999999</Size></Contents></ListBucketResult>"
        ),
        format!("<ListBucketResult {ns}><IsTruncated>true</IsTruncated></ListBucketResult>"),
    ] {
        assert!(list_page(text.as_bytes()).is_none(), "{text}");
    }
    assert!(list_page(b"\xff").is_none());
    let page = format!("<ListBucketResult {ns}><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>");
    assert_eq!(list_page(page.as_bytes()).unwrap().objects, [Listed { name: "a".to_owned(), len: 1 }]);
}

#[test]
fn a_deep_or_growing_page_is_refused() {
    let ns = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
    let deep = format!("<ListBucketResult {ns}>{}", "<a>".repeat(PAGE_BYTES_MAX / 3));
    assert!(list_page(deep.as_bytes()).is_none());
    let entities = format!(
        "<!DOCTYPE l [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\">]><ListBucketResult {ns}>\
         <Contents><Key>&b;</Key><Size>1</Size></Contents></ListBucketResult>"
    );
    assert!(list_page(entities.as_bytes()).is_none());
}

proptest! {
    #[test]
    fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), status in any::<u16>()) {
        let _ = list_page(&bytes);
        let _ = error(Fault::new(status, &bytes, None));
    }

    #[test]
    fn no_damaged_page_panics(
        parts in prop::collection::vec(prop::sample::select(vec![
            "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">", "</ListBucketResult>", "<Contents>",
            "</Contents>", "<Key>", "</Key>", "a", "%2", "%FF", "&amp;", "&", "<Size>", "</Size>", "5", "<x:y>", "</x:y>", "<x:y/>",
            "<x:ListBucketResult>", "<!--", "-->", "<![CDATA[", "]]>", "<?xml", "?>", "xmlns:x=\"", "\"", "<IsTruncated>true</IsTruncated>",
            "<NextContinuationToken>", "</NextContinuationToken>", "<EncodingType>url</EncodingType>", "\0", "ü",
        ]), 0..40),
    ) {
        let _ = list_page(parts.concat().as_bytes());
    }
}
