//! Whether a request is signed with the right key, and its headers are those that were signed.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rusty_s3::Method;
use rusty_s3::signing::sign;
use url::Url;

use super::http::Request;

/// The code of the fault, if there is one.
pub(super) fn fault(request: &Request, access_key: &str, secret_key: &str) -> Option<&'static str> {
    let credential = request.option("X-Amz-Credential")?;
    if credential.split('/').next() != Some(access_key) {
        return Some("InvalidAccessKeyId");
    }
    (!is_signed(request, access_key, secret_key, credential).unwrap_or(false)).then_some("SignatureDoesNotMatch")
}

fn is_signed(request: &Request, access_key: &str, secret_key: &str, credential: &str) -> Option<bool> {
    let method = match request.method.as_str() {
        "GET" => Method::Get,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        _ => return None,
    };
    let url = Url::parse(&format!("http://{}{}", request.header("host")?, request.path)).ok()?;
    let date = DateTime::strptime("%Y%m%dT%H%M%SZ", request.option("X-Amz-Date")?).ok()?;
    let date: Timestamp = date.to_zoned(TimeZone::UTC).ok()?.timestamp();
    let expires = u64::from_str(request.option("X-Amz-Expires")?).ok()?;
    let region = credential.split('/').nth(2)?;
    let signed_headers = request.option("X-Amz-SignedHeaders")?;
    let mut headers = Vec::new();
    for name in signed_headers.split(';').filter(|name| *name != "host") {
        headers.push((name, request.header(name)?));
    }
    // What S3 knows by a header, and is not signed, does not count there.
    if request.headers.iter().any(|(name, _)| name.starts_with("x-amz-") && !signed_headers.contains(name.as_str())) {
        return Some(false);
    }
    let is_of_action = |name: &str| !name.starts_with("X-Amz-");
    let mut query: Vec<(&str, &str)> = request
        .query
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| is_of_action(name))
        .collect();
    query.sort_unstable();
    let signed = sign(
        &date,
        method,
        url,
        access_key,
        secret_key,
        request.option("X-Amz-Security-Token"),
        region,
        expires,
        query.iter().copied(),
        headers.iter().copied(),
    );
    let signature =
        signed.query_pairs().find(|(name, _)| name == "X-Amz-Signature").map(|(_, value)| value.into_owned());
    Some(signature.as_deref() == request.option("X-Amz-Signature"))
}
