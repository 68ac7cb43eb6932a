//! The Kubernetes API: start, idle, single objects by one and eight clients, lists, watchers; many pods as a part of its own.
//!
//! No real kube-apiserver runs beside it: the aims are fractions of what version 1.36 over etcd did on two
//! cores, so that they can be judged without it.

mod scale;
mod watch;

use super::lab::Lab;
use super::table::{Aim, Row};
use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wharf_test::http::{Response, exchange};
use wharf_test::tools;

/// Clients that work at once.
const CLIENTS: usize = 8;
/// Pods of the lists.
const PODS: usize = 1_200;
/// Bytes of a ConfigMap's value.
const VALUE: usize = 1024;

pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let time = Duration::from_secs(if lab.quick { 2 } else { 5 });
    let mut rows = Vec::new();
    let server = Server::start(&[], &mut rows)?;
    idle(&server, lab, &mut rows)?;
    let configs = "/api/v1/namespaces/default/configmaps";
    let config = |name: &str| {
        json!({"metadata": {"name": name}, "data": {"k": "v".repeat(VALUE)}}).to_string()
    };
    let create = |c: &mut Client, n: usize| c.send("POST", configs, &config(&format!("c{n}")), 201);
    let made = load(&server, CLIENTS, time, &create)?;
    rows.push(rate("create a ConfigMap of 1 KiB, durable, 8 clients", &made, 5.0 * 989.0));
    rows.push(Row::new("the same, 99th percentile", "ms", made.percentile(99)));
    let one = format!("{configs}/c0");
    let get = |c: &mut Client, _: usize| c.send("GET", &one, "", 200);
    rows.push(rate(
        "get a ConfigMap, 8 clients",
        &load(&server, CLIENTS, time, &get)?,
        5.0 * 2_234.0,
    ));
    let alone = load(&server, 1, time, &get)?;
    let row = Row::new("get a ConfigMap, 1 client, median", "ms", alone.percentile(50));
    rows.push(row.aim(Aim::Below(0.2)));
    let patch = |c: &mut Client, n: usize| {
        let path = format!("{configs}/c{}", n % CLIENTS);
        c.send("PATCH", &path, &format!("{{\"data\":{{\"n\":\"{n}\"}}}}"), 200)
    };
    rows.push(rate(
        "merge patch a ConfigMap, 8 clients",
        &load(&server, CLIENTS, time, &patch)?,
        5.0 * 978.0,
    ));
    pods(&server, &mut rows)?;
    watch::measure(&server, lab.quick, &mut rows)?;
    Ok(rows)
}

/// Many pods on many nodes, on a server of their own.
pub(crate) fn scale(lab: &Lab) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    scale::measure(lab.quick, &mut rows)?;
    Ok(rows)
}

/// A rate that should reach a limit.
fn rate(work: &str, done: &Done, least: f64) -> Row {
    let row = Row::new(work, "/s", done.rate);
    row.aim(Aim::Above(least))
}

fn idle(server: &Server, lab: &Lab, rows: &mut Vec<Row>) -> Result<()> {
    // What the start left to do is done by then.
    std::thread::sleep(Duration::from_secs(5));
    let watched = Duration::from_secs(if lab.quick { 5 } else { 20 });
    let (cpu, written) = (server.cpu()?, server.written()?);
    std::thread::sleep(watched);
    let used = (server.cpu()? - cpu) / watched.as_secs_f64() * 1e3;
    rows.push(Row::new("idle: processor", "millicores", used).aim(Aim::Below(1.0)));
    let wrote = server.written()?.saturating_sub(written);
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    rows.push(Row::new("idle: written to disk", "bytes", wrote as f64).aim(Aim::Below(0.0)));
    rows.push(Row::new("idle: resident", "MB", server.resident()?).aim(Aim::Below(40.0)));
    Ok(())
}

