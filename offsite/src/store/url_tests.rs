use proptest::prelude::*;

use super::url::{StoreUrl, Style, Transport, UrlError};

fn parse(text: &str) -> Result<StoreUrl, UrlError> {
    text.parse()
}

#[test]
fn urls_are_read_and_written() {
    for (text, shown) in [
        ("/mnt/disk/copy/", "file:///mnt/disk/copy"),
        ("/mnt/100%", "file:///mnt/100%25"),
        ("file:///mnt/a%20b", "file:///mnt/a%20b"),
        ("file://localhost/mnt", "file:///mnt"),
        ("FILE:///mnt", "file:///mnt"),
        ("sftp://nas/srv/node/", "sftp://nas/srv/node"),
        ("sftp://me@nas:2222/srv", "sftp://me@nas:2222/srv"),
        ("sftp://nas/~/node", "sftp://nas/~/node"),
        ("sftp://[::1]:22/srv", "sftp://[::1]:22/srv"),
        ("sftp://nas/a%20b?config=/etc/x%26y", "sftp://nas/a%20b?config=/etc/x%26y"),
        ("s3://b/node?endpoint=https://s3.example.org/", "s3://b/node?endpoint=https://s3.example.org"),
        ("s3://b?region=eu-central-1", "s3://b?region=eu-central-1"),
        ("s3://b/a/b/?region=eu-central-1&style=virtual", "s3://b/a/b?region=eu-central-1"),
        ("s3://a.b?region=eu-central-1&style=path", "s3://a.b?region=eu-central-1"),
        (
            "s3://b?style=virtual&endpoint=https%3A%2F%2Fs3.example.org&region=auto&ca=/etc/ca.pem",
            "s3://b?endpoint=https://s3.example.org&region=auto&style=virtual&ca=/etc/ca.pem",
        ),
        ("s3://b?endpoint=http://127.0.0.1:9000", "s3://b?endpoint=http://127.0.0.1:9000"),
        ("s3://b?endpoint=http://[::1]:9000", "s3://b?endpoint=http://%5B::1%5D:9000"),
        ("s3://b?endpoint=http://nas:9000&insecure=yes", "s3://b?endpoint=http://nas:9000&insecure=yes"),
    ] {
        let url = parse(text).unwrap();
        assert_eq!(url.to_string(), shown);
        assert_eq!(parse(shown).unwrap(), url);
    }
    let StoreUrl::S3(url) = parse("s3://b/p?endpoint=https://h").unwrap() else { panic!("a bucket") };
    assert_eq!((url.style, url.transport, url.region.as_str()), (Style::Path, Transport::Secured, "us-east-1"));
}

#[test]
fn a_typo_is_named() {
    for (text, expected) in [
        ("", "should begin with s3://"),
        ("backup", "should begin with s3://"),
        ("s3:/b/p", "should begin with s3://"),
        ("http://nas/x", "should begin with s3://"),
        ("file://mnt/x", "with three /"),
        ("file:///a/../b", "without `..`"),
        ("file:///a%00b", "absolute path"),
        ("file:///a?x=1", "the option \"x\" of the URL is unknown: file URLs have none"),
        ("file:///a#b", "%23"),
        ("s3://", "the bucket"),
        ("s3:///p?endpoint=https://h", "the bucket"),
        ("s3://b ucket/p?endpoint=https://h", "the bucket"),
        ("s3://b/p", "endpoint of the URL is missing"),
        ("s3://b/p?endpoint=s3.example.org", "endpoint of the URL is not a URL"),
        ("s3://b/p?endpoint=ftp://h", "should begin with https://"),
        ("s3://b/p?endpoint=https://h/?x", "endpoint of the URL should be just"),
        ("s3://b/p?endpoint=http://nas", "insecure=yes"),
        ("s3://b/p?endpoint=http://127.0.0.1.example.org", "insecure=yes"),
        ("s3://b/p?endpoint=https://h&endpont=x", "the option \"endpont\""),
        ("s3://b/p?endpoint=https://h&region=", "twice or without a value: region"),
        ("s3://b/p?endpoint=https://h&region=a&region=b", "twice or without a value: region"),
        ("s3://b/p?endpoint=https://h&region=a/b", "region of the URL should be"),
        ("s3://b/p?endpoint=https://h&style=dns", "path or virtual"),
        ("s3://b/p?endpoint=https://h&ca=ca.pem", "ca of the URL should be an absolute path"),
        ("s3://b/p?endpoint=https://h&insecure=true", "yes or no"),
        ("s3://b//p?endpoint=https://h", ""),
        ("s3://b/a/../p?endpoint=https://h", "the prefix"),
        ("s3://b/%ff?endpoint=https://h", "not UTF-8"),
        ("s3://b/%0a?endpoint=https://h", "control characters"),
        ("sftp://nas", "the path of the URL is missing"),
        ("sftp://nas/", "the path of the URL is missing"),
        ("sftp:///srv", "the host"),
        ("sftp://-oProxyCommand=x/srv", "the host"),
        ("sftp://-x@nas/srv", "the user"),
        ("sftp://@nas/srv", "the user"),
        ("sftp://nas:0/srv", "the port"),
        ("sftp://nas:65536/srv", "the port"),
        ("sftp://nas:ssh/srv", "the port"),
        ("sftp://[::1/srv", "[ without ]"),
        ("sftp://[nas]/srv", "IPv6"),
        ("sftp://nas/a/../b", "the path"),
        ("sftp://nas/srv?port=22", "the option \"port\" of the URL is unknown: sftp URLs have config"),
    ] {
        match parse(text) {
            Ok(_) => assert_eq!(expected, "", "{text}"),
            Err(error) => assert!(!expected.is_empty() && error.to_string().contains(expected), "{text}: {error}"),
        }
    }
}

#[test]
fn credentials_are_refused_and_not_shown() {
    for text in [
        "s3://AK:geheim@b/p?endpoint=https://h",
        "s3://b/p?endpoint=https://AK:geheim@h",
        "s3://b/p?endpoint=https://h&secret_key=geheim",
        "s3://b/p?endpoint=https://h&access_key=geheim",
        "sftp://me:geheim@nas/srv",
        "ftp://me:geheim@nas/srv",
    ] {
        let error = parse(text).unwrap_err();
        assert!(!error.to_string().contains("geheim"), "{error}");
        assert!(matches!(error, UrlError::Credentials | UrlError::Kind(_)), "{error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}", kind in prop::sample::select(vec!["", "/", "s3://", "sftp://", "file:///"])) {
        if let Ok(url) = parse(&format!("{kind}{text}")) {
            prop_assert_eq!(parse(&url.to_string()).unwrap(), url);
        }
    }

    #[test]
    fn what_is_written_is_read(
        bucket in "[a-z0-9][a-z0-9.-]{2,20}",
        prefix in "[a-zA-Z0-9 %?&=+ü]{1,10}(/[a-z]{1,5}){0,3}",
        style in prop::sample::select(vec!["", "&style=path", "&style=virtual"]),
    ) {
        let encoded = percent_encoding::utf8_percent_encode(&prefix, percent_encoding::NON_ALPHANUMERIC).to_string();
        let url = parse(&format!("s3://{bucket}/{}?endpoint=https://h:8443{style}", encoded.replace("%2F", "/"))).unwrap();
        prop_assert_eq!(parse(&url.to_string()).unwrap(), url.clone());
        let StoreUrl::S3(url) = url else { panic!("a bucket") };
        prop_assert_eq!(url.prefix, prefix);
    }
}
