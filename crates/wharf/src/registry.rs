//! `wharf registry`: a registry of its own, and the settings that the daemon's registry shares with it.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, FromArgMatches as _, Subcommand as _};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use wharf_base::db::Db;
use wharf_image::{ImageStore, Registries};
use wharf_registry::{Auth, Cache, Registry, Rules, Settings};
use wharf_serve::tls::{self, TlsFiles};
use wharf_spec::dockerconfig::AuthConfig;

/// Where a registry of its own keeps everything.
const ROOT: &str = "/var/lib/wharf-registry";
/// Where it listens: plain HTTP is for this machine alone, unless somebody says otherwise.
const ADDR: &str = "127.0.0.1:5000";
/// Threads that run requests.
const WORKERS: usize = 2;
/// Threads that read and write files. They go away when idle.
const BLOCKING: usize = 128;
/// How long a tag of another registry is taken to mean what it meant.
const UPSTREAM_TTL: Duration = Duration::from_secs(300);
/// The shortest grace for garbage: a push sends its manifest after its blobs.
const GRACE_MIN: Duration = Duration::from_secs(60);
/// How long requests in progress may take at the end.
const GRACE: Duration = Duration::from_secs(15);

#[derive(clap::Subcommand)]
enum Verb {
    /// Serve a registry
    Serve(Box<Serve>),
    /// Read a password from standard input and print a line for an htpasswd file
    Passwd {
        /// Name of the user
        user: String,
    },
}

#[derive(Args)]
struct Serve {
    /// Directory of everything that is pushed
    #[arg(long, value_name = "DIR", default_value = ROOT)]
    root: PathBuf,
    /// File with these settings (TOML, names as the flags), and with [[rule]] tables of who may do what
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Log everything
    #[arg(long)]
    debug: bool,
    #[command(flatten)]
    written: Written,
}

/// Settings as written: by flag or in a file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Written {
    /// Address to listen on, ADDR:PORT (default: 127.0.0.1:5000)
    #[arg(long, value_name = "ADDR:PORT")]
    addr: Option<String>,
    /// Certificate chain, PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Authority that certificates of clients must come from, PEM
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Users and bcrypt hashes of their passwords, as htpasswd -B writes them
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// How passwords are used: basic, or token, which lets anonymous clients pull where a rule lets them (default: basic)
    #[arg(long, value_name = "basic|token")]
    auth: Option<String>,
    /// Address at which clients get tokens of another server
    #[arg(long, value_name = "URL")]
    token_realm: Option<String>,
    /// Name of this registry at that server
    #[arg(long, value_name = "NAME")]
    token_service: Option<String>,
    /// Issuer of these tokens
    #[arg(long, value_name = "NAME")]
    token_issuer: Option<String>,
    /// Public keys of that server: JWK set, or PEM keys or certificates
    #[arg(long, value_name = "FILE")]
    token_keys: Option<PathBuf>,
    /// Refuse everything that changes something
    #[arg(long)]
    read_only: bool,
    /// Refuse to delete
    #[arg(long)]
    no_delete: bool,
    /// How long content that nothing needs is kept (default: 1h)
    #[arg(long, value_name = "DURATION")]
    gc_grace: Option<String>,
    /// How long an upload may rest (default: 24h)
    #[arg(long, value_name = "DURATION")]
    upload_lifetime: Option<String>,
    /// Serve as a cache of that registry: docker.io, ghcr.io, registry.example:5000
    #[arg(long, value_name = "REGISTRY")]
    upstream: Option<String>,
    /// User at that registry
    #[arg(long, value_name = "NAME")]
    upstream_user: Option<String>,
    /// File with the password of that user
    #[arg(long, value_name = "FILE")]
    upstream_password_file: Option<PathBuf>,
    /// How long a tag of that registry is taken to mean what it meant (default: 5m)
    #[arg(long, value_name = "DURATION")]
    upstream_ttl: Option<String>,
    /// Rules; in a file only.
    #[arg(skip)]
    rule: Vec<wharf_registry::Rule>,
}

impl Written {
    /// Nothing but an address.
    pub(crate) fn at(addr: &str) -> Self {
        Self { addr: Some(addr.to_owned()), ..Self::default() }
    }
}

/// Settings as resolved.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    addr: SocketAddr,
    tls: Option<TlsFiles>,
    settings: Settings,
}

/// The command with its flags.
pub(crate) fn command() -> clap::Command {
    let command =
        clap::Command::new("registry").about("Serve a registry").subcommand_required(true);
    Verb::augment_subcommands(command)
}