fn pods(server: &Server, rows: &mut Vec<Row>) -> Result<()> {
    let path = "/api/v1/namespaces/default/pods";
    let create = |c: &mut Client, n: usize| c.send("POST", path, &pod(n, "10m"), 201);
    let made = rate("create a pod, 8 clients", &count(server, PODS, &create)?, 5.0 * 596.0);
    rows.push(made.because(
        "The clients and the server share two processors: runs of one day gave 2,200 to 3,200 on one machine.",
    ));
    for (word, accept) in
        [("JSON", "application/json"), ("protobuf", "application/vnd.kubernetes.protobuf")]
    {
        let mut c = server.client()?;
        let mut times = Vec::new();
        for _ in 0..20 {
            let begin = Instant::now();
            c.ask("GET", path, accept, "", 200)?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        let done = Done::new(times, 1.0);
        let work = format!("list {PODS} pods, {word}, median");
        rows.push(Row::new(work, "ms", done.percentile(50)).aim(Aim::Below(12.0)));
    }
    let delete = |c: &mut Client, n: usize| c.send("DELETE", &format!("{path}/p{n}"), "", 200);
    rows.push(rate("delete a pod, 8 clients", &count(server, PODS, &delete)?, 5.0 * 339.0));
    Ok(())
}

/// A pod as people write them, which asks for so much processor time.
fn pod(n: usize, cpu: &str) -> String {
    json!({"metadata": {"name": format!("p{n}"), "labels": {"app": "web", "n": n.to_string()}},
        "spec": {"containers": [{"name": "c", "image": "nginx:1", "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "value": "b"}], "resources": {"requests": {"cpu": cpu}}}]}})
    .to_string()
}

/// What came of some work: its rate, and the times of its pieces in milliseconds, sorted.
struct Done {
    rate: f64,
    times: Vec<f64>,
}

impl Done {
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    fn new(mut times: Vec<f64>, seconds: f64) -> Done {
        times.sort_by(f64::total_cmp);
        Done { rate: times.len() as f64 / seconds, times }
    }

    fn percentile(&self, n: usize) -> f64 {
        self.times.get(self.times.len() * n / 100).copied().unwrap_or(f64::NAN)
    }
}

type Work<'a> = &'a (dyn Fn(&mut Client, usize) -> Result<()> + Sync);

/// Work done for some time by so many clients.
fn load(server: &Server, clients: usize, time: Duration, work: Work<'_>) -> Result<Done> {
    let end = Instant::now() + time;
    run(server, clients, &|_| Instant::now() < end, work)
}

/// Work done so many times.
fn count(server: &Server, times: usize, work: Work<'_>) -> Result<Done> {
    run(server, CLIENTS, &|n| n < times, work)
}

fn run(
    server: &Server,
    clients: usize,
    goes_on: &(dyn Fn(usize) -> bool + Sync),
    work: Work<'_>,
) -> Result<Done> {
    let next = AtomicUsize::new(0);
    let begin = Instant::now();
    let times = std::thread::scope(|scope| {
        let one = || -> Result<Vec<f64>> {
            let mut client = server.client()?;
            let mut times = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if !goes_on(n) {
                    return Ok(times);
                }
                let begin = Instant::now();
                work(&mut client, n)?;
                times.push(begin.elapsed().as_secs_f64() * 1e3);
            }
        };
        let all: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        let mut times = Vec::new();
        for thread in all {
            match thread.join() {
                Ok(some) => times.extend(some?),
                Err(_) => bail!("a client has panicked"),
            }
        }
        Ok(times)
    })?;
    Ok(Done::new(times, begin.elapsed().as_secs_f64()))
}

/// `wharf kube serve` on the disk that the repository is on.
struct Server {
    child: Child,
    dir: PathBuf,
    address: String,
    /// Nothing until the server has made its certificates.
    tls: Option<Arc<ClientConfig>>,
}

impl Server {
    /// Starts one, with more flags, and notes how long it took.
    fn start(flags: &[String], rows: &mut Vec<Row>) -> Result<Server> {
        let dir = crate::sh::root().join("target/bench-kube");
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => (),
        }
        fs::create_dir_all(&dir)?;
        let begin = Instant::now();
        let child = Command::new(tools::wharf())
            .args(["kube", "serve", "--bind", "127.0.0.1:16443", "--data-root"])
            .arg(&dir)
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start wharf kube serve")?;
        let mut server =
            Server { child, dir: dir.clone(), address: "127.0.0.1:16443".to_owned(), tls: None };
        server.until(begin, "/readyz")?;
        let ready = begin.elapsed().as_secs_f64();
        rows.push(Row::new("first start to /readyz", "s", ready).aim(Aim::Below(0.3)));
        server.until(begin, "/api/v1/namespaces/default/serviceaccounts/default")?;
        let account = begin.elapsed().as_secs_f64();
        let row = Row::new("first start to the default service account", "s", account);
        rows.push(row.aim(Aim::Below(0.5)));
        Ok(server)
    }

    /// Asks until the answer is 200.
    fn until(&mut self, begin: Instant, path: &str) -> Result<()> {
        loop {
            if let Ok(tls) = config(&self.dir) {
                self.tls = Some(Arc::new(tls));
                if self.client().is_ok_and(|mut c| c.send("GET", path, "", 200).is_ok()) {
                    return Ok(());
                }
            }
            if begin.elapsed() > Duration::from_secs(60) {
                bail!("{path} does not answer");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn client(&self) -> Result<Client> {
        let tls = self.tls.as_ref().context("there are no certificates yet")?;
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let tls = ClientConnection::new(Arc::clone(tls), name)?;
        Ok(Client(StreamOwned::new(tls, stream)))
    }

    fn proc(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?)
    }

    /// Seconds of processor time so far.
    fn cpu(&self) -> Result<f64> {
        let nanos = fs::read_dir(format!("/proc/{}/task", self.child.id()))?
            .filter_map(|t| fs::read_to_string(t.ok()?.path().join("schedstat")).ok())
            .filter_map(|s| s.split(' ').next()?.parse::<f64>().ok());
        Ok(nanos.sum::<f64>() / 1e9)
    }

    /// Bytes written to disks so far.
    fn written(&self) -> Result<u64> {
        let io = self.proc("io")?;
        let line =
            io.lines().find_map(|l| l.strip_prefix("write_bytes: ")).context("no write_bytes")?;
        Ok(line.parse()?)
    }

    /// Megabytes in memory.
    fn resident(&self) -> Result<f64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is this program's own child, and may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// The administrator's certificate, and trust in the server's authority.
fn config(dir: &Path) -> Result<ClientConfig> {
    let pki = dir.join("pki");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("ca.crt"))?)?;
    let chain = vec![CertificateDer::from_pem_file(pki.join("admin.crt"))?];
    let key = PrivateKeyDer::from_pem_file(pki.join("admin.key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_client_auth_cert(chain, key)?)
}

/// One connection.
struct Client(StreamOwned<ClientConnection, TcpStream>);

impl Client {
    fn send(&mut self, method: &str, path: &str, body: &str, status: u16) -> Result<()> {
        self.ask(method, path, "application/json", body, status).map(drop)
    }

    fn ask(
        &mut self,
        method: &str,
        path: &str,
        accept: &str,
        body: &str,
        status: u16,
    ) -> Result<Response> {
        let media =
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let headers = [("Accept", accept), ("Content-Type", media)];
        let answer = exchange(&mut self.0, method, path, &headers, body.as_bytes())?;
        if answer.status != status {
            bail!("{method} {path}: {} {}", answer.status, answer.text());
        }
        Ok(answer)
    }
}
