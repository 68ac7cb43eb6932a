//! TLS to registries: whom to believe, and what to show, host by host; read again when a file of it has changed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use wharf_base::sync::Mutex;
use wharf_tls::{Anybody, certificates, private_key};

use super::endpoint;
use super::hosts::{self, Trust};
use crate::settings::RegistrySettings;

/// One configuration per host: authorities and client certificates differ.
#[derive(Default)]
pub(super) struct Configs(Mutex<HashMap<String, Known>>);

struct Known {
    config: Arc<ClientConfig>,
    /// Every file and directory that it was made of, as it was then.
    seen: Vec<(PathBuf, State)>,
}

/// When a file was written last, and its size; `None` if it is not there.
type State = Option<(SystemTime, u64)>;

impl Configs {
    /// How to speak to a host. Blocks on a few files.
    pub(super) fn get(
        &self,
        host: &str,
        port: u16,
        settings: &RegistrySettings,
    ) -> io::Result<Arc<ClientConfig>> {
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let name = if port == 443 { bracketed } else { format!("{bracketed}:{port}") };
        if let Some(known) = self.0.lock().get(&name)
            && known.seen.iter().all(|(path, was)| state(path) == *was)
        {
            return Ok(known.config.clone());
        }
        let trust = hosts::trust(&name, &settings.hosts_dir).map_err(io::Error::other)?;
        // Before they are read: what changes meanwhile is read again the next time.
        let seen = sources(&name, settings, &trust);
        let config = Arc::new(build(&name, settings, &trust)?);
        self.0.lock().insert(name, Known { config: config.clone(), seen });
        Ok(config)
    }
}

/// Everything that a configuration is made of. A directory changes when something comes into it or goes.
fn sources(name: &str, settings: &RegistrySettings, trust: &Trust) -> Vec<(PathBuf, State)> {
    let own = settings.certs_dir.join(name);
    let mut paths = vec![settings.ca_bundle.clone(), settings.hosts_dir.clone()];
    paths.extend(inside(&own));
    paths.push(own);
    for dir in inside(&settings.hosts_dir) {
        paths.push(dir.join("hosts.toml"));
        paths.push(dir);
    }
    paths.extend(trust.authorities.iter().cloned());
    paths
        .extend(trust.own.iter().flat_map(|(certificate, key)| [certificate.clone(), key.clone()]));
    paths.into_iter().map(|path| (path.clone(), state(&path))).collect()
}

fn inside(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn state(path: &Path) -> State {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

fn build(name: &str, settings: &RegistrySettings, trust: &Trust) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let mut files = CertFiles::read(&settings.certs_dir.join(name))?;
    for path in &trust.authorities {
        files.authorities.extend(certificates(path).map_err(io::Error::other)?);
    }
    if let Some((chain, key)) = &trust.own {
        files.own = Some(pair(chain, key)?);
    }
    let builder = if trust.skip_verify || endpoint::is_insecure(name, settings) {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        let mut roots = RootCertStore::empty();
        if let Ok(machine) = CertificateDer::pem_file_iter(&settings.ca_bundle) {
            roots.add_parsable_certificates(machine.flatten());
        }
        roots.add_parsable_certificates(files.authorities);
        builder.with_root_certificates(roots)
    };
    match files.own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(io::Error::other),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// `/etc/docker/certs.d/<host>`: `*.crt` are authorities, `x.cert` with `x.key` is our certificate.
#[derive(Default)]
struct CertFiles {
    authorities: Vec<CertificateDer<'static>>,
    own: Option<Pair>,
}

/// A certificate with those that vouch for it, and its key.
type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl CertFiles {
    fn read(dir: &Path) -> io::Result<Self> {
        let mut files = Self::default();
        let Ok(entries) = std::fs::read_dir(dir) else { return Ok(files) };
        for entry in entries {
            let path = entry?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => {
                    files.authorities.extend(certificates(&path).map_err(io::Error::other)?);
                }
                Some("cert") => files.own = Some(pair(&path, &path.with_extension("key"))?),
                _ => {}
            }
        }
        Ok(files)
    }
}

fn pair(chain: &Path, key: &Path) -> io::Result<Pair> {
    let key = private_key(key).map_err(io::Error::other)?;
    Ok((certificates(chain).map_err(io::Error::other)?, key))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn files_are_read_again_when_they_have_changed() {
        let dir = tempfile::tempdir().unwrap();
        let settings = RegistrySettings {
            certs_dir: dir.path().join("certs"),
            hosts_dir: dir.path().join("hosts"),
            ca_bundle: dir.path().join("bundle"),
            ..RegistrySettings::default()
        };
        let configs = Configs::default();
        let get = || configs.get("registry.example", 5000, &settings);
        let first = get().unwrap();
        assert!(Arc::ptr_eq(&first, &get().unwrap()), "nothing has changed");
        let own = settings.certs_dir.join("registry.example:5000");
        std::fs::create_dir_all(&own).unwrap();
        let write = |path: PathBuf, text: &str| {
            std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
        };
        write(own.join("ca.crt"), "no certificate");
        assert!(get().unwrap_err().to_string().contains("ca.crt"), "it is read now");
        std::fs::remove_file(own.join("ca.crt")).unwrap();
        let second = get().unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        let host = settings.hosts_dir.join("registry.example:5000");
        std::fs::create_dir_all(&host).unwrap();
        write(host.join("hosts.toml"), "skip_verify = true\n");
        assert!(!Arc::ptr_eq(&second, &get().unwrap()), "so are hosts files");
    }
}
