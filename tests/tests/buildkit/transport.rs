//! The ways to the door.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use wharf_test::PATIENCE;

use crate::Site;

/// How a client of HTTP/2 begins: the preface and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The kind of frame that settings are, in its place in a frame's head.
const SETTINGS: u8 = 4;

fn connect(site: &Site) -> UnixStream {
    let stream = UnixStream::connect(site.host.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn http2_is_spoken_from_the_first_byte() {
    let site = Site::start();
    let mut stream = connect(&site);
    stream.write_all(HELLO).unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[3], SETTINGS);
}

#[test]
fn connections_are_switched_on_request() {
    let site = Site::start();
    let mut stream = connect(&site);
    stream
        .write_all(b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        .unwrap();
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let mut head = vec![0; switch.len()];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head, switch);
    stream.write_all(HELLO).unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[3], SETTINGS);
}

#[test]
fn other_switches_are_refused() {
    let site = Site::start();
    for path in ["/grpc", "/session"] {
        let answer = site.host.api("POST", path, b"").unwrap();
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.text().contains("no upgrade proto in request"), "{path}");
    }
}
