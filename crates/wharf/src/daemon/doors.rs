//! The daemon's listeners, and its words to the service manager.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use anyhow::{Context as _, Result, bail};
use wharf_serve::listen::{Address, Listener};
use wharf_serve::tls;
use wharf_sys::daemon::Inherited;

use super::settings::{Group, Settings, Tls, tcp_port};

/// The group that may use the socket when nobody says otherwise.
const GROUP: &str = "docker";

/// Opens every address.
pub(super) async fn open(
    settings: &Settings,
    mut inherited: Vec<(String, Inherited)>,
) -> Result<Vec<Listener>> {
    let acceptor = match &settings.tls {
        Tls::On(files) => Some(tls::acceptor(files)?),
        Tls::Off | Tls::Unsaid => None,
    };
    let mut listeners = Vec::new();
    for address in &settings.hosts {
        match address {
            Address::Unix(path) => {
                listeners.push(Listener::unix(path, group(&settings.group)?).await?);
            }
            Address::Tcp(ip, port) => {
                let at = tcp_port(*ip, *port, &settings.tls);
                protected(&settings.tls, &format!("tcp://{at}"))?;
                listeners.push(Listener::tcp(at, acceptor.clone()).await?);
            }
            Address::Inherited(which) => {
                for socket in chosen(which, &mut inherited)? {
                    listeners.push(match socket {
                        Inherited::Unix(socket) => Listener::inherited_unix(socket)?,
                        Inherited::Tcp(socket) => {
                            protected(&settings.tls, &format!("fd://{which}"))?;
                            Listener::inherited_tcp(socket, acceptor.clone())?
                        }
                    });
                }
            }
        }
    }
    Ok(listeners)
}

/// Plain TCP only for those who ask for it in so many words.
fn protected(tls: &Tls, address: &str) -> Result<()> {
    match tls {
        Tls::On(files) if files.client_ca.is_some() => Ok(()),
        Tls::On(_) => {
            tracing::warn!(
                address,
                "clients need no certificate: everybody who can reach this address is root on this machine; use --tlsverify"
            );
            Ok(())
        }
        Tls::Off => {
            tracing::warn!(
                address,
                "plain TCP: everybody who can reach this address, and every web page in a browser on this machine, is root on this machine; use --tlsverify"
            );
            Ok(())
        }
        Tls::Unsaid => bail!(
            "listen on {address}: without TLS everybody who can reach it is root on this machine; use --tlsverify with certificates, or say --tls=false if you mean it"
        ),
    }
}

/// The sockets that `fd://which` means: all, the one of that name, or the one of that number.
fn chosen(which: &str, inherited: &mut Vec<(String, Inherited)>) -> Result<Vec<Inherited>> {
    if inherited.is_empty() {
        bail!(
            "listen on fd://{which}: no sockets found via socket activation: make sure the service was started by systemd"
        );
    }
    if matches!(which, "" | "*") {
        return Ok(inherited.drain(..).map(|(_, socket)| socket).collect());
    }
    let number = which.parse::<usize>().ok().and_then(|n| n.checked_sub(3));
    let found = inherited.iter().position(|(name, _)| name == which).or(number);
    match found.filter(|at| *at < inherited.len()) {
        Some(at) => Ok(vec![inherited.remove(at).1]),
        None => bail!(
            "listen on fd://{which}: the service manager passed no socket of that name or number"
        ),
    }
}

fn group(group: &Group) -> Result<Option<u32>> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let find = |wanted: &str| {
        let line = groups.lines().find(|l| l.split(':').next() == Some(wanted));
        line.and_then(|l| l.split(':').nth(2)?.parse::<u32>().ok())
    };
    match group {
        Group::Default => Ok(find(GROUP).or(Some(0))),
        Group::Named(name) => {
            let gid = name.parse().ok().or_else(|| find(name));
            gid.map(Some).with_context(|| format!("group {name} not found in /etc/group"))
        }
    }
}

/// Sends a line of sd_notify(3) if somebody waits for it.
pub(super) fn tell_service_manager(line: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let bytes = path.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent =
        address.and_then(|a| UnixDatagram::unbound()?.send_to_addr(line.as_bytes(), &a).map(drop));
    if let Err(error) = sent {
        tracing::warn!(%error, "service manager cannot be told");
    }
}
