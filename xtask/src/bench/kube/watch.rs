//! Fan-out: many watchers of one collection, and how soon each of them hears of each change.

use super::super::table::{Aim, Row};
use super::{Client, Done, Server};
use anyhow::{Context as _, Result, bail};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const PATH: &str = "/api/v1/namespaces/kube-public/configmaps";
/// How long a change may take to reach everybody before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every watcher hears of so many changes, each made when all have heard of the one before; then of as many made
/// without waiting for anybody.
pub(super) fn measure(server: &Server, quick: bool, rows: &mut Vec<Row>) -> Result<()> {
    let (watchers, updates) = if quick { (200, 100) } else { (1_000, 1_000) };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut client = server.client()?;
    client.send("POST", PATH, "{\"metadata\":{\"name\":\"news\"}}", 201)?;
    let (full, all_heard) = channel();
    let crowd =
        Arc::new(Crowd { begun: Instant::now(), heard: AtomicUsize::new(0), watchers, full });
    let ready = Arc::new(tokio::sync::Semaphore::new(0));
    let address = server.address.clone();
    let tls = TlsConnector::from(server.tls.clone().context("there are no certificates yet")?);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..watchers {
        let (crowd, ready) = (Arc::clone(&crowd), Arc::clone(&ready));
        let watch = watch(address.clone(), tls.clone(), crowd, ready, 2 * updates);
        tasks.spawn_on(watch, runtime.handle());
    }
    let all = u32::try_from(watchers)?;
    let wait = async { tokio::time::timeout(PATIENCE, ready.acquire_many(all)).await };
    drop(runtime.block_on(wait).context("the watches do not begin")??);
    let before = server.cpu()?;
    one_by_one(&mut client, &crowd, &all_heard, updates)?;
    let cpu = server.cpu()? - before;
    let burst = at_once(&mut client, &crowd, &all_heard, updates)?;
    let mut times = Vec::new();
    let joined = async {
        while let Some(one) = tasks.join_next().await {
            times.extend(one??);
        }
        anyhow::Ok(())
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, joined).await })??;
    let work = format!("{watchers} watchers × {updates} updates");
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    let (events, burst) = ((watchers * updates) as f64, burst.as_secs_f64());
    let done = Done::new(times, 1.0);
    // Whoever had missed one would have kept the next from being made.
    rows.push(Row::new(format!("{work}: events lost"), "events", 0.0).aim(Aim::Below(0.0)));
    rows.push(Row::new(
        format!("{work}: update to watcher, 99th percentile"),
        "ms",
        done.percentile(99),
    ));
    rows.push(Row::new(format!("{work}: the same, median"), "ms", done.percentile(50)));
    rows.push(Row::new(format!("{work}: processor for each event"), "µs", cpu / events * 1e6));
    rows.push(Row::new(format!("{work}, as fast as they are made"), "events/s", events / burst));
    Ok(())
}

/// What the watchers have in common.
struct Crowd {
    begun: Instant,
    heard: AtomicUsize,
    watchers: usize,
    /// Told each time when all have heard of one more change.
    full: Sender<()>,
}

impl Crowd {
    fn nanos(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Makes the change of this number.
    fn tell(&self, client: &mut Client, n: usize) -> Result<()> {
        let body = format!("{{\"data\":{{\"n\":\"{n} {}\"}}}}", self.nanos());
        client.send("PATCH", &format!("{PATH}/news"), &body, 200)
    }
}

fn one_by_one(
    client: &mut Client,
    crowd: &Crowd,
    all: &Receiver<()>,
    updates: usize,
) -> Result<()> {
    for n in 1..=updates {
        crowd.tell(client, n)?;
        all.recv_timeout(PATIENCE)
            .with_context(|| format!("update {n} did not reach everybody"))?;
    }
    Ok(())
}

fn at_once(
    client: &mut Client,
    crowd: &Crowd,
    all: &Receiver<()>,
    updates: usize,
) -> Result<Duration> {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let writer =
            scope.spawn(|| (updates + 1..=2 * updates).try_for_each(|n| crowd.tell(client, n)));
        for n in 1..=updates {
            all.recv_timeout(PATIENCE).with_context(|| format!("update {n} of many is missed"))?;
        }
        writer.join().ok().context("the writer panicked")?
    })?;
    Ok(begin.elapsed())
}

/// One watcher: hears of every change, in order; gives how long each of the first half took, in milliseconds.
async fn watch(
    address: String,
    tls: TlsConnector,
    crowd: Arc<Crowd>,
    ready: Arc<tokio::sync::Semaphore>,
    updates: usize,
) -> Result<Vec<f64>> {
    let stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let mut stream = tls.connect(ServerName::try_from("localhost")?, stream).await?;
    let head = format!("GET {PATH}?watch=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut lines = BufReader::new(stream).split(b'\n');
    let mut times = Vec::with_capacity(updates / 2);
    let mut last = None;
    while last != Some(updates) {
        let line = lines.next_segment().await?.context("the watch ended early")?;
        if !line.starts_with(b"{") {
            continue;
        }
        let text = std::str::from_utf8(&line)?;
        if !text.contains("\"name\":\"news\"") {
            continue;
        }
        let Some((n, sent)) = note(text) else {
            // What was there when the watch began.
            last = Some(0);
            ready.add_permits(1);
            continue;
        };
        if last != Some(n - 1) {
            bail!("update {n} came after {last:?}");
        }
        last = Some(n);
        if n <= updates / 2 {
            times
                .push(Duration::from_nanos(crowd.nanos().saturating_sub(sent)).as_secs_f64() * 1e3);
        }
        // Changes come to each watcher in order, so that the last of all completes the oldest that is open.
        let heard = crowd.heard.fetch_add(1, Ordering::Relaxed) + 1;
        if heard.is_multiple_of(crowd.watchers) {
            // Who waits may have given up.
            crowd.full.send(()).ok();
        }
    }
    Ok(times)
}

/// The number of a change, and when it was made.
fn note(event: &str) -> Option<(usize, u64)> {
    let (_, rest) = event.split_once("\"n\":\"")?;
    let (n, sent) = rest.split('"').next()?.split_once(' ')?;
    Some((n.parse().ok()?, sent.parse().ok()?))
}
