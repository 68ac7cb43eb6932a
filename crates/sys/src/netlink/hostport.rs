//! Host ports held by a bound socket, so that nobody else on the host gets them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

/// The transport of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Listens.
    Tcp,
    /// Is bound.
    Udp,
    /// Is bound.
    Sctp,
}

/// Binds `ip:port` without sharing it, non-blocking; port 0 takes what the kernel offers. An IPv6 socket takes IPv6 only.
///
/// TCP listens, because only a listening socket both allows `SO_REUSEADDR` (flows of a former
/// listener that wind down are no reason to refuse) and keeps others out who set it as well.
/// SCTP does not: nobody would ever accept what reaches the socket untranslated, and unless it listens the
/// kernel refuses the client at once.
pub fn reserve(transport: Transport, ip: IpAddr, port: u16) -> io::Result<OwnedFd> {
    const BACKLOG: i32 = 1024;
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol) = match transport {
        Transport::Tcp => (SocketType::STREAM, ipproto::TCP),
        Transport::Udp => (SocketType::DGRAM, ipproto::UDP),
        Transport::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, kind, flags, Some(protocol))?;
    if ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    if transport == Transport::Tcp {
        sockopt::set_socket_reuseaddr(&fd, true)?;
    }
    rustix::net::bind(&fd, &SocketAddr::new(ip, port))?;
    if transport == Transport::Tcp {
        rustix::net::listen(&fd, BACKLOG)?;
    }
    Ok(fd)
}

/// Whether `e` says that the kernel has no such transport or no such address family.
pub fn is_unsupported(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ESOCKTNOSUPPORT)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn a_reserved_port_is_nobody_elses() {
        // A namespace of its own: no other test may take the port in between.
        let run = || {
            crate::netlink::netns::unshare().unwrap();
            let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
            let held = reserve(Transport::Tcp, any, 8080).unwrap();
            let busy = |e: io::Error| e.kind() == io::ErrorKind::AddrInUse;
            assert!(busy(TcpListener::bind("0.0.0.0:8080").unwrap_err()));
            assert!(busy(reserve(Transport::Tcp, any, 8080).unwrap_err()));
            reserve(Transport::Udp, any, 8080).unwrap();
            drop(held);
            reserve(Transport::Tcp, any, 8080).unwrap();
        };
        std::thread::spawn(run).join().unwrap();
    }
}
