//! Contexts: named engines, stored as docker stores them, and the choice between them.

use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::Client;
use crate::api::host::Endpoint;
use crate::api::tls::TlsFiles;
use crate::app::Session;
use crate::failure::Failure;

/// wharf's own socket, and docker's.
const SOCKETS: [&str; 2] = ["/run/wharf/docker.sock", "/var/run/docker.sock"];

/// The name of the context in use.
pub fn current(session: &Session) -> String {
    let globals = &session.globals;
    if let Some(name) = globals.last("context") {
        return name.to_owned();
    }
    if globals.changed("host") || env_host().is_some() {
        return "default".to_owned();
    }
    if let Ok(name) = std::env::var("DOCKER_CONTEXT")
        && !name.is_empty()
    {
        return name;
    }
    match session.config().text("currentContext") {
        "" => "default".to_owned(),
        name => name.to_owned(),
    }
}

fn env_host() -> Option<String> {
    ["DOCKER_HOST", "WHARF_HOST"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|host| !host.is_empty())
}

/// The address that the default context stands for.
pub fn default_host() -> String {
    env_host().unwrap_or_else(|| {
        let there = SOCKETS.iter().find(|s| Path::new(s).exists());
        // Without an engine the message should name the place that the caller means.
        let expected = if crate::app::prog() == "docker" { SOCKETS[1] } else { SOCKETS[0] };
        format!("unix://{}", there.unwrap_or(&expected))
    })
}

/// The client for the context in use.
pub fn client(session: &Session) -> Result<Client, Failure> {
    let globals = &session.globals;
    let hosts = globals.all("host");
    if hosts.len() > 1 {
        return Err("specify only one -H".into());
    }
    if globals.changed("context") && globals.changed("host") {
        return Err("conflicting options: cannot specify both --host and --context".into());
    }
    let name = current(session);
    let endpoint = match hosts.first() {
        Some(host) => Endpoint::parse(host, tls_of_flags(session))?,
        None if name == "default" => Endpoint::parse(&default_host(), tls_of_flags(session))?,
        None => stored_endpoint(session, &name)?,
    };
    let version = std::env::var("DOCKER_API_VERSION").ok().filter(|v| !v.is_empty());
    let version = version.map(|v| v.trim_start_matches('v').to_owned());
    let level = globals.last("log-level").unwrap_or_default().to_lowercase();
    let traced = globals.on("debug") || matches!(level.as_str(), "debug" | "trace");
    Ok(Client::new(endpoint, version, headers(session)).traced(traced))
}

fn headers(session: &Session) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Value::Object(map) = &session.config().json["HttpHeaders"] {
        for (name, value) in map {
            let value = value.as_str().and_then(|v| HeaderValue::from_str(v).ok());
            if let (Ok(name), Some(value)) = (HeaderName::try_from(name.as_str()), value) {
                headers.insert(name, value);
            }
        }
    }
    headers
}

fn tls_of_flags(session: &Session) -> Option<TlsFiles> {
    let globals = &session.globals;
    let from_env = std::env::var("DOCKER_TLS_VERIFY").is_ok_and(|v| !v.is_empty());
    let verify = globals.on_or("tlsverify", from_env);
    let env_tls = std::env::var("DOCKER_TLS").is_ok_and(|v| !v.is_empty());
    if !(verify || globals.changed("tlsverify") || globals.on_or("tls", env_tls)) {
        return None;
    }
    let dir = match std::env::var_os("DOCKER_CERT_PATH").filter(|d| !d.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => session.config().dir.clone(),
    };
    let file = |flag: &str, name: &str| {
        globals
            .last(flag)
            .map(PathBuf::from)
            .or_else(|| Some(dir.join(name)).filter(|p| p.exists()))
    };
    Some(TlsFiles {
        ca: file("tlscacert", "ca.pem"),
        cert: file("tlscert", "cert.pem"),
        key: file("tlskey", "key.pem"),
        verify,
    })
}

/// Where contexts are stored.
pub struct Store {
    root: PathBuf,
}

/// One stored context.
pub struct Context {
    /// Its name.
    pub name: String,
    /// `meta.json`.
    pub meta: Value,
}

impl Store {
    /// The store of this configuration.
    pub fn open(session: &Session) -> Self {
        Self { root: session.config().dir.join("contexts") }
    }

    fn id(name: &str) -> String {
        hex::encode(Sha256::digest(name.as_bytes()))
    }

    /// The directory of a context's description.
    pub fn meta_dir(&self, name: &str) -> PathBuf {
        self.root.join("meta").join(Self::id(name))
    }

