//! Crash tests: daemon, launcher and keepers are killed under load, then the world is compared with what was acknowledged.
//!
//! `WHARF_CRASH_ROUNDS` sets the number of kills (default 12), `WHARF_CRASH_SEED` repeats a run.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stderr,
    reason = "tests"
)]
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use wharf_test::host::Engine;
use wharf_test::{Host, PATIENCE, eventually, http, settles};

#[test]
fn kills_under_load_lose_and_leak_nothing() {
    if Engine::chosen() == Engine::Dockerd {
        return; // The reference keeps no such promise.
    }
    let (rounds, seed) = (number("WHARF_CRASH_ROUNDS", 12), number("WHARF_CRASH_SEED", 7));
    let mut host = Host::with_busybox();
    let clean = host.world();
    start_witness(&host);
    let witness_pid = host.inspect("witness", "{{.State.Pid}}");
    let mut dice = Dice(seed);
    let mut killed = [0; 3];
    for round in 0..rounds {
        let victim = Victim::pick(&mut dice);
        killed[victim as usize] += 1;
        let load = Load::start(host.socket(), round);
        load.wait_for(5 + dice.below(40));
        victim.kill(&mut host, &mut dice);
        load.wait_for(5);
        let ledger = load.stop();
        let at = format!("round {round} (seed {seed}): {victim:?} killed");
        compare(&host, &ledger, &at);
        assert_eq!(host.inspect("witness", "{{.State.Pid}}"), witness_pid, "{at}");
        remove_load(&host);
    }
    check_witness_log(&host);
    host.docker(["rm", "-f", "witness"]).ok();
    let mut left = String::new();
    let gone = settles(|| {
        left = host.world().beyond(&clean);
        left.is_empty().then_some(())
    });
    assert!(gone, "left behind after {rounds} kills (seed {seed}):\n{left}");
    let [daemon, launcher, keeper] = killed;
    eprintln!(
        "crash: {rounds} rounds: {daemon} daemon, {launcher} launcher, {keeper} keeper kills"
    );
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |v| v.parse().expect(variable))
}

/// A container that counts, and must neither stop nor lose a line whatever dies around it.
fn start_witness(host: &Host) {
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    host.docker(["run", "-d", "--name", "witness", "busybox", "sh", "-c", script]).ok();
}

fn check_witness_log(host: &Host) {
    host.docker(["kill", "witness"]).ok();
    let lines = host.docker(["logs", "witness"]).lines();
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line, &(i + 1).to_string(), "the witness's log has a gap or a repeat");
    }
    assert!(!lines.is_empty());
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Daemon,
    Launcher,
    Keeper,
}

impl Victim {
    fn pick(dice: &mut Dice) -> Victim {
        [Victim::Daemon, Victim::Launcher, Victim::Keeper][usize::try_from(dice.below(3)).unwrap()]
    }

    fn kill(self, host: &mut Host, dice: &mut Dice) {
        match self {
            Victim::Daemon => host.crash_daemon(),
            Victim::Launcher => {
                let daemon = i32::try_from(host.daemon()).unwrap();
                // It is away between its death in an earlier round and the next start of a container.
                let launcher = eventually("the daemon has one launcher", || {
                    let mut all = named(host, "wharf-launcher");
                    // A keeper bears the launcher's name in its first moments.
                    all.retain(|p| parent(p.as_raw_nonzero().get()) == Some(daemon));
                    assert!(all.len() < 2, "one launcher per daemon");
                    all.pop()
                });
                kill_process(launcher, Signal::KILL).unwrap();
            }
            Victim::Keeper => {
                let witness = host.inspect("witness", "{{.State.Pid}}").parse().unwrap();
                let mut keepers = named(host, "wharf-keeper");
                keepers.retain(|k| !keeps(*k, witness));
                if let Some(at) = dice.below(keepers.len() as u64 + 1).checked_sub(1) {
                    // It may have ended on its own since it was seen.
                    _ = kill_process(keepers[usize::try_from(at).unwrap()], Signal::KILL);
                }
            }
        }
    }
}

/// Processes of this host by the name the kernel shows.
fn named(host: &Host, name: &str) -> Vec<Pid> {
    let own = std::fs::read_link(format!("/proc/{}/ns/mnt", host.init())).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let here = std::fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|ns| ns == own);
        if here && comm.trim() == name {
            found.push(Pid::from_raw(pid).unwrap());
        }
    }
    found
}

/// The parent of a process, if that is still there, by their pids on this machine's side.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Whether `keeper` is the parent of the process that its host knows as `pid`.
fn keeps(keeper: Pid, pid: i32) -> bool {
    let children = format!("/proc/{0}/task/{0}/children", keeper.as_raw_nonzero());
    let children = std::fs::read_to_string(children).unwrap_or_default();
    children.split_whitespace().any(|child| {
        let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        // The pids of a process in each namespace, this machine's first and its host's second.
        let ids = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap_or_default();
        ids.split_whitespace().nth(1) == Some(pid.to_string().as_str())
    })
}

