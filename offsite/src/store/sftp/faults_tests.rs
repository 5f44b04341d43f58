use std::io::ErrorKind;

use super::super::StoreUrl;
use super::connection::Broken;
use super::faults::Fault;
use super::packets::status;
use super::{Failure, SftpUrl};

fn url(text: &str) -> SftpUrl {
    let StoreUrl::Sftp(url) = text.parse().unwrap() else { panic!("a directory of a server") };
    url
}

#[test]
fn what_ssh_says_is_told_apart() {
    for (said, expected, way_out) in [
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\r\nHost key verification failed.\r\n",
            Failure::Identity,
            "ssh-keygen -R '[nas]:2222'",
        ),
        (
            "No ED25519 host key is known for nas and you have requested strict checking.\r\nHost key verification failed.",
            Failure::Identity,
            "ssh -p 2222 me@nas",
        ),
        ("me@nas: Permission denied (publickey).\r\n", Failure::Refused, "public key"),
        ("Received disconnect from ::1: Too many authentication failures", Failure::Refused, "public key"),
        ("subsystem request failed on channel 0\r\n", Failure::Refused, "turn it on"),
        ("/x: line 1: Bad configuration option: foo\r\n", Failure::Refused, "configuration"),
        (
            "ssh: Could not resolve hostname nas: Name or service not known\r\n",
            Failure::Unreachable,
            "name of the server",
        ),
        ("ssh: connect to host nas port 22: Connection refused\r\n", Failure::Unreachable, "Connection refused"),
        ("ssh: connect to host nas port 22: Connection timed out\r\n", Failure::Unreachable, "network"),
        ("Timeout, server nas not responding.\r\n", Failure::Unreachable, "not responding"),
        ("", Failure::Unreachable, "try again"),
        ("odd\u{1b}[31m", Failure::Unreachable, "(ssh says: odd[31m)"),
    ] {
        let (failure, reason) = Fault::Broken(Broken::Ended(said.to_owned())).explain(&url("sftp://me@nas:2222/srv"));
        assert_eq!(failure, expected, "{said}");
        assert!(reason.contains(way_out), "{reason}");
        assert!(!reason.contains('\u{1b}'));
    }
}

#[test]
fn what_the_server_says_is_told_apart() {
    for (fault, expected) in [
        (Fault::Status(status::NO_SUCH_FILE), Failure::NotFound),
        (Fault::Status(status::PERMISSION_DENIED), Failure::Refused),
        (Fault::Status(status::FAILURE), Failure::Unreachable),
        (Fault::Status(status::NO_SPACE), Failure::Full),
        (Fault::Status(status::QUOTA_EXCEEDED), Failure::Full),
        (Fault::Status(status::UNSUPPORTED), Failure::Protocol),
        (Fault::Status(u32::MAX), Failure::Unreachable),
        (Fault::Full, Failure::Full),
        (Fault::NoBase, Failure::NotFound),
        (Fault::Odd, Failure::Protocol),
        (Fault::Broken(Broken::Late), Failure::Unreachable),
        (Fault::Broken(Broken::Protocol), Failure::Protocol),
        (Fault::Broken(Broken::NotStarted(ErrorKind::NotFound)), Failure::Unreachable),
    ] {
        let (failure, reason) = fault.explain(&url("sftp://nas/srv"));
        assert_eq!(failure, expected, "{reason}");
    }
}
