//! The cluster's store beside Debian's etcd: durable puts, reads, and what a million keys cost.

use super::lab::Lab;
use super::table::{Aim, Row};
use super::timing::of;
use crate::sh::{cmd, root};
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wharf_etcd::{Cluster, KeyRange, Op, Put, Range, Remote, Store, Txn};
use wharf_test::tools;

/// Connections that clients share, as etcd's own benchmark does it.
const CONNECTIONS: usize = 8;

/// What a put by many clients at a time spends its time with.
const GRPC: &str = "The client runs on the same processors, and gRPC at both ends takes most of the time: gets, which \
                    do little else, are hardly faster than puts by many clients.";

pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    crate::tools::etcd()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut rows = Vec::new();
    let time = Duration::from_secs(if lab.quick { 2 } else { 5 });
    for clients in [1, 16, 100] {
        let (mut rates, mut tails) = (Vec::new(), Vec::new());
        for who in ["wharf", "etcd"] {
            let server = Server::start(who)?;
            let (rate, tail) = runtime.block_on(load(&server, clients, time, Work::Put))?;
            rates.push((who, rate));
            tails.push((who, tail));
        }
        let put = format!("put of 256 bytes, fsync on, {clients} clients");
        rows.push(row(&put, "/s", &rates).aim(Aim::AtLeast(2.0, "etcd")).because(GRPC));
        rows.push(row(&format!("{put}, 99th percentile"), "ms", &tails));
    }
    let mut gets = Vec::new();
    let mut sizes = Vec::new();
    let keys = if lab.quick { 100_000 } else { 1_000_000 };
    for who in ["wharf", "etcd"] {
        let server = Server::start(who)?;
        runtime.block_on(fill(&server, keys))?;
        sizes.push((who, server.resident()?));
        gets.push((who, runtime.block_on(load(&server, 8, time, Work::Get))?.0));
    }
    let resident = format!("{keys} keys of 40 bytes with values of 256: resident");
    rows.push(row(&resident, "MB", &sizes).aim(Aim::Below(500.0)));
    rows.push(row("linearizable get, 8 clients", "/s", &gets));
    Ok(rows)
}

fn row(work: &str, unit: &'static str, figures: &[(&'static str, f64)]) -> Row {
    Row::new(work, unit, of(figures, "wharf").unwrap_or(f64::NAN)).peer("etcd", of(figures, "etcd"))
}

/// A server on the disk that the repository is on.
struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    fn start(who: &str) -> Result<Server> {
        let dir = root().join("target/bench-etcd");
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => (),
        }
        let (client, peer) = (free_port()?, free_port()?);
        let endpoint = format!("http://127.0.0.1:{client}");
        let mut c = match who {
            "wharf" => cmd(tools::wharf()),
            _ => cmd(tools::path("etcd")),
        };
        if who == "wharf" {
            c.arg("etcd");
        } else {
            let peer = format!("http://127.0.0.1:{peer}");
            c.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            c.args(["--initial-cluster", &format!("default={peer}")]);
        }
        c.arg("--data-dir").arg(&dir).args(["--listen-client-urls", &endpoint]);
        c.args(["--advertise-client-urls", &endpoint, "--log-level", "error"]);
        let child =
            c.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("start a store")?;
        let server = Server { child, endpoint };
        let begin = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, client)).is_err() {
            if begin.elapsed() > Duration::from_secs(30) {
                bail!("{who} does not listen");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    async fn connect(&self) -> Result<Vec<Arc<Remote>>> {
        let mut stores = Vec::new();
        for _ in 0..CONNECTIONS {
            let endpoints = vec![self.endpoint.clone()];
            let cluster = Cluster { endpoints, ..Cluster::default() };
            stores.push(Arc::new(Remote::connect(cluster).await?));
        }
        Ok(stores)
    }

    /// Megabytes in memory.
    fn resident(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(Path::new(&path))?;
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
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[derive(Clone, Copy)]
enum Work {
    Put,
    Get,
}

/// Operations a second, and the 99th percentile of their time in milliseconds.
async fn load(server: &Server, clients: usize, time: Duration, work: Work) -> Result<(f64, f64)> {
    let stores = server.connect().await?;
    let begin = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|n| tokio::spawn(client(Arc::clone(&stores[n % CONNECTIONS]), n, begin + time, work)))
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let elapsed = begin.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let tail = times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN);
    Ok((times.len() as f64 / elapsed, tail))
}

async fn client(store: Arc<Remote>, n: usize, end: Instant, work: Work) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    while Instant::now() < end {
        let begin = Instant::now();
        match work {
            Work::Put => {
                let key = format!("bench/{n:03}/{:08}", times.len());
                store.put(Put::new(key, vec![b'v'; 256])).await?;
            }
            Work::Get => {
                let key = key(times.len() * 7919 % 100_000);
                store.range(Range::new(KeyRange::key(key))).await?;
            }
        }
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

fn key(n: usize) -> String {
    format!("/registry/configmaps/default/{n:011}")
}

/// Writes keys, a hundred to a transaction.
async fn fill(server: &Server, keys: usize) -> Result<()> {
    let stores = server.connect().await?;
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for store in stores {
        let next = Arc::clone(&next);
        tasks.push(tokio::spawn(async move {
            loop {
                let from = usize::try_from(next.fetch_add(100, Ordering::Relaxed))?;
                if from >= keys {
                    return anyhow::Ok(());
                }
                let put = |n| Op::Put(Put::new(key(n), vec![b'v'; 256]));
                let then = (from..(from + 100).min(keys)).map(put).collect();
                store.txn(Txn { then, ..Txn::default() }).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}
