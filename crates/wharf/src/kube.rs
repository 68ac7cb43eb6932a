//! `wharf kube serve`: the Kubernetes API over the embedded store, in one process.

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use wharf_apiserver::api::Api;
use wharf_apiserver::authn::{Authenticator, jwt::Keys};
use wharf_apiserver::authz::Authorizer;
use wharf_apiserver::certs::Pki;
use wharf_apiserver::local::Local;
use wharf_apiserver::server::Server;
use wharf_apiserver::{bootstrap, door, loops};
use wharf_base::clock::Clock;
use wharf_base::fs::{Durability, write_atomic};
use wharf_client::Cluster;
use wharf_etcd::{Embedded, Settings};

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
    Serve(Serve),
}

#[derive(clap::Args)]
struct Serve {
    /// Directory of the store and the certificates
    #[arg(long, value_name = "DIR", default_value = "/var/lib/wharf/kube")]
    data_root: PathBuf,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6443")]
    bind: SocketAddr,
    /// Write the administrator's kubeconfig to this file
    #[arg(long, value_name = "FILE")]
    write_kubeconfig: Option<PathBuf>,
    /// More names and addresses by which clients reach the server
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
}

/// Prefixes of what is not worth a disk: heartbeats and events.
const VOLATILE: &[&str] = &["/registry/events/", "/registry/coordination.k8s.io/leases/"];

/// Runs the verb that follows `kube`.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args = Args::parse_from(args);
    let filter = tracing_subscriber::EnvFilter::new("info");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let Verb::Serve(serve) = args.verb;
    match run(serve) {
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
    let clock = Clock::system();
    let mut hosts = args.tls_san.clone();
    hosts.push(args.bind.ip().to_string());
    let pki =
        Pki::open(&args.data_root.join("pki"), &hosts).context("cannot prepare certificates")?;
    let settings = Settings {
        volatile: VOLATILE.iter().map(|p| (*p).into()).collect(),
        clock: clock.clone(),
        ..Settings::default()
    };
    let store = Embedded::open(&args.data_root.join("store"), &settings)
        .context("cannot open the store")?;
    let api = Api::new(Arc::new(store), clock);
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
    let root = pki.read("ca.crt").context("cannot read the authority")?;
    let _upkeep = loops::start(&api, reached);
    let keys = Keys::from_der(&pki.token_key().context("cannot read the key of tokens")?)?;
    let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
    let server = Arc::new(Server {
        api,
        authenticator: Authenticator { keys, issuer },
        authorizer: Authorizer::default(),
        address: address.to_string(),
    });
    let cluster: Arc<dyn Cluster> = Arc::new(Local::new(Arc::clone(&server), "system:apiserver"));
    let _loops = wharf_controllers::start(&cluster, &wharf_controllers::Settings { root });
    let tls = pki.tls().context("cannot use the certificates")?;
    if let Some(file) = &args.write_kubeconfig {
        let text =
            pki.kubeconfig(&format!("https://{reached}")).context("cannot make the kubeconfig")?;
        write_atomic(file, text.as_bytes(), 0o600, Durability::Process)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    tracing::info!(%address, "serving the Kubernetes API");
    let mut term = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let stop = async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    door::serve(server, listener, tls, stop).await;
    Ok(())
}
