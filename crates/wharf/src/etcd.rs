//! `wharf etcd`: the cluster's store alone, behind etcd's v3 API and with etcd's flags.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use wharf_etcd::{Door, Embedded, Member, Retention, Settings, Tls, Users};

/// The cluster's store: etcd's v3 API over one member.
#[derive(Debug, Parser)]
#[command(name = "etcd", bin_name = "wharf etcd", version = wharf_engine::info::VERSION)]
#[command(args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Work with snapshots that etcdctl or etcdutl saved
    #[command(subcommand)]
    Snapshot(Snapshot),
}

#[derive(Debug, Subcommand)]
enum Snapshot {
    /// Make a data directory from a snapshot, of wharf or of etcd
    Restore {
        /// The snapshot
        file: PathBuf,
        /// The directory to make; it must not exist, or be empty
        #[arg(long)]
        data_dir: PathBuf,
        /// Take a file that has no checksum, such as a copy of etcd's member/snap/db
        #[arg(long)]
        skip_hash_check: bool,
    },
    /// Say what a snapshot holds
    Status {
        /// The snapshot
        file: PathBuf,
        /// Take a file that has no checksum
        #[arg(long)]
        skip_hash_check: bool,
    },
}

#[derive(Debug, Args)]
struct Serve {
    /// The member's name
    #[arg(long, env = "ETCD_NAME", default_value = "default")]
    name: String,
    /// Where the data is [default: NAME.etcd]
    #[arg(long, env = "ETCD_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// URLs to listen on for clients, separated by commas
    #[arg(
        long,
        env = "ETCD_LISTEN_CLIENT_URLS",
        value_delimiter = ',',
        default_value = "http://localhost:2379"
    )]
    listen_client_urls: Vec<String>,
    /// URLs that clients are told [default: those of --listen-client-urls]
    #[arg(long, env = "ETCD_ADVERTISE_CLIENT_URLS", value_delimiter = ',')]
    advertise_client_urls: Vec<String>,
    /// URLs that other members would be told; there are none, but clients ask
    #[arg(
        long,
        env = "ETCD_INITIAL_ADVERTISE_PEER_URLS",
        value_delimiter = ',',
        default_value = "http://localhost:2380"
    )]
    initial_advertise_peer_urls: Vec<String>,
    /// A name that all members of a cluster share
    #[arg(long, env = "ETCD_INITIAL_CLUSTER_TOKEN", default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// The server's certificate
    #[arg(long, env = "ETCD_CERT_FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// The key of the server's certificate
    #[arg(long, env = "ETCD_KEY_FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// The authority that clients' certificates must come from
    #[arg(long, env = "ETCD_TRUSTED_CA_FILE")]
    trusted_ca_file: Option<PathBuf>,
    /// Let in only clients that show a certificate
    #[arg(
        long,
        env = "ETCD_CLIENT_CERT_AUTH",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        requires = "trusted_ca_file"
    )]
    client_cert_auth: bool,
    /// Bytes of keys and values beyond which puts are refused; 0 is 2 GiB
    #[arg(long, env = "ETCD_QUOTA_BACKEND_BYTES", default_value_t = 0)]
    quota_backend_bytes: u64,
    /// Operations that a transaction may have
    #[arg(long, env = "ETCD_MAX_TXN_OPS", default_value_t = 128)]
    max_txn_ops: usize,
    /// How often idle watches that asked for it hear of progress
    #[arg(
        long,
        env = "ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL",
        visible_alias = "watch-progress-notify-interval",
        default_value = "10m",
        value_parser = duration
    )]
    experimental_watch_progress_notify_interval: Duration,
    /// How --auto-compaction-retention is meant: as a time (periodic) or as a number of revisions (revision)
    #[arg(
        long,
        env = "ETCD_AUTO_COMPACTION_MODE",
        value_parser = ["periodic", "revision"],
        default_value = "periodic"
    )]
    auto_compaction_mode: String,
    /// History that is kept: hours or a duration such as 30m, or a number of revisions; 0 keeps everything
    #[arg(long, env = "ETCD_AUTO_COMPACTION_RETENTION", default_value = "0")]
    auto_compaction_retention: String,
    /// What signing in gives: simple tokens, which end with the member
    #[arg(long, env = "ETCD_AUTH_TOKEN", value_parser = ["simple"], default_value = "simple")]
    auth_token: String,
    /// Seconds that a token is good for after its last use
    #[arg(long, env = "ETCD_AUTH_TOKEN_TTL", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    auth_token_ttl: u64,
    /// How much work a password's hash is, as a power of two
    #[arg(long, env = "ETCD_BCRYPT_COST", default_value_t = 10, value_parser = clap::value_parser!(u32).range(4..=31))]
    bcrypt_cost: u32,
    /// What to log: debug, info, warn, error
    #[arg(long, env = "ETCD_LOG_LEVEL", default_value = "info")]
    log_level: LevelFilter,
}