    /// The directory of a context's certificates.
    pub fn tls_dir(&self, name: &str) -> PathBuf {
        self.root.join("tls").join(Self::id(name))
    }

    /// The context of this name.
    pub fn load(&self, name: &str) -> Result<Context, Failure> {
        let path = self.meta_dir(name).join("meta.json");
        let text = std::fs::read_to_string(&path).map_err(|_| not_found(name, &path))?;
        let meta = serde_json::from_str(&text)
            .map_err(|e| Failure::new(format!("parsing {}: {e}", path.display())))?;
        Ok(Context { name: name.to_owned(), meta })
    }

    /// Whether there is a context of this name.
    pub fn has(&self, name: &str) -> bool {
        self.meta_dir(name).join("meta.json").exists()
    }

    /// All contexts, sorted by name.
    pub fn list(&self) -> Vec<Context> {
        let dirs = std::fs::read_dir(self.root.join("meta")).into_iter().flatten().flatten();
        let read = |dir: std::fs::DirEntry| {
            let text = std::fs::read_to_string(dir.path().join("meta.json")).ok()?;
            let meta: Value = serde_json::from_str(&text).ok()?;
            Some(Context { name: meta["Name"].as_str()?.to_owned(), meta })
        };
        let mut all: Vec<Context> = dirs.filter_map(read).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Writes a context and its certificates.
    pub fn save(&self, context: &Context, files: &[(&str, Vec<u8>)]) -> Result<(), Failure> {
        let dir = self.meta_dir(&context.name);
        std::fs::create_dir_all(&dir)?;
        write(&dir.join("meta.json"), context.meta.to_string().as_bytes(), 0o644)?;
        let tls = self.tls_dir(&context.name).join("docker");
        for (name, bytes) in files {
            std::fs::create_dir_all(&tls)?;
            write(&tls.join(name), bytes, 0o600)?;
        }
        Ok(())
    }

    /// Removes a context.
    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        let gone = |r: std::io::Result<()>| match r {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::from(e)),
            _ => Ok(()),
        };
        gone(std::fs::remove_dir_all(self.tls_dir(name)))?;
        gone(std::fs::remove_dir_all(self.meta_dir(name)))
    }

    /// The certificate files of a context that exist.
    pub fn tls_files(&self, name: &str) -> Vec<(&'static str, PathBuf)> {
        let dir = self.tls_dir(name).join("docker");
        ["ca.pem", "cert.pem", "key.pem"]
            .into_iter()
            .map(|file| (file, dir.join(file)))
            .filter(|(_, path)| path.exists())
            .collect()
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    wharf_base::fs::write_atomic(path, bytes, mode, wharf_base::fs::Durability::Power)
        .map_err(|e| Failure::new(format!("cannot write {}: {e}", path.display())))
}

fn not_found(name: &str, path: &Path) -> Failure {
    Failure::new(format!(
        "context {}: context not found: open {}: no such file or directory",
        crate::parse::quote(name),
        path.display()
    ))
}

fn stored_endpoint(session: &Session, name: &str) -> Result<Endpoint, Failure> {
    let store = Store::open(session);
    if !store.has(name) {
        let path = store.meta_dir(name).join("meta.json");
        return Err(Failure::new(format!(
            "Current context {} is not found on the file system, please check your config file at {} ({})",
            crate::parse::quote(name),
            session.config().dir.join("config.json").display(),
            path.display()
        )));
    }
    let context = store.load(name)?;
    let docker = &context.meta["Endpoints"]["docker"];
    let files = store.tls_files(name);
    let skip = docker["SkipTLSVerify"].as_bool().unwrap_or(false);
    let find = |file: &str| files.iter().find(|(n, _)| *n == file).map(|(_, p)| p.clone());
    let tls = (!files.is_empty() || skip).then(|| TlsFiles {
        ca: find("ca.pem"),
        cert: find("cert.pem"),
        key: find("key.pem"),
        verify: !skip,
    });
    let host = docker["Host"].as_str().filter(|h| !h.is_empty());
    Ok(Endpoint::parse(host.map_or_else(default_host, str::to_owned).as_str(), tls)?)
}

/// `meta.json` of a new context.
pub fn meta(name: &str, description: &str, host: &str, skip_verify: bool) -> Value {
    let metadata = match description {
        "" => json!({}),
        text => json!({"Description": text}),
    };
    json!({
        "Name": name, "Metadata": metadata,
        "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": skip_verify}},
    })
}
