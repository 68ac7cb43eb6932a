//! The server that is measured, in a container and without one: pages on port 80, bytes on port 81.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Answer to every request; 100 bytes of body.
const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nContent-Type: text/plain\r\n\r\n\
0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

/// `xtask bench-serve`: serves until it is killed. For the bench.
pub(crate) fn serve() -> Result<bool> {
    let pages = TcpListener::bind(("0.0.0.0", 80)).context("listen on port 80")?;
    let bytes = TcpListener::bind(("0.0.0.0", 81)).context("listen on port 81")?;
    let flow = thread::spawn(move || each(&bytes, pour));
    each(&pages, answer);
    flow.join().map(|()| true).map_err(|_| anyhow::anyhow!("the byte server ended"))
}

/// A thread for each connection.
fn each(listener: &TcpListener, work: fn(TcpStream)) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || work(stream));
    }
}

/// One page for each request, until the client closes.
fn answer(mut stream: TcpStream) {
    // Small answers are not to wait for one another.
    drop(stream.set_nodelay(true));
    let mut buffer = [0; 4096];
    while let Ok(1..) = stream.read(&mut buffer) {
        if stream.write_all(PAGE).is_err() {
            break;
        }
    }
}

/// Bytes as fast as they go.
fn pour(mut stream: TcpStream) {
    let block = vec![0; 1 << 20];
    while stream.write_all(&block).is_ok() {}
}
