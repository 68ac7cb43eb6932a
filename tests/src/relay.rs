//! A wire between two hosts: forwards a port from one network to another, counts, and breaks when it is told to.

use crate::namespace::in_network;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A port of one host that leads to the same port of another. Ends with the test.
pub struct Relay {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Bytes that went from the server to clients.
    down: u64,
    /// At which counts the connection breaks, the next first.
    cuts: Vec<u64>,
}

impl Relay {
    /// `127.0.0.1:port` of the network of process `client` leads to that of process `server`. Breaks once at each of
    /// `cuts`, counted in bytes that the server has sent in all.
    pub fn start(client: u32, server: u32, port: u16, cuts: &[u64]) -> Relay {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = in_network(client, || TcpListener::bind(address)).unwrap();
        let state = Arc::new(Mutex::new(State { down: 0, cuts: cuts.to_vec() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = in_network(server, || TcpStream::connect(address)) else { continue };
                let shared = Arc::clone(&shared);
                let (near2, far2) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || pass(near2, far2, |_| usize::MAX));
                std::thread::spawn(move || pass(far, near, |n| shared.lock().unwrap().take(n)));
            }
        });
        Relay { state }
    }

    /// Bytes that went from the server to clients so far.
    pub fn down(&self) -> u64 {
        self.state.lock().unwrap().down
    }

    /// How often it is still to break.
    pub fn cuts_left(&self) -> usize {
        self.state.lock().unwrap().cuts.len()
    }
}

impl State {
    /// How many of `n` bytes may pass; not more than there are, and the connection breaks behind them.
    fn take(&mut self, n: usize) -> usize {
        let room = self.cuts.first().map_or(u64::MAX, |cut| cut.saturating_sub(self.down));
        let n = n as u64;
        self.down += n.min(room);
        if n < room {
            return usize::MAX;
        }
        self.cuts.remove(0);
        usize::try_from(room).unwrap()
    }
}

/// Copies until either side ends or `allow` lets less pass than there is.
fn pass(mut from: TcpStream, mut to: TcpStream, allow: impl Fn(usize) -> usize) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let allowed = allow(n);
        if to.write_all(&buffer[..n.min(allowed)]).is_err() || allowed <= n {
            break;
        }
    }
    // The other direction of a broken connection ends with it; it may have ended already.
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
}
