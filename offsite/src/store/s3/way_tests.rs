//! The way to a server: TLS, and proxies.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use super::super::{Failure, StoreUrl, open};
use super::*;
use crate::testing::FaultyServer;

/// `openssl` as a server with a certificate of its own, ended with the test.
struct TlsServer {
    child: Child,
    port: u16,
}

fn openssl(directory: &Path, arguments: &[&str]) -> bool {
    let status = Command::new("openssl")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

impl TlsServer {
    /// Certificates `ca.pem`, and with it `fits.pem` for this host and `other.pem` for another one.
    fn make_certificates(directory: &Path) -> bool {
        let config = "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=test\n[ca]\nbasicConstraints=critical,CA:TRUE\n\
                      [fits]\nbasicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\n\
                      [other]\nbasicConstraints=CA:FALSE\nsubjectAltName=DNS:other.example.org\n";
        fs::write(directory.join("config"), config).unwrap();
        ["ca", "fits", "other"].into_iter().all(|name| {
            let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
            let request =
                ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3"];
            let files = ["-config", "config", "-extensions", name, "-keyout", &key, "-out", &certificate];
            let issuer: &[&str] = if name == "ca" { &[] } else { &["-CA", "ca.pem", "-CAkey", "ca.key"] };
            openssl(directory, &[&request[..], &files, issuer].concat())
        })
    }

    fn start(directory: &Path, name: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-www", "-accept", &format!("127.0.0.1:{port}")])
            .args(["-cert", &format!("{name}.pem"), "-key", &format!("{name}.key")])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, port };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn list(&self, ca: &str) -> StoreError {
        let url: StoreUrl = format!("s3://bucket?endpoint=https://127.0.0.1:{}{ca}", self.port).parse().unwrap();
        open(&url, Some(FaultyServer::credentials()), None).unwrap().list("").unwrap_err()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_certificate_that_does_not_fit_is_told() {
    let directory = tempfile::tempdir().unwrap();
    if !TlsServer::make_certificates(directory.path()) {
        eprintln!("SKIPPED: openssl (3.0 or newer) is not installed");
        return;
    }
    let ca = format!("&ca={}", directory.path().join("ca.pem").display());
    let fits = TlsServer::start(directory.path(), "fits");
    let other = TlsServer::start(directory.path(), "other");
    for (error, word) in [(fits.list(""), "ca="), (other.list(&ca), "certificate")] {
        assert_eq!(error.failure, Failure::Identity, "{error}");
        assert!(error.message.contains("not known to be the right one") && error.message.contains(word), "{error}");
    }
    // Here the certificate fits; but it is no store that answers.
    let error = fits.list(&ca);
    assert_eq!(error.failure, Failure::Protocol, "{error}");
}

/// A SOCKS5 proxy for one connection, which resolves every name to this machine; returns the name.
fn socks5(listener: &TcpListener, port: u16) -> std::io::Result<String> {
    let (mut client, _) = listener.accept()?;
    let mut greeting = [0; 2];
    client.read_exact(&mut greeting)?;
    client.read_exact(&mut vec![0; usize::from(greeting[1])])?;
    client.write_all(&[5, 0])?;
    let mut head = [0; 5];
    client.read_exact(&mut head)?;
    assert_eq!(head[..4], [5, 1, 0, 3], "a name is asked for");
    let mut name = vec![0; usize::from(head[4])];
    client.read_exact(&mut name)?;
    client.read_exact(&mut [0; 2])?;
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    client.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0])?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
    std::io::copy(&mut server, &mut client)?;
    Ok(String::from_utf8_lossy(&name).into_owned())
}

#[test]
fn a_proxy_gets_the_name_and_connects() {
    let server = FaultyServer::start();
    let StoreUrl::S3(direct) = server.url("node") else { panic!("a bucket") };
    let port = direct.endpoint.as_ref().and_then(Url::port).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("socks5://{}", listener.local_addr().unwrap()).parse().unwrap();
    let proxying = thread::spawn(move || socks5(&listener, port));
    let url: StoreUrl = format!("s3://bucket/node?endpoint=http://store.onion:{port}&insecure=yes").parse().unwrap();
    let store = open(&url, Some(FaultyServer::credentials()), Some(proxy)).unwrap();
    store.put_new("s/1", b"x").unwrap();
    assert_eq!(store.get("s/1", None).unwrap(), b"x");
    assert_eq!(server.objects().len(), 1);
    drop(store);
    drop(server);
    assert_eq!(proxying.join().unwrap().unwrap(), "store.onion");
}