/// Runs with the arguments from `registry` on.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let matches = match command().bin_name("wharf registry").try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(e) => {
            // Nothing can be said if the terminal is gone.
            drop(e.print());
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(1));
        }
    };
    let done = match Verb::from_arg_matches(&matches) {
        Ok(Verb::Serve(serve)) => start(*serve),
        Ok(Verb::Passwd { user }) => passwd(&user),
        Err(e) => Err(e.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            wharf_cli::app::warn(format!("wharf registry: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

fn passwd(user: &str) -> Result<()> {
    ensure!(!user.is_empty() && !user.contains(':'), "a user's name has no colon");
    if std::io::stdin().is_terminal() {
        wharf_cli::app::warn("Password, then Ctrl-D:");
    }
    let mut password = String::new();
    std::io::stdin().read_to_string(&mut password).context("read the password")?;
    let password = password.trim_end_matches(['\r', '\n']);
    let line = wharf_registry::htpasswd_line(user, password).context("hash the password")?;
    wharf_cli::app::say_line(line).map_err(|e| anyhow::anyhow!(e.text))
}

fn start(serve: Serve) -> Result<()> {
    let level = match serve.debug {
        true => tracing::level_filters::LevelFilter::DEBUG,
        false => tracing::level_filters::LevelFilter::INFO,
    };
    crate::daemon::log_to_stderr(level);
    wharf_sys::daemon::tune_heap();
    let how = resolve(serve.written, serve.config.as_deref())?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .context("start threads")?
        .block_on(run(&serve.root, how))
}

async fn run(root: &Path, how: Resolved) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
    wharf_base::fs::private_dir(root).with_context(|| format!("create {}", root.display()))?;
    let db = Db::open(&root.join("db"))?;
    let store = ImageStore::open(root, db.clone(), wharf_image::Settings::default())?;
    let registry = how.open(&store, db)?;
    let (listener, tls) = how.listen().await?;
    let shutdown = CancellationToken::new();
    let at = listener.local_addr().context("find the address")?;
    tracing::info!(addr = %at, tls = tls.is_some(), root = %root.display(), "registry is up");
    let serving =
        tokio::spawn(wharf_registry::serve(registry, listener, tls, shutdown.clone(), GRACE));
    tokio::select! {
        _ = interrupt.recv() => (),
        _ = terminate.recv() => (),
    }
    shutdown.cancel();
    serving.await.context("serve")?;
    store.flush();
    Ok(())
}

impl Resolved {
    /// Opens the registry over `store`.
    pub(crate) fn open(&self, store: &ImageStore, db: Db) -> Result<Registry> {
        Ok(Registry::open(store.content(), db, self.settings.clone())?)
    }

    /// Opens its address.
    pub(crate) async fn listen(&self) -> Result<(TcpListener, Option<TlsAcceptor>)> {
        let tls = self.tls.as_ref().map(tls::acceptor).transpose()?;
        if tls.is_none() && !self.addr.ip().is_loopback() {
            tracing::warn!(addr = %self.addr, "the registry speaks plain HTTP: passwords and images can be read and changed on their way; use --tls-cert and --tls-key");
        }
        let listener = TcpListener::bind(self.addr).await;
        let listener = listener.with_context(|| format!("listen on {}", self.addr))?;
        Ok((listener, tls))
    }
}

/// Flags and file together; flags win.
pub(crate) fn resolve(flags: Written, file: Option<&Path>) -> Result<Resolved> {
    let file = match file {
        None => Written::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("read {}", path.display()))?;
            toml::from_str(&text).with_context(|| format!("parse {}", path.display()))?
        }
    };
    let written = merge(flags, file);
    let addr = written.addr.as_deref().unwrap_or(ADDR);
    let defaults = Settings::default();
    let period = |text: &Option<String>, default: Duration| match text {
        Some(text) => duration(text),
        None => Ok(default),
    };
    let grace = period(&written.gc_grace, defaults.grace)?;
    ensure!(
        grace >= GRACE_MIN,
        "gc-grace is at least 1m: until then a push may still need its blobs"
    );
    Ok(Resolved {
        addr: address(addr)?,
        tls: tls_files(&written)?,
        settings: Settings {
            read_only: written.read_only,
            deletes: !written.no_delete,
            auth: auth(&written)?,
            grace,
            cache: cache(&written, &defaults)?,
            upload_lifetime: period(&written.upload_lifetime, defaults.upload_lifetime)?,
            rules: Rules::new(written.rule),
            ..defaults
        },
    })
}

fn merge(flags: Written, file: Written) -> Written {
    Written {
        addr: flags.addr.or(file.addr),
        tls_cert: flags.tls_cert.or(file.tls_cert),
        tls_key: flags.tls_key.or(file.tls_key),
        tls_client_ca: flags.tls_client_ca.or(file.tls_client_ca),
        htpasswd: flags.htpasswd.or(file.htpasswd),
        auth: flags.auth.or(file.auth),
        token_realm: flags.token_realm.or(file.token_realm),
        token_service: flags.token_service.or(file.token_service),
        token_issuer: flags.token_issuer.or(file.token_issuer),
        token_keys: flags.token_keys.or(file.token_keys),
        read_only: flags.read_only || file.read_only,
        no_delete: flags.no_delete || file.no_delete,
        gc_grace: flags.gc_grace.or(file.gc_grace),
        upload_lifetime: flags.upload_lifetime.or(file.upload_lifetime),
        upstream: flags.upstream.or(file.upstream),
        upstream_user: flags.upstream_user.or(file.upstream_user),
        upstream_password_file: flags.upstream_password_file.or(file.upstream_password_file),
        upstream_ttl: flags.upstream_ttl.or(file.upstream_ttl),
        rule: file.rule,
    }
}

fn cache(written: &Written, defaults: &Settings) -> Result<Option<Cache>> {
    let Some(domain) = &written.upstream else {
        ensure!(
            written.upstream_user.is_none()
                && written.upstream_password_file.is_none()
                && written.upstream_ttl.is_none(),
            "upstream-user, upstream-password-file and upstream-ttl need upstream"
        );
        return Ok(None);
    };
    let mut auth = AuthConfig::default();
    match (&written.upstream_user, &written.upstream_password_file) {
        (Some(user), Some(file)) => {
            let password = std::fs::read_to_string(file)
                .with_context(|| format!("read {}", file.display()))?;
            auth.username.clone_from(user);
            password.trim_end_matches(['\r', '\n']).clone_into(&mut auth.password);
        }
        (None, None) => (),
        _ => bail!("upstream-user and upstream-password-file belong together"),
    }
    let ttl = written.upstream_ttl.as_deref().map_or(Ok(UPSTREAM_TTL), duration)?;
    let images = wharf_image::Settings {
        registries: wharf_image::RegistrySettings {
            proxy: wharf_image::ProxySettings::from_env(),
            ..wharf_image::RegistrySettings::default()
        },
        ..wharf_image::Settings::default()
    };
    let registries = Registries::new(&images);
    Ok(Some(Cache::new(registries, domain, auth, ttl, defaults.clock.clone())))
}

/// `ADDR:PORT`, `:PORT` for every address, `localhost:PORT`.
fn address(text: &str) -> Result<SocketAddr> {
    let full = match text.split_once(':') {
        Some(("", port)) => format!("0.0.0.0:{port}"),
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        _ => text.to_owned(),
    };
    full.parse().with_context(|| format!("{text:?} is not ADDR:PORT"))
}

fn tls_files(written: &Written) -> Result<Option<TlsFiles>> {
    match (&written.tls_cert, &written.tls_key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: written.tls_client_ca.clone(),
        })),
        (None, None) if written.tls_client_ca.is_none() => Ok(None),
        _ => bail!("TLS needs both tls-cert and tls-key"),
    }
}

