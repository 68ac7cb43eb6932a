//! `wharf kube serve`: the Kubernetes API over the embedded store, in one process.

mod flags;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use flags::{Auth, Serve};
use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use wharf_apiserver::api::Api;
use wharf_apiserver::audit::{Audit, Policy};
use wharf_apiserver::authn::{Authenticator, jwt::Keys, oidc};
use wharf_apiserver::certs::Pki;
use wharf_apiserver::flow::Flow;
use wharf_apiserver::local::Local;
use wharf_apiserver::server::Server;
use wharf_apiserver::tokens::StaticTokens;
use wharf_apiserver::{aggregator, bootstrap, door, loops};
use wharf_base::clock::Clock;
use wharf_base::fs::{Durability, write_atomic};
use wharf_client::Cluster;
use wharf_controllers::Choice;
use wharf_etcd::{Embedded, Mirror, Remote, Settings, Store};

/// The Kubernetes API.
#[derive(Parser)]
#[command(name = "wharf kube", version)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve the Kubernetes API from this process
    Serve(Box<Serve>),
}

/// How old a certificate becomes that lasts a year.
const ROTATE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Where systems keep the authorities that they trust.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Prefixes of what is not worth a disk: heartbeats and events.
const VOLATILE: &[&str] = &["/registry/events/", "/registry/coordination.k8s.io/leases/"];

/// The prefix of everything that is kept in an etcd cluster.
const OBJECTS: &str = "/registry/";

/// Runs the verb that follows `kube`.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args = Args::parse_from(args);
    let filter = tracing_subscriber::EnvFilter::new("info");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if let Err(e) = wharf_sys::daemon::raise_file_limit() {
        tracing::warn!(error = %e, "the limit of open files stays as it is");
    }
    let Verb::Serve(serve) = args.verb;
    match run(*serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // A person is likely to read this.
            #[allow(clippy::print_stderr, reason = "the last words of a server that failed")]
            {
                eprintln!("wharf kube serve: {e:#}");
            }
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn run(args: Serve) -> Result<()> {
    let controllers = Choice::parse(args.controllers.iter().map(String::as_str));
    let controllers = controllers.context("cannot take --controllers")?;
    let clock = Clock::system();
    let mut hosts = args.tls_san.clone();
    hosts.push(args.bind.ip().to_string());
    let pki =
        Pki::open(&args.data_root.join("pki"), &hosts).context("cannot prepare certificates")?;
    let store = open_store(&args, &clock).await?;
    let api = Api::new(store, clock);
    api.peers.introduce(&pki).context("cannot read the front proxy's certificate")?;
    let listener = tokio::net::TcpListener::bind(args.bind)
        .await
        .with_context(|| format!("cannot listen on {}", args.bind))?;
    let address = listener.local_addr().context("the listener has no address")?;
    api.services.load(&api).await.context("cannot read the services")?;
    // Clients on this machine reach a server that listens everywhere by the loopback address.
    let mut reached = address;
    if address.ip().is_unspecified() {
        reached.set_ip(if address.is_ipv6() {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        });
    }
    bootstrap::run(&api, reached).await.context("cannot create the first objects")?;
    let (clients, proxy) = (pki.read("ca.crt"), pki.read("front-proxy-ca.crt"));
    let (clients, proxy) = (
        clients.context("cannot read the authority")?,
        proxy.context("cannot read the authority")?,
    );
    aggregator::publish(&api, &clients, &proxy)
        .await
        .context("cannot say which authorities are trusted")?;
    let _upkeep = loops::start(&api, reached);
    let authenticator = authenticator(&args.auth, &pki)?;
    let mut server = Server::new(api, authenticator, address.to_string());
    server.audit = audit(&args)?;
    server.flow = Flow::new(args.max_requests_inflight, args.max_mutating_requests_inflight);
    let server = Arc::new(server);
    let cluster: Arc<dyn Cluster> = Arc::new(Local::new(Arc::clone(&server), "system:apiserver"));
    let _loops = wharf_controllers::start(&cluster, &loop_settings(&args, &pki, controllers)?);
    let tls = pki.tls().context("cannot use the certificates")?;
    write_kubeconfigs(&args, &pki, reached)?;
    tracing::info!(%address, "serving the Kubernetes API");
    let mut term = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let hup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    let stop = async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            () = rotate(&args, &pki, reached, hup) => {}
        }
    };
    door::serve(server, listener, tls, stop).await;
    Ok(())
}

