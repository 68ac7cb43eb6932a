//! `hosts.toml` files, as containerd has them: mirrors of a registry, and how each host is trusted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::RegistryError;

/// One file. A key that is not listed here is refused by name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostsFile {
    /// The registry itself, where it is not at its own name.
    pub(super) server: Option<String>,
    /// The server's address is complete: `/v2` is not added.
    #[serde(default)]
    pub(super) override_path: bool,
    #[serde(default)]
    skip_verify: bool,
    ca: Option<Names>,
    client: Option<Client>,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, HostEntry>,
}

/// One mirror.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostEntry {
    capabilities: Option<Vec<String>>,
    /// The address is complete: `/v2` is not added.
    #[serde(default)]
    pub(super) override_path: bool,
    #[serde(default)]
    skip_verify: bool,
    ca: Option<Names>,
    client: Option<Client>,
}

/// One file or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
}

/// Our certificates: each alone with its key in the same file, or paired with the file of its key.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Client {
    One(String),
    Many(Vec<Pair>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Pair {
    Joint(String),
    Apart([String; 2]),
}

/// How one host is to be trusted, whichever files name it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trust {
    /// Any certificate will do.
    pub(super) skip_verify: bool,
    /// Files of authorities.
    pub(super) authorities: Vec<PathBuf>,
    /// Files of our certificate and of its key.
    pub(super) own: Option<(PathBuf, PathBuf)>,
}

impl HostsFile {
    /// The mirrors in the order of the file.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&str, &HostEntry)> {
        let mut all: Vec<_> = self.host.iter().collect();
        all.sort_by_key(|(url, _)| url.span().start);
        all.into_iter().map(|(url, entry)| (url.get_ref().as_str(), entry))
    }
}

impl HostEntry {
    /// Whether it may be asked for that.
    pub(super) fn can(&self, what: &str) -> bool {
        self.capabilities.as_ref().is_none_or(|c| c.iter().any(|c| c == what))
    }
}

/// The file of the registry `domain`, or the one for all.
pub(super) fn of(domain: &str, dir: &Path) -> Result<HostsFile, RegistryError> {
    for name in [domain, "_default"] {
        let path = dir.join(name).join("hosts.toml");
        if let Some(file) = read(&path)? {
            return Ok(file);
        }
    }
    Ok(HostsFile::default())
}

/// What the files say of `host` (with its port where it is not 443).
pub(super) fn trust(host: &str, dir: &Path) -> Result<Trust, RegistryError> {
    let mut trust = Trust::default();
    let Ok(dirs) = std::fs::read_dir(dir) else { return Ok(trust) };
    for entry in dirs.flatten() {
        let dir = entry.path();
        let Some(file) = read(&dir.join("hosts.toml"))? else { continue };
        let server = file
            .server
            .clone()
            .unwrap_or_else(|| format!("https://{}", entry.file_name().to_string_lossy()));
        if names(&server, host) {
            trust.take(&dir, file.skip_verify, file.ca.as_ref(), file.client.as_ref())?;
        }
        for (_, e) in file.in_order().filter(|(url, _)| names(url, host)) {
            trust.take(&dir, e.skip_verify, e.ca.as_ref(), e.client.as_ref())?;
        }
    }
    Ok(trust)
}

impl Trust {
    fn take(
        &mut self,
        dir: &Path,
        skip_verify: bool,
        ca: Option<&Names>,
        client: Option<&Client>,
    ) -> Result<(), RegistryError> {
        self.skip_verify |= skip_verify;
        match ca {
            Some(Names::One(name)) => self.authorities.push(dir.join(name)),
            Some(Names::Many(names)) => {
                self.authorities.extend(names.iter().map(|name| dir.join(name)));
            }
            None => (),
        }
        let pairs = match client {
            Some(Client::One(joint)) => vec![Pair::Joint(joint.clone())],
            Some(Client::Many(pairs)) => pairs.clone(),
            None => return Ok(()),
        };
        let [pair] = &pairs[..] else {
            let what = format!("client in {} (one certificate per host)", dir.display());
            return Err(RegistryError::Setting { what });
        };
        self.own = Some(match pair {
            Pair::Joint(file) => (dir.join(file), dir.join(file)),
            Pair::Apart([certificate, key]) => (dir.join(certificate), dir.join(key)),
        });
        Ok(())
    }
}

fn names(url: &str, host: &str) -> bool {
    let bare = url.split_once("://").map_or(url, |(_, rest)| rest);
    let bare = bare.split('/').next().unwrap_or(bare);
    bare.strip_suffix(":443").unwrap_or(bare) == host
}

fn read(path: &Path) -> Result<Option<HostsFile>, RegistryError> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(None) };
    let wrong = |e| RegistryError::Setting { what: format!("{} ({e})", path.display()) };
    toml::from_str(&text).map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, domain: &str, text: &str) {
        let dir = dir.join(domain);
        std::fs::create_dir_all(&dir).unwrap();
        let mut file = std::fs::File::create(dir.join("hosts.toml")).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    }

    #[test]
    fn trust_is_collected_from_every_file_that_names_the_host() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        write(
            dir,
            "ghcr.io",
            "ca = 'up.pem'\n[host.'https://m:5000/p']\nca = ['a.pem', '/b.pem']\nclient = [['c.cert', 'c.key']]\n",
        );
        write(dir, "quay.io", "server = 'https://q'\nskip_verify = true\nclient = 'joint.pem'\n");
        let m = trust("m:5000", dir).unwrap();
        let here = |name: &str| dir.join("ghcr.io").join(name);
        assert_eq!(m.authorities, [here("a.pem"), "/b.pem".into()]);
        assert_eq!(m.own, Some((here("c.cert"), here("c.key"))));
        assert_eq!(trust("ghcr.io", dir).unwrap().authorities, [here("up.pem")]);
        assert!(trust("q", dir).unwrap().skip_verify && !m.skip_verify);
        assert_eq!(trust("other", dir).unwrap(), Trust::default());
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "r", "[host.'https://m']\n[host.'https://m'.header]\nx = 'y'\n");
        let error = of("r", root.path()).unwrap_err().to_string();
        assert!(error.contains("header"), "{error}");
    }
}
