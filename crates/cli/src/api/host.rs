//! Where an engine is: reading `-H` in docker's forms.

use std::fmt;
use std::path::PathBuf;

use super::tls::TlsFiles;

/// An engine's address.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A port, with or without TLS.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// The certificates to use; plain text when absent.
        tls: Option<TlsFiles>,
    },
    /// A machine that is reached by ssh and runs the engine's client.
    Ssh {
        /// The address as given.
        url: String,
        /// `-l`.
        user: Option<String>,
        /// Name or address.
        host: String,
        /// `-p`.
        port: Option<u16>,
        /// A socket other than the remote's default.
        socket: Option<String>,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port, .. } if host.contains(':') => {
                write!(f, "tcp://[{host}]:{port}")
            }
            Self::Tcp { host, port, .. } => write!(f, "tcp://{host}:{port}"),
            Self::Ssh { url, .. } => f.write_str(url),
        }
    }
}

impl Endpoint {
    /// Reads an address; `tls` is used where the form can have it.
    pub fn parse(text: &str, tls: Option<TlsFiles>) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        match scheme {
            "unix" if rest.is_empty() => Ok(Self::Unix("/var/run/docker.sock".into())),
            "unix" => Ok(Self::Unix(rest.into())),
            "tcp" | "http" | "https" => {
                let (host, port) = host_port(rest, if tls.is_some() { 2376 } else { 2375 })
                    .ok_or_else(|| format!("invalid bind address format: {text}"))?;
                let host = if host.is_empty() { "localhost".to_owned() } else { host };
                Ok(Self::Tcp { host, port, tls })
            }
            "ssh" => ssh(text, rest),
            "fd" | "npipe" => Err(format!(
                "{scheme}:// is not an address that a client on Linux can reach: {text}"
            )),
            _ => Err(format!("invalid bind address format: {text}")),
        }
    }

    /// The `Host` header that docker sends.
    pub fn host_header(&self) -> String {
        match self {
            Self::Unix(_) => "api.moby.localhost".to_owned(),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
            Self::Ssh { .. } => "docker.example.com".to_owned(),
        }
    }
}

fn host_port(text: &str, default: u16) -> Option<(String, u16)> {
    let text = text.split('/').next()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        let port = match after.strip_prefix(':') {
            None | Some("") => default,
            Some(port) => port.parse().ok()?,
        };
        return Some((host.to_owned(), port));
    }
    match text.split_once(':') {
        Some((host, "")) => Some((host.to_owned(), default)),
        Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
        None => Some((text.to_owned(), default)),
    }
}

fn ssh(url: &str, rest: &str) -> Result<Endpoint, String> {
    let invalid = |why: &str| format!("invalid SSH URL: {url}: {why}");
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, address) = match authority.rsplit_once('@') {
        Some((user, _)) if user.contains(':') => {
            return Err(invalid("plain-text password is not supported"));
        }
        Some((user, address)) => (Some(user.to_owned()), address),
        None => (None, authority),
    };
    let (host, port) = match address.rsplit_once(':').filter(|_| !address.ends_with(']')) {
        Some((host, port)) => {
            (host, Some(port.parse().map_err(|_| invalid("the port is not a number"))?))
        }
        None => (address, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // A name that starts with a dash would be an option of ssh.
    if host.is_empty() || host.starts_with('-') {
        return Err(invalid("no host specified"));
    }
    let socket = (!path.is_empty()).then(|| format!("unix:///{path}"));
    Ok(Endpoint::Ssh { url: url.to_owned(), user, host: host.to_owned(), port, socket })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_all_forms() {
        let check = |text: &str, want: &str| {
            assert_eq!(Endpoint::parse(text, None).unwrap().to_string(), want, "{text}");
        };
        check("unix:///run/x.sock", "unix:///run/x.sock");
        check("unix://", "unix:///var/run/docker.sock");
        check("tcp://", "tcp://localhost:2375");
        check("10.0.0.1:99", "tcp://10.0.0.1:99");
        check("tcp://[::1]:5", "tcp://[::1]:5");
        check("ssh://me@host:22/run/x.sock", "ssh://me@host:22/run/x.sock");
        let bad = ["zz://x", "tcp://h:x", "ssh://", "ssh://a:b@h", "ssh://-oProxyCommand=x"];
        for bad in bad {
            assert!(Endpoint::parse(bad, None).is_err(), "{bad}");
        }
    }
}