/// Runs with the arguments after `etcd`; the first one is a name.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let flags = match Flags::try_parse_from(args) {
        Ok(flags) => flags,
        Err(e) => {
            // Nothing can be said if the terminal is gone.
            drop(e.print());
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(1));
        }
    };
    let done = match flags.verb {
        None => start(&flags.serve),
        Some(Verb::Snapshot(verb)) => snapshot(verb),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            wharf_cli::app::warn(format!("wharf etcd: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The verb with its flags, for the manual.
pub(crate) fn command() -> clap::Command {
    <Flags as clap::CommandFactory>::command()
}

fn snapshot(verb: Snapshot) -> Result<()> {
    match verb {
        Snapshot::Restore { file, data_dir, skip_hash_check } => {
            let status = wharf_etcd::restore(&file, &data_dir, !skip_hash_check)?;
            say(format!(
                "restored {} keys at revision {} into {}",
                status.keys,
                status.revision,
                data_dir.display()
            ))
        }
        Snapshot::Status { file, skip_hash_check } => {
            let status = wharf_etcd::inspect(&file, !skip_hash_check)?;
            say(format!(
                "revision {}, {} keys, compacted up to {}, {} bytes of keys and values",
                status.revision, status.keys, status.compacted, status.size
            ))
        }
    }
}

fn say(line: String) -> Result<()> {
    // A failure to write has been said by whoever failed.
    if wharf_cli::app::say_line(line).is_err() {
        bail!("standard output cannot be written");
    }
    Ok(())
}

fn start(flags: &Serve) -> Result<()> {
    use std::io::IsTerminal as _;
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(flags.log_level)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(std::io::stderr)
        .finish();
    tracing::subscriber::set_global_default(subscriber).context("start to log")?;
    if let Err(e) = wharf_sys::daemon::raise_file_limit() {
        tracing::warn!(error = %e, "the limit of open files stays as it is");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("start threads")?.block_on(serve(flags))
}

async fn serve(flags: &Serve) -> Result<()> {
    let dir = flags.data_dir.clone().unwrap_or_else(|| format!("{}.etcd", flags.name).into());
    if dir.join("member").is_dir() {
        bail!(
            "{} holds the data of an etcd; save a snapshot with etcdctl and use wharf etcd snapshot restore",
            dir.display()
        );
    }
    let listen: Vec<Url> =
        flags.listen_client_urls.iter().map(|url| url.parse()).collect::<Result<_>>()?;
    let tls = tls(flags)?;
    let mut settings = Settings { max_ops: flags.max_txn_ops, ..Settings::default() };
    if flags.quota_backend_bytes > 0 {
        settings.quota = flags.quota_backend_bytes;
    }
    let store = Embedded::open(&dir, &settings)
        .with_context(|| format!("open the store in {}", dir.display()))?;
    let retention = retention(&flags.auto_compaction_mode, &flags.auto_compaction_retention)?;
    let revision = store.status().revision;
    tracing::info!(dir = %dir.display(), %revision, "the store is open");
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(retention) = retention {
        tasks.spawn(wharf_etcd::compact_by_itself(store.clone(), retention));
    }
    let token_ttl = Duration::from_secs(flags.auth_token_ttl);
    let users = Users { token_ttl, bcrypt_cost: flags.bcrypt_cost };
    let mut door = Door::new(store, member(flags), users);
    for url in listen {
        let tls = match (url.secure, &tls) {
            (false, _) => None,
            (true, Some(tls)) => Some(tls.clone()),
            (true, None) => bail!("https in --listen-client-urls needs --cert-file and --key-file"),
        };
        let address = door.listen(url.address, tls).await?;
        tracing::info!(%address, secure = url.secure, "listening for clients");
    }
    let mut term = signal(SignalKind::terminate()).context("catch SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("catch SIGINT")?;
    door.serve(async move {
        tokio::select! {
            _ = term.recv() => (),
            _ = int.recv() => (),
        }
        tracing::info!("stopping");
    })
    .await?;
    Ok(())
}

/// How much history is kept; nothing is all of it.
fn retention(mode: &str, text: &str) -> Result<Option<Retention>> {
    let number = text.parse::<i64>().ok();
    if number == Some(0) {
        return Ok(None);
    }
    let wrong = || format!("--auto-compaction-retention {text:?} does not fit the mode {mode}");
    match (mode, number) {
        ("revision", Some(n)) if n > 0 => Ok(Some(Retention::Revisions(n))),
        // A number alone is hours.
        ("periodic", Some(n)) if n > 0 => {
            let seconds = u64::try_from(n).ok().and_then(|n| n.checked_mul(3600));
            let time = Duration::from_secs(seconds.with_context(wrong)?);
            Ok(Some(Retention::Time(time)))
        }
        ("periodic", None) => {
            let time = duration(text).map_err(anyhow::Error::msg).with_context(wrong)?;
            Ok(Some(Retention::Time(time)))
        }
        _ => bail!(wrong()),
    }
}

fn member(flags: &Serve) -> Member {
    let client_urls = match flags.advertise_client_urls.is_empty() {
        true => flags.listen_client_urls.clone(),
        false => flags.advertise_client_urls.clone(),
    };
    Member {
        name: flags.name.clone(),
        token: flags.initial_cluster_token.clone(),
        client_urls,
        peer_urls: flags.initial_advertise_peer_urls.clone(),
        progress: flags.experimental_watch_progress_notify_interval,
    }
}

fn tls(flags: &Serve) -> Result<Option<Tls>> {
    let (Some(certificate), Some(key)) = (&flags.cert_file, &flags.key_file) else {
        return Ok(None);
    };
    let authority = flags.trusted_ca_file.as_deref().filter(|_| flags.client_cert_auth);
    let client_authority = authority.map(read).transpose()?;
    Ok(Some(Tls { certificate: read(certificate)?, key: read(key)?, client_authority }))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// An address to listen on.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    secure: bool,
    address: SocketAddr,
}

impl std::str::FromStr for Url {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Url> {
        let (scheme, rest) =
            text.split_once("://").with_context(|| format!("{text:?}: no scheme"))?;
        let secure = match scheme {
            "http" => false,
            "https" => true,
            other => bail!("{text:?}: cannot listen on {other}, only on http and https"),
        };
        let rest = rest.trim_end_matches('/');
        // etcd listens on addresses, and on one name.
        let rest = match rest.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => rest.to_owned(),
        };
        let address =
            rest.parse().with_context(|| format!("{text:?}: not an IP address with a port"))?;
        Ok(Url { secure, address })
    }
}

/// Reads Go's durations as far as flags need them: `90s`, `10m`, `1h30m`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration like 10m or 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let n: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        let millis = match &rest[digits..digits + unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        total += Duration::from_millis(n.checked_mul(millis).ok_or_else(wrong)?);
        rest = &rest[digits + unit..];
    }
    match total.is_zero() {
        true => Err(wrong()),
        false => Ok(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_etcd() {
        command().debug_assert();
        let line = "etcd --name m1 --data-dir /d --listen-client-urls http://127.0.0.1:1,https://[::1]:2 \
                    --cert-file c --key-file k --trusted-ca-file a --client-cert-auth";
        let flags = Flags::try_parse_from(line.split_whitespace()).unwrap().serve;
        assert!(flags.client_cert_auth);
        assert_eq!(flags.listen_client_urls.len(), 2);
        for wrong in ["--auth-token=jwt,sign-method=RS256", "--bcrypt-cost=3", "--auth-token-ttl=0"]
        {
            let refused = Flags::try_parse_from(["etcd", wrong]).unwrap_err().to_string();
            assert!(refused.contains(wrong.split('=').next().unwrap()), "{refused}");
        }
        let refused = Flags::try_parse_from(["etcd", "--enable-v2"]).unwrap_err().to_string();
        assert!(refused.contains("--enable-v2"), "{refused}");
    }

    #[test]
    fn urls_name_an_address() {
        let url: Url = "https://localhost:2379".parse().unwrap();
        assert_eq!(url, Url { secure: true, address: "127.0.0.1:2379".parse().unwrap() });
        for wrong in ["127.0.0.1:1", "unix:///x", "http://example.org:1", "http://127.0.0.1"] {
            wrong.parse::<Url>().unwrap_err();
        }
    }

    #[test]
    fn retentions_are_times_or_revisions() {
        let hours = |n: u64| Some(Retention::Time(Duration::from_secs(n * 3600)));
        assert_eq!(retention("periodic", "0").unwrap(), None);
        assert_eq!(retention("periodic", "2").unwrap(), hours(2));
        assert_eq!(retention("periodic", "60m").unwrap(), hours(1));
        assert_eq!(retention("revision", "1000").unwrap(), Some(Retention::Revisions(1000)));
        assert!(retention("revision", "1h").is_err() && retention("periodic", "-1").is_err());
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "5", "m", "5 m", "0s", "-5s"] {
            duration(wrong).unwrap_err();
        }
    }
}