/// What is known of a container from the answers that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Creation was acknowledged and removal not asked for: it must be there.
    Exists,
    /// A request was under way when its connection broke: either is right.
    Unknown,
    /// Removal was acknowledged: it must not be there.
    Gone,
}

type Ledger = BTreeMap<String, Fate>;

/// Three clients that create, start, stop and remove as fast as the engine answers.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    ledger: Arc<Mutex<Ledger>>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(socket: PathBuf, round: u64) -> Load {
        let load = Load {
            stop: Arc::default(),
            done: Arc::default(),
            ledger: Arc::default(),
            clients: Vec::new(),
        };
        let clients = (0..3).map(|n| {
            let client = Client {
                socket: socket.clone(),
                stop: load.stop.clone(),
                done: load.done.clone(),
                ledger: load.ledger.clone(),
            };
            std::thread::spawn(move || client.run(&format!("load-{round}-{n}")))
        });
        Load { clients: clients.collect(), ..load }
    }

    /// Waits until so many more requests have been answered.
    fn wait_for(&self, requests: u64) {
        let target = self.done.load(Ordering::Relaxed) + requests;
        eventually("the load goes on", || {
            (self.done.load(Ordering::Relaxed) >= target).then_some(())
        });
    }

    fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a load client panicked");
        }
        Arc::into_inner(self.ledger).unwrap().into_inner().unwrap()
    }
}

struct Client {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Client {
    fn run(&self, prefix: &str) {
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            self.one_life(&format!("{prefix}-{n}"), n);
        }
    }

    /// One container from creation to removal, or to wherever the engine's death leaves it.
    fn one_life(&self, name: &str, n: u64) {
        let command = if n.is_multiple_of(2) { r#"["true"]"# } else { r#"["sleep","1000"]"# };
        let body = format!(r#"{{"Image":"busybox","Cmd":{command}}}"#);
        self.note(name, Fate::Unknown);
        let Some(201) = self.ask("POST", &format!("/containers/create?name={name}"), &body) else {
            return;
        };
        self.note(name, Fate::Exists);
        if self.ask("POST", &format!("/containers/{name}/start"), "").is_none() || n % 3 == 2 {
            return;
        }
        self.note(name, Fate::Unknown);
        if self.ask("DELETE", &format!("/containers/{name}?force=1"), "") == Some(204) {
            self.note(name, Fate::Gone);
        }
    }

    /// The status, or `None` when the connection broke before one arrived.
    fn ask(&self, method: &str, target: &str, body: &str) -> Option<u16> {
        let status = request(&self.socket, method, target, body).ok().map(|a| a.status);
        match status {
            Some(_) => _ = self.done.fetch_add(1, Ordering::Relaxed),
            // The engine is away; do not spin on its absence.
            None => std::thread::yield_now(),
        }
        status
    }

    fn note(&self, name: &str, fate: Fate) {
        self.ledger.lock().unwrap().insert(name.into(), fate);
    }
}

fn request(
    socket: &Path,
    method: &str,
    target: &str,
    body: &str,
) -> std::io::Result<http::Response> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let headers = [("Connection", "close"), ("Content-Type", "application/json")];
    http::exchange(
        &mut stream,
        method,
        target,
        &headers[..1 + usize::from(!body.is_empty())],
        body.as_bytes(),
    )
}

/// Every acknowledged container is there, every removed one is not, and each can be inspected.
fn compare(host: &Host, ledger: &Ledger, at: &str) {
    let list = host.api("GET", "/containers/json?all=1", b"").unwrap().json();
    let names: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["Names"][0].as_str())
        .map(|n| n.trim_start_matches('/'))
        .collect();
    for (name, fate) in ledger {
        let there = names.contains(&name.as_str());
        match fate {
            Fate::Exists => assert!(there, "{at}: {name} was created and is lost"),
            Fate::Gone => assert!(!there, "{at}: {name} was removed and is back"),
            Fate::Unknown => (),
        }
    }
    for name in names {
        let answer = host.api("GET", &format!("/containers/{name}/json"), b"").unwrap();
        assert_eq!(answer.status, 200, "{at}: inspect {name}: {}", answer.text());
        check_state(&answer.json(), name, at);
    }
}

/// What is said to run, runs.
fn check_state(container: &Value, name: &str, at: &str) {
    if container["State"]["Status"] == "running" {
        let pid = container["State"]["Pid"].as_i64().unwrap();
        assert!(pid > 0, "{at}: {name} is running without a process");
    }
}

fn remove_load(host: &Host) {
    let names = host.docker(["ps", "-aq", "--filter", "name=^load-"]).lines();
    if !names.is_empty() {
        host.docker(["rm", "-f"].map(str::to_owned).into_iter().chain(names)).ok();
    }
}

/// A small generator, so that a failing run can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
