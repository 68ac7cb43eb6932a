//! The files that wharf puts into every container: hostname, hosts and resolv.conf.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use wharf_base::fs::{Durability, write_atomic};

use crate::error::{EngineError, Result};

/// What `/etc/hosts` is to say.
#[derive(Debug, Default)]
pub(crate) struct Hosts<'a> {
    /// The container's own addresses.
    pub(crate) own: Vec<IpAddr>,
    /// Its name.
    pub(crate) hostname: &'a str,
    /// Its domain, or empty.
    pub(crate) domain: &'a str,
    /// More lines: name and address.
    pub(crate) extra: Vec<(String, IpAddr)>,
}

/// What `/etc/resolv.conf` is to say; empty lists take the host's.
#[derive(Debug, Default)]
pub(crate) struct Resolver<'a> {
    /// Name servers.
    pub(crate) servers: &'a [String],
    /// Search domains.
    pub(crate) search: &'a [String],
    /// Options.
    pub(crate) options: &'a [String],
    /// Name servers on the host's loopback can be reached: the container is in the host's network.
    pub(crate) host_network: bool,
}

/// The text of `/etc/hosts`.
pub(crate) fn hosts(h: &Hosts<'_>) -> String {
    let mut out = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for (name, address) in &h.extra {
        _ = writeln!(out, "{address}\t{name}");
    }
    for address in &h.own {
        _ = match h.domain {
            "" => writeln!(out, "{address}\t{}", h.hostname),
            domain => writeln!(out, "{address}\t{}.{domain} {}", h.hostname, h.hostname),
        };
    }
    out
}

/// The text of `/etc/resolv.conf`, from the host's `host` text.
pub(crate) fn resolv_conf(r: &Resolver<'_>, host: &str) -> String {
    let lines = |key: &'static str| {
        host.lines().filter_map(move |l| l.trim().strip_prefix(key)).map(str::trim)
    };
    let loopback = |s: &str| s.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let mut servers: Vec<String> = match r.servers {
        [] => lines("nameserver").map(str::to_owned).collect(),
        own => own.to_vec(),
    };
    if r.servers.is_empty() && !r.host_network {
        servers.retain(|s| !loopback(s));
    }
    let search: Vec<String> = match r.search {
        [] => lines("search").next_back().map(words).unwrap_or_default(),
        [one] if one == "." => Vec::new(),
        own => own.to_vec(),
    };
    let options: Vec<String> = match r.options {
        [] => lines("options").next_back().map(words).unwrap_or_default(),
        own => own.to_vec(),
    };
    let mut out = String::new();
    for server in servers {
        _ = writeln!(out, "nameserver {server}");
    }
    for (key, list) in [("search", search), ("options", options)] {
        if !list.is_empty() {
            _ = writeln!(out, "{key} {}", list.join(" "));
        }
    }
    out
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The host's resolver configuration: behind systemd-resolved's stub the real one.
pub(crate) fn host_resolv_conf() -> String {
    let main = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let stub = main.lines().any(|l| l.trim() == "nameserver 127.0.0.53");
    match stub {
        true => std::fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap_or(main),
        false => main,
    }
}

/// Writes one of the files. A file that is bind-mounted into a running container keeps its inode, so it is
/// rewritten only before a start.
pub(crate) fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    write_atomic(&path, text.as_bytes(), 0o644, Durability::Process)
        .map_err(|e| EngineError::system(format!("write {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_names_the_container_at_its_addresses() {
        let text = hosts(&Hosts {
            own: vec!["172.17.0.2".parse().unwrap()],
            hostname: "box",
            domain: "lan",
            extra: vec![("db".into(), "10.0.0.1".parse().unwrap())],
        });
        assert!(text.contains("172.17.0.2\tbox.lan box\n"));
        assert!(text.contains("10.0.0.1\tdb\n"));
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
    }

    #[test]
    fn loopback_servers_stay_on_the_host() {
        let host = "# x\nnameserver 127.0.0.1\nnameserver 9.9.9.9\nsearch a b\noptions edns0\n";
        let own = Resolver::default();
        assert_eq!(resolv_conf(&own, host), "nameserver 9.9.9.9\nsearch a b\noptions edns0\n");
        let r = Resolver { host_network: true, ..Resolver::default() };
        assert!(resolv_conf(&r, host).contains("127.0.0.1"));
        let (servers, search) = (["1.1.1.1".to_owned()], [".".to_owned()]);
        let r = Resolver { servers: &servers, search: &search, ..Resolver::default() };
        assert_eq!(resolv_conf(&r, host), "nameserver 1.1.1.1\noptions edns0\n");
    }
}
