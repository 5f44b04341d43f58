//! Against `moto_server`, where it is installed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use super::super::conformance_tests::conforms;
use super::super::{ConditionalPut, StoreUrl, probe_conditional_put};
use super::*;

/// A server that is ended with the test, however that ends.
struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("moto_server")
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut moto = Self { child, port };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            if moto.child.try_wait().unwrap().is_some() {
                return None;
            }
            if moto.make_bucket().is_some() {
                return Some(moto);
            }
            thread::sleep(Duration::from_millis(100));
        }
        None
    }

    fn make_bucket(&self) -> Option<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let authorization = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request";
        let head = "PUT /bucket HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\nconnection: close\r\n";
        write!(stream, "{head}authorization: {authorization}\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.contains(" 200 ").then_some(())
    }

    fn store(&self, bucket: &str) -> S3Store {
        let url: StoreUrl = format!("s3://{bucket}/node?endpoint=http://127.0.0.1:{}", self.port).parse().unwrap();
        let StoreUrl::S3(url) = url else { panic!("a bucket") };
        S3Store::new(&url, &Credentials::new("a", "b", None), None, Limits::default()).unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn moto_conforms() {
    let Some(moto) = Moto::start() else {
        eprintln!("SKIPPED: moto_server is not installed (pip install 'moto[server]')");
        return;
    };
    let store = moto.store("bucket");
    conforms(&store);
    let probed = probe_conditional_put(&store, "probe", b"probe").unwrap();
    assert!(matches!(probed, ConditionalPut::Enforced | ConditionalPut::Ignored), "{probed:?}");
    let error = moto.store("none").list("").unwrap_err();
    assert_eq!(error.failure, Failure::NotFound, "{error}");
    assert!(error.message.contains("NoSuchBucket"), "{error}");
}