fn auth(written: &Written) -> Result<Auth> {
    let foreign = [&written.token_realm, &written.token_service, &written.token_issuer];
    match (foreign, &written.token_keys) {
        ([Some(realm), Some(service), Some(issuer)], Some(keys)) => {
            ensure!(
                written.htpasswd.is_none(),
                "htpasswd and the tokens of another server exclude each other"
            );
            return Ok(Auth::foreign(realm, service, issuer, keys)?);
        }
        ([None, None, None], None) => (),
        _ => bail!("token-realm, token-service, token-issuer and token-keys belong together"),
    }
    match (&written.htpasswd, written.auth.as_deref()) {
        (Some(file), None | Some("basic")) => Ok(Auth::basic(file)?),
        (Some(file), Some("token")) => Ok(Auth::token(file)?),
        (Some(_), Some(other)) => bail!("auth is basic or token, not {other:?}"),
        (None, Some(_)) => bail!("auth needs htpasswd"),
        (None, None) => Ok(Auth::None),
    }
}

/// `90s`, `15m`, `1h`, `7d`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => bail!("{text:?} is not a duration: want a number and s, m, h or d"),
    };
    let number: u64 = number.parse().with_context(|| format!("{text:?} is not a duration"))?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(text: &str) -> Result<Resolved> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("registry.toml");
        wharf_base::fs::write_atomic(
            &path,
            text.as_bytes(),
            0o600,
            wharf_base::fs::Durability::Process,
        )?;
        resolve(Written::default(), Some(&path))
    }

    #[test]
    fn files_have_the_names_of_flags() {
        let resolved = from_file(
            "addr = ':5001'\nread-only = true\ngc-grace = '90s'\n[[rule]]\nrepository = 'a'\npull = ['*']\n",
        )
        .unwrap();
        assert_eq!(resolved.addr.to_string(), "0.0.0.0:5001");
        assert!(resolved.settings.read_only && resolved.settings.deletes);
        assert_eq!(resolved.settings.grace, Duration::from_secs(90));
        assert_ne!(resolved.settings.rules, Rules::default());
        assert!(from_file("adr = ':1'").is_err());
    }

    #[test]
    fn half_settings_are_refused() {
        for text in [
            "addr = 'example.com:80'",
            "tls-cert = 'x'",
            "tls-client-ca = 'x'",
            "auth = 'token'",
            "token-realm = 'https://x'",
            "gc-grace = '1y'",
            "gc-grace = '1s'",
            "upload-lifetime = 'h'",
            "upstream-ttl = '1m'",
            "upstream = 'docker.io'\nupstream-user = 'x'",
        ] {
            assert!(from_file(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }
}
