//! [`Proxy`]: a way to a store through another server.

use std::fmt;
use std::str::FromStr;

use ureq::ProxyProtocol;

/// A proxy: `socks5://HOST:PORT` (Tor, for one; names are resolved there) or `http://HOST:PORT`.
#[derive(Clone)]
pub struct Proxy(ureq::Proxy);

/// A text that names no proxy. It is not shown, for it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the proxy is not understood: write socks5://HOST:PORT or http://HOST:PORT")]
pub struct ProxyError;

impl FromStr for Proxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let url = ::url::Url::parse(text).map_err(|_| ProxyError)?;
        let protocol = match url.scheme() {
            "socks5" => ProxyProtocol::Socks5,
            "http" => ProxyProtocol::Http,
            "https" => ProxyProtocol::Https,
            _ => return Err(ProxyError),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(ProxyError)?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(ProxyError);
        }
        // Not by the library's own reading: it would resolve names on this machine for SOCKS5.
        let mut builder = ureq::Proxy::builder(protocol).host(host).resolve_target(false);
        builder = match (url.port(), protocol) {
            (Some(port), _) => builder.port(port),
            (None, ProxyProtocol::Socks5) => builder.port(1080),
            (None, _) => builder,
        };
        if !url.username().is_empty() {
            builder = builder.username(&decoded(url.username())?);
        }
        if let Some(password) = url.password() {
            builder = builder.password(&decoded(password)?);
        }
        builder.build().map(Self).map_err(|_| ProxyError)
    }
}

fn decoded(text: &str) -> Result<String, ProxyError> {
    let text = percent_encoding::percent_decode_str(text).decode_utf8().map_err(|_| ProxyError)?;
    Ok(text.into_owned())
}

impl Proxy {
    /// The proxy as the library for HTTP wants it.
    pub(super) fn for_http(&self) -> ureq::Proxy {
        self.0.clone()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.0.protocol() {
            ProxyProtocol::Http => "http",
            ProxyProtocol::Https => "https",
            _ => "socks5",
        };
        write!(f, "{scheme}://{}:{}", self.0.host(), self.0.port())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_and_shown_without_their_passwords() {
        for (text, shown) in [
            ("socks5://127.0.0.1:9050", "socks5://127.0.0.1:9050"),
            ("socks5://127.0.0.1", "socks5://127.0.0.1:1080"),
            ("http://me:geheim@proxy.example.org:3128/", "http://proxy.example.org:3128"),
        ] {
            let proxy: Proxy = text.parse().unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert_eq!(format!("{proxy:?}"), format!("Proxy({shown})"));
            assert!(!proxy.for_http().resolve_target());
        }
    }

    #[test]
    fn a_typo_is_refused() {
        for text in [
            "",
            "127.0.0.1:9050",
            "socks://127.0.0.1:9050",
            "socks5://",
            "http://h/path",
            "http://h?x",
            "http:/h:99999",
        ] {
            assert!(text.parse::<Proxy>().is_err(), "{text}");
        }
    }
}
