//! Copies what the kernel cannot translate: `[::1]` and IPv6 clients of containers that have IPv4 only.
//!
//! One task per listening port and no process. The kernel's rules see a packet first, so a relay
//! gets only what they leave; while rules are missing after a foreign flush, the relay carries all.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tracing::debug;

use crate::spec::Protocol;

/// A UDP client is forgotten after this silence; Docker's proxy has the same figure.
const UDP_IDLE: Duration = Duration::from_secs(90);
/// Beyond this many UDP clients of one port, datagrams of new ones are dropped.
const UDP_CLIENTS: usize = 1024;
/// A container that does not answer keeps a client waiting no longer than this.
const CONNECT: Duration = Duration::from_secs(10);

/// A port held open, with the task that serves it.
///
/// The socket belongs to this value and the task only borrows it at each turn, so that the port is
/// free the moment this is dropped, not when the task is next scheduled.
#[derive(Debug)]
pub(crate) struct Relay {
    socket: Option<Served>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
#[allow(dead_code, reason = "held for its Drop")]
enum Served {
    Tcp(Arc<TcpListener>),
    Udp(Arc<UdpSocket>),
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.socket = None;
        self.task.abort();
    }
}

impl Relay {
    /// Serves the bound socket `fd`, forwarding to `to`. SCTP has no relay.
    pub(crate) fn start(
        handle: &Handle,
        proto: Protocol,
        fd: OwnedFd,
        to: SocketAddr,
    ) -> io::Result<Option<Relay>> {
        let _inside = handle.enter();
        let (served, task) = match proto {
            Protocol::Tcp => {
                let listener = Arc::new(TcpListener::from_std(fd.into())?);
                let task = handle.spawn(tcp(Arc::downgrade(&listener), to));
                (Served::Tcp(listener), task)
            }
            Protocol::Udp => {
                let socket = Arc::new(UdpSocket::from_std(fd.into())?);
                let task = handle.spawn(udp(Arc::downgrade(&socket), to));
                (Served::Udp(socket), task)
            }
            Protocol::Sctp => return Ok(None),
        };
        Ok(Some(Relay { socket: Some(served), task }))
    }
}

async fn tcp(listener: Weak<TcpListener>, to: SocketAddr) {
    // Dropping the set, with this task, ends the connections.
    let mut open = JoinSet::new();
    let accept = || {
        poll_fn(|cx| match listener.upgrade() {
            Some(l) => l.poll_accept(cx).map(Some),
            None => Poll::Ready(None),
        })
    };
    loop {
        tokio::select! {
            accepted = accept() => match accepted {
                None => return,
                Some(Ok((client, _))) => drop(open.spawn(serve(client, to))),
                Some(Err(e)) => {
                    debug!(error = %e, "relay accept");
                    // Out of descriptors: wait for some to be closed rather than spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = open.join_next() => (),
        }
    }
}

async fn serve(mut client: TcpStream, to: SocketAddr) {
    let Ok(Ok(mut server)) = tokio::time::timeout(CONNECT, TcpStream::connect(to)).await else {
        debug!(%to, "relay: container does not answer");
        return;
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    if let Err(e) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
        debug!(%to, error = %e, "relay ended");
    }
}

async fn udp(socket: Weak<UdpSocket>, to: SocketAddr) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answers: JoinSet<SocketAddr> = JoinSet::new();
    let mut buf = vec![0u8; 65536];
    loop {
        tokio::select! {
            got = receive(&socket, &mut buf) => {
                let Some(got) = got else { return };
                // An error here is one of an earlier send (port unreachable); it does not matter.
                let Ok((len, from)) = got else { continue };
                if !clients.contains_key(&from) && clients.len() < UDP_CLIENTS
                    && let Ok(server) = connect_udp(to).await
                {
                    answers.spawn(answer(socket.clone(), server.clone(), from));
                    clients.insert(from, server);
                }
                if let Some(server) = clients.get(&from) {
                    server.send(&buf[..len]).await.ok();
                }
            }
            Some(gone) = answers.join_next() => {
                if let Ok(client) = gone {
                    clients.remove(&client);
                }
            }
        }
    }
}

/// The next datagram; none when the port has been given up.
async fn receive(
    socket: &Weak<UdpSocket>,
    buf: &mut [u8],
) -> Option<io::Result<(usize, SocketAddr)>> {
    poll_fn(|cx| {
        let Some(socket) = socket.upgrade() else { return Poll::Ready(None) };
        let mut into = ReadBuf::new(buf);
        let polled = socket.poll_recv_from(cx, &mut into);
        polled.map(|from| Some(from.map(|from| (into.filled().len(), from))))
    })
    .await
}

async fn connect_udp(to: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let any: SocketAddr = if to.is_ipv4() { ([0u8; 4], 0).into() } else { ([0u8; 16], 0).into() };
    let server = UdpSocket::bind(any).await?;
    server.connect(to).await?;
    Ok(Arc::new(server))
}

async fn answer(
    to_client: Weak<UdpSocket>,
    server: Arc<UdpSocket>,
    client: SocketAddr,
) -> SocketAddr {
    let mut buf = vec![0u8; 65536];
    while let Ok(Ok(len)) = tokio::time::timeout(UDP_IDLE, server.recv(&mut buf)).await {
        let Some(socket) = to_client.upgrade() else { break };
        // A full send queue loses the datagram, as it would on the way.
        socket.try_send_to(&buf[..len], client).ok();
    }
    client
}