async fn open_store(args: &Serve, clock: &Clock) -> Result<Arc<dyn Store>> {
    if args.store.etcd.is_empty() {
        let settings = Settings {
            volatile: VOLATILE.iter().map(|p| (*p).into()).collect(),
            clock: clock.clone(),
            ..Settings::default()
        };
        let store = Embedded::open(&args.data_root.join("store"), &settings)
            .context("cannot open the store")?;
        return Ok(Arc::new(store));
    }
    let identity = match (&args.store.etcd_certfile, &args.store.etcd_keyfile) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        _ => None,
    };
    let cluster = wharf_etcd::Cluster {
        endpoints: args.store.etcd.clone(),
        authority: args.store.etcd_cafile.as_deref().map(read).transpose()?,
        identity,
        user: None,
    };
    let remote = Remote::connect(cluster).await.context("cannot reach the etcd cluster")?;
    let store = Mirror::open(remote, OBJECTS).await.context("cannot copy the etcd cluster")?;
    Ok(Arc::new(store))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn authenticator(auth: &Auth, pki: &Pki) -> Result<Authenticator> {
    let keys = Keys::from_der(&pki.token_key().context("cannot read the key of tokens")?)?;
    let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
    let mut out = Authenticator::new(keys, issuer);
    if let Some(file) = &auth.token_auth_file {
        let text = String::from_utf8(read(file)?).context("the token file is no text")?;
        out.listed = StaticTokens::parse(&text)?;
    }
    out.proxies.clone_from(&auth.requestheader_allowed_names);
    let (Some(issuer), Some(client_id)) = (&auth.oidc_issuer_url, &auth.oidc_client_id) else {
        return Ok(out);
    };
    if !issuer.starts_with("https://") {
        bail!("--oidc-issuer-url must begin with https://");
    }
    let claim = |text: &String| match text.split_once('=') {
        Some((k, v)) => Ok((k.to_owned(), v.to_owned())),
        None => bail!("--oidc-required-claim {text:?} is not CLAIM=VALUE"),
    };
    let settings = oidc::Settings {
        issuer: issuer.clone(),
        client_id: client_id.clone(),
        username_claim: auth.oidc_username_claim.clone(),
        username_prefix: auth.oidc_username_prefix.clone(),
        groups_claim: auth.oidc_groups_claim.clone(),
        groups_prefix: auth.oidc_groups_prefix.clone(),
        required: auth.oidc_required_claim.iter().map(claim).collect::<Result<_>>()?,
    };
    let file = auth.oidc_ca_file.as_deref().unwrap_or(Path::new(SYSTEM_AUTHORITIES));
    let roots = wharf_apiserver::certs::roots(file).context("cannot trust the issuer")?;
    out.oidc = Some(oidc::Oidc::new(settings, roots).context("cannot trust the issuer")?);
    Ok(out)
}

fn audit(args: &Serve) -> Result<Option<Audit>> {
    let (Some(policy), Some(path)) = (&args.audit_policy_file, &args.audit_log_path) else {
        return Ok(None);
    };
    let policy = Policy::parse(&read(policy)?)?;
    let out: Box<dyn std::io::Write + Send> = if path.as_os_str() == "-" {
        Box::new(std::io::stdout())
    } else {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        Box::new(file.with_context(|| format!("cannot open {}", path.display()))?)
    };
    Ok(Some(Audit::new(policy, out)))
}

fn loop_settings(
    args: &Serve,
    pki: &Pki,
    controllers: Choice,
) -> Result<wharf_controllers::Settings> {
    let root = pki.read("ca.crt").context("cannot read the authority")?;
    let key = pki.read("ca.key").context("cannot read the authority")?;
    let authority = Some(wharf_controllers::Authority { certificate: root.clone(), key });
    Ok(wharf_controllers::Settings { root, authority, controllers, fake_nodes: args.fake_nodes })
}

fn write_kubeconfigs(args: &Serve, pki: &Pki, reached: SocketAddr) -> Result<()> {
    let server = format!("https://{reached}");
    let write = |file: &Path, text: &str| {
        write_atomic(file, text.as_bytes(), 0o600, Durability::Process)
            .with_context(|| format!("cannot write {}", file.display()))
    };
    if let Some(file) = &args.write_kubeconfig {
        write(file, &pki.kubeconfig(&server).context("cannot make the kubeconfig")?)?;
    }
    if let Some(file) = &args.merge_kubeconfig {
        let old = match std::fs::read_to_string(file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            old => old.with_context(|| format!("cannot read {}", file.display()))?,
        };
        let text = pki.merged_kubeconfig(&old, &server);
        write(file, &text.with_context(|| format!("cannot merge into {}", file.display()))?)?;
    }
    Ok(())
}

/// Signs certificates anew long before they end, and whenever the process is told to.
async fn rotate(args: &Serve, pki: &Pki, reached: SocketAddr, mut hup: Signal) {
    loop {
        tokio::select! {
            _ = hup.recv() => {}
            () = tokio::time::sleep(ROTATE) => {}
        }
        let renewed = pki.renew().map_err(anyhow::Error::from);
        match renewed.and_then(|()| write_kubeconfigs(args, pki, reached)) {
            Ok(()) => tracing::info!("the certificates are new"),
            Err(e) => {
                tracing::error!(error = format!("{e:#}"), "the certificates stay as they are")
            }
        }
    }
}
