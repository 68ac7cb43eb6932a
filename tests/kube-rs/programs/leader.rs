//! Leader election by a Lease, as kube-rs programs write it: a lock whose holder must renew it.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use wharf_kube_rs::{PATIENCE, Program, until};

/// Seconds that a lease holds without being renewed.
const HOLDS: i32 = 2;
const RETRY: Duration = Duration::from_millis(200);

/// Somebody who wants to lead.
struct Candidate {
    name: String,
    all: Api<Lease>,
    /// What was last seen of the lease, and when: clocks of others are not believed.
    seen: Mutex<Option<(Option<String>, Instant)>>,
}

impl Candidate {
    fn new(name: &str, client: &Client) -> Candidate {
        let all = Api::default_namespaced(client.clone());
        Candidate { name: name.to_owned(), all, seen: Mutex::default() }
    }

    fn spec(&self, turn: i32, since: Option<MicroTime>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: Some(HOLDS),
            acquire_time: Some(since.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(turn),
            ..LeaseSpec::default()
        }
    }

    /// Takes or keeps the lease; says whether it is this candidate's now.
    async fn lead(&self) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.all.get_opt("lock").await? else {
            let metadata = ObjectMeta { name: Some("lock".to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(0, None)) };
            return won(self.all.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let turn = spec.lease_transitions.unwrap_or(0);
        if holder == self.name {
            lease.spec = Some(self.spec(turn, spec.acquire_time));
        } else if holder.is_empty() || self.is_stale(lease.metadata.resource_version.clone()) {
            lease.spec = Some(self.spec(turn + 1, None));
        } else {
            return Ok(false);
        }
        // The version that was read is sent back: of two who try, one is refused.
        won(self.all.replace("lock", &PostParams::default(), &lease).await)
    }

    /// Whether a lease of another has been the same for as long as it may.
    fn is_stale(&self, version: Option<String>) -> bool {
        let mut seen = self.seen.lock().unwrap();
        match &*seen {
            Some((v, since)) if *v == version => {
                since.elapsed() > Duration::from_secs(HOLDS as u64)
            }
            _ => {
                *seen = Some((version, Instant::now()));
                false
            }
        }
    }

    async fn step_down(&self) -> Result<(), kube::Error> {
        let mut lease = self.all.get("lock").await?;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now() - SignedDuration::from_secs(60)));
        }
        self.all.replace("lock", &PostParams::default(), &lease).await.map(drop)
    }
}

fn won<T>(outcome: Result<T, kube::Error>) -> Result<bool, kube::Error> {
    match outcome {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(s)) if s.is_conflict() || s.is_already_exists() => Ok(false),
        Err(e) => Err(e),
    }
}

/// Candidates that run for the lease, and who of them leads.
struct Race {
    leading: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

const NOBODY: usize = usize::MAX;

impl Race {
    fn start(client: &Client, count: usize) -> Race {
        let leading = Arc::new(AtomicUsize::new(NOBODY));
        let one = |n: usize| {
            let (own, leading) = (Candidate::new(&format!("c{n}"), client), Arc::clone(&leading));
            tokio::spawn(async move {
                loop {
                    if own.lead().await.unwrap() {
                        leading.store(n, Ordering::SeqCst);
                    }
                    tokio::time::sleep(RETRY).await;
                }
            })
        };
        let tasks = (0..count).map(one).collect();
        Race { leading, tasks }
    }

    async fn leader(&self, other_than: usize) -> usize {
        until("a leader", async || {
            let n = self.leading.load(Ordering::SeqCst);
            (n != NOBODY && n != other_than).then_some(n)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_candidates_one_leads_and_another_follows_it() {
    let p = Program::start().await;
    let all: Api<Lease> = p.api();
    let race = Race::start(&p.client, 5);
    let first = race.leader(NOBODY).await;
    let begin = Instant::now();
    // Longer than a lease holds: it is renewed, and nobody else gets it.
    while begin.elapsed() < Duration::from_millis(3_000) {
        assert_eq!(race.leading.load(Ordering::SeqCst), first);
        tokio::time::sleep(RETRY).await;
    }
    let spec = all.get("lock").await.unwrap().spec.unwrap();
    assert_eq!(spec.holder_identity, Some(format!("c{first}")));
    assert_eq!(spec.lease_transitions, Some(0));
    // A leader that dies is followed when its lease has run out, not before.
    race.tasks[first].abort();
    let died = Instant::now();
    let second = race.leader(first).await;
    assert!(died.elapsed() > Duration::from_millis(1_000) && died.elapsed() < PATIENCE);
    // One that steps down is followed at once.
    race.tasks[second].abort();
    let leaving = Candidate::new(&format!("c{second}"), &p.client);
    // What it had sent before may still be under way.
    until("the end of its lead", async || leaving.step_down().await.ok()).await;
    let third = race.leader(second).await;
    assert!(third != first && third != second, "those two are gone");
    let spec = all.get("lock").await.unwrap().spec.unwrap();
    assert_eq!(spec.lease_transitions, Some(2));
    race.tasks.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn one_who_lost_the_lease_learns_it_from_the_conflict() {
    let p = Program::start().await;
    let (one, two) = (Candidate::new("one", &p.client), Candidate::new("two", &p.client));
    assert!(one.lead().await.unwrap());
    assert!(!two.lead().await.unwrap(), "it is held");
    let old = one.all.get("lock").await.unwrap();
    one.step_down().await.unwrap();
    assert!(two.lead().await.unwrap());
    let late = one.all.replace("lock", &PostParams::default(), &old).await;
    assert!(!won(late).unwrap(), "what one believed is old");
    assert!(!one.lead().await.unwrap());
}
