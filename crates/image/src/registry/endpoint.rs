//! Where a registry is: its mirrors, its own address, and whether TLS may be missing.

use std::net::IpAddr;

use super::{RegistryError, hosts};
use crate::settings::RegistrySettings;

/// Docker Hub's registry is not at `docker.io`.
const HUB_HOST: &str = "registry-1.docker.io";

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://host[:port][/prefix]/v2`, without a slash at the end.
    base: String,
    /// Whose content it serves, when that is not itself: the `ns` parameter.
    namespace: Option<String>,
    /// Whether it stands for another registry.
    pub(crate) mirror: bool,
    /// Whether it may be asked for what a tag means.
    pub(crate) resolves: bool,
    /// Whether it may turn out to speak no TLS.
    pub(super) may_be_plain: bool,
}

impl Endpoint {
    /// The address of something in a repository.
    pub(super) fn url(&self, repository: &str, rest: &str) -> String {
        let url = format!("{}/{repository}/{rest}", self.base);
        match &self.namespace {
            Some(domain) if url.contains('?') => format!("{url}&ns={domain}"),
            Some(domain) => format!("{url}?ns={domain}"),
            None => url,
        }
    }

    /// Host and port.
    pub(super) fn host(&self) -> &str {
        let bare = self.base.split_once("://").map_or(self.base.as_str(), |(_, rest)| rest);
        bare.split('/').next().unwrap_or(bare)
    }

    /// Host and port, for messages.
    pub(crate) fn shown(&self) -> String {
        self.host().to_owned()
    }

    /// The same address without TLS.
    pub(super) fn into_plain(mut self) -> Self {
        if let Some(rest) = self.base.strip_prefix("https://") {
            self.base = format!("http://{rest}");
        }
        self
    }

    /// What tokens are kept by.
    pub(super) fn base(&self) -> &str {
        &self.base
    }
}

/// The addresses of the registry `domain`, in the order to try them: mirrors as their file lists them, then itself.
pub(super) fn endpoints(
    domain: &str,
    settings: &RegistrySettings,
) -> Result<Vec<Endpoint>, RegistryError> {
    let file = hosts::of(domain, &settings.hosts_dir)?;
    let mut all = Vec::new();
    for (url, entry) in file.in_order() {
        if entry.can("pull") {
            all.push(mirror(url, domain, entry.override_path, entry.can("resolve"))?);
        }
    }
    if domain == wharf_spec::reference::DOCKER_HUB {
        for url in &settings.hub_mirrors {
            // dockerd's mirrors speak as the Hub itself, without a namespace.
            all.push(Endpoint { namespace: None, ..mirror(url, domain, false, true)? });
        }
    }
    let host = if domain == wharf_spec::reference::DOCKER_HUB { HUB_HOST } else { domain };
    let (base, may_be_plain) = match file.server {
        Some(server) => (versioned(&server, file.override_path)?, false),
        None => (format!("https://{host}/v2"), is_insecure(host, settings)),
    };
    all.push(Endpoint { base, namespace: None, mirror: false, resolves: true, may_be_plain });
    Ok(all)
}

fn mirror(url: &str, domain: &str, exact: bool, resolves: bool) -> Result<Endpoint, RegistryError> {
    let base = versioned(url, exact)?;
    let namespace = Some(domain.to_owned());
    Ok(Endpoint { base, namespace, mirror: true, resolves, may_be_plain: false })
}

fn versioned(url: &str, exact: bool) -> Result<String, RegistryError> {
    let url = url.trim_end_matches('/');
    let url = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(RegistryError::Setting { what: url });
    }
    Ok(if exact || url.ends_with("/v2") { url } else { format!("{url}/v2") })
}

/// Whether `host` (with or without port) may be spoken to without TLS. Loopback always may.
pub(crate) fn is_insecure(host: &str, settings: &RegistrySettings) -> bool {
    let bare = bare_host(host);
    if bare == "localhost" {
        return true;
    }
    let address: Option<IpAddr> = bare.parse().ok();
    if address.is_some_and(|a| a.is_loopback()) {
        return true;
    }
    settings
        .insecure
        .iter()
        .any(|entry| entry == host || entry == bare || address.is_some_and(|a| in_block(a, entry)))
}

/// Without port and brackets.
pub(super) fn bare_host(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match host.rsplit_once(':') {
        Some((bare, _)) if !bare.contains(':') => bare,
        _ => host,
    }
}

/// Whether `address` is in the CIDR block `block`.
pub(super) fn in_block(address: IpAddr, block: &str) -> bool {
    let Some((network, length)) = block.split_once('/') else { return false };
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            a.to_bits() & mask == n.to_bits() & mask
        }
        (IpAddr::V6(a), IpAddr::V6(n)) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            a.to_bits() & mask == n.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(domain: &str, settings: &RegistrySettings) -> Vec<String> {
        let all = endpoints(domain, settings).unwrap();
        all.iter().map(|e| e.url("a/b", "blobs/x")).collect()
    }

    #[test]
    fn mirrors_come_first_and_the_hub_is_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings =
            RegistrySettings { hosts_dir: dir.path().to_owned(), ..RegistrySettings::default() };
        assert_eq!(urls("docker.io", &settings), ["https://registry-1.docker.io/v2/a/b/blobs/x"]);
        settings.hub_mirrors = vec!["https://m.example/".into()];
        assert_eq!(urls("docker.io", &settings)[0], "https://m.example/v2/a/b/blobs/x");
        assert_eq!(urls("ghcr.io", &settings), ["https://ghcr.io/v2/a/b/blobs/x"]);
        let entry = dir.path().join("ghcr.io");
        std::fs::create_dir(&entry).unwrap();
        let text = "server = \"https://up.example\"\n[host.\"http://m:5000/proxy\"]\ncapabilities = [\"pull\"]\noverride_path = true\n[host.\"https://x\"]\ncapabilities = [\"push\"]\n[host.\"https://a.example\"]\n";
        std::io::Write::write_all(
            &mut std::fs::File::create(entry.join("hosts.toml")).unwrap(),
            text.as_bytes(),
        )
        .unwrap();
        assert_eq!(
            urls("ghcr.io", &settings),
            [
                "http://m:5000/proxy/a/b/blobs/x?ns=ghcr.io",
                "https://a.example/v2/a/b/blobs/x?ns=ghcr.io",
                "https://up.example/v2/a/b/blobs/x"
            ],
            "in the order of the file"
        );
        assert!(!endpoints("ghcr.io", &settings).unwrap()[0].resolves);
    }

    #[test]
    fn insecure_is_by_name_block_and_loopback() {
        let settings = RegistrySettings {
            insecure: vec!["r.local:5000".into(), "10.0.0.0/8".into(), "fd00::/8".into()],
            ..RegistrySettings::default()
        };
        for yes in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "[::1]:5000",
            "r.local:5000",
            "10.9.8.7:5",
            "[fd00::1]:5",
        ] {
            assert!(is_insecure(yes, &settings), "{yes}");
        }
        for no in ["r.local", "r.local:5001", "11.0.0.1", "ghcr.io", "[fe00::1]"] {
            assert!(!is_insecure(no, &settings), "{no}");
        }
    }
}
