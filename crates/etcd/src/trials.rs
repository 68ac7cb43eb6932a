//! Trials of the store without threads: random histories beside a simple model, with a crash at every write.

#![cfg(test)]
#![allow(clippy::panic_in_result_fn, reason = "tests: an error is the crash that they provoke")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use wharf_base::clock::Clock;

use crate::auth::{Caller, Change};
use crate::checkpoint;
use crate::core::{Core, Rules};
use crate::kv::{LeaseId, Revision};
use crate::log::{Append, Log, LogError};
use crate::range::KeyRange;
use crate::recover;
use crate::sim::{Fail, SimDisk};
use crate::store::{Compare, Delete, LeaseRequest, Op, Put, Range, Txn};
use crate::watch::EventKind;

/// A step of a history. Keys are few, so that they meet.
#[derive(Clone, Debug)]
enum Step {
    Put {
        key: u8,
        size: usize,
        lease: u8,
    },
    PutTwo {
        a: u8,
        b: u8,
    },
    Delete {
        from: u8,
        to: u8,
    },
    Swap {
        key: u8,
        stale: bool,
    },
    Grant {
        lease: u8,
        ttl: i64,
    },
    Revoke {
        lease: u8,
    },
    Wait {
        seconds: u64,
    },
    Compact {
        back: i64,
    },
    /// A user comes or goes.
    User {
        user: u8,
    },
    /// A role comes or goes, from its users too.
    Role {
        role: u8,
    },
    GrantRole {
        user: u8,
        role: u8,
    },
    /// Everything staged so far goes to the disk.
    Commit,
    /// The log is left behind a checkpoint.
    Checkpoint,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..6u8;
    let size = prop_oneof![4 => 0..40usize, 1 => 400..1_800usize];
    let step = prop_oneof![
        6 => (key.clone(), size, 0..4u8)
            .prop_map(|(key, size, lease)| Step::Put { key, size, lease }),
        2 => (key.clone(), key.clone()).prop_map(|(a, b)| Step::PutTwo { a, b }),
        2 => (key.clone(), key.clone()).prop_map(|(from, to)| Step::Delete { from, to }),
        2 => (key, any::<bool>()).prop_map(|(key, stale)| Step::Swap { key, stale }),
        1 => (0..3u8, 1..20i64).prop_map(|(lease, ttl)| Step::Grant { lease, ttl }),
        1 => (0..3u8).prop_map(|lease| Step::Revoke { lease }),
        1 => (1..8u64).prop_map(|seconds| Step::Wait { seconds }),
        1 => (0..6i64).prop_map(|back| Step::Compact { back }),
        1 => (0..3u8).prop_map(|user| Step::User { user }),
        1 => (0..3u8).prop_map(|role| Step::Role { role }),
        1 => (0..3u8, 0..3u8).prop_map(|(user, role)| Step::GrantRole { user, role }),
        4 => Just(Step::Commit),
        1 => Just(Step::Checkpoint),
    ];
    prop::collection::vec(step, 1..60)
}

/// What a key is, in the model: value, creation, change, version, lease.
type Cell = (Vec<u8>, i64, i64, i64, i64);

/// Every state that there ever was, by revision.
#[derive(Clone, Default)]
struct Model {
    states: BTreeMap<i64, BTreeMap<Vec<u8>, Cell>>,
    leases: BTreeMap<LeaseId, (i64, Instant)>,
    compacted: i64,
    /// The roles of each user.
    users: BTreeMap<u8, BTreeSet<u8>>,
    roles: BTreeSet<u8>,
    /// Changes of them.
    changes: u64,
}

impl Model {
    fn new() -> Model {
        Model { states: BTreeMap::from([(1, BTreeMap::new())]), ..Model::default() }
    }

    fn head(&self) -> i64 {
        *self.states.last_key_value().unwrap().0
    }

    fn now(&self) -> &BTreeMap<Vec<u8>, Cell> {
        self.states.last_key_value().unwrap().1
    }

    fn put(&mut self, keys: &[(Vec<u8>, Vec<u8>)], lease: Option<LeaseId>) {
        let revision = self.head() + 1;
        let mut state = self.now().clone();
        for (key, value) in keys {
            let before = state.get(key).map_or((revision, 0), |c| (c.1, c.3));
            let lease = LeaseId::to_wire(lease);
            state.insert(key.clone(), (value.clone(), before.0, revision, before.1 + 1, lease));
        }
        self.states.insert(revision, state);
    }

    fn delete(&mut self, gone: impl Fn(&[u8], &Cell) -> bool) {
        let mut state = self.now().clone();
        let before = state.len();
        state.retain(|key, cell| !gone(key, cell));
        if state.len() < before {
            self.states.insert(self.head() + 1, state);
        }
    }

    fn end_lease(&mut self, id: LeaseId) {
        self.leases.remove(&id);
        self.delete(|_, cell| cell.4 == id.0.get());
    }
}

/// A store on a simulated disk, driven by hand, beside its model.
struct Trial {
    disk: SimDisk,
    core: Core,
    log: Log,
    clock: Clock,
    model: Model,
    /// The model as of the last batch that was acknowledged.
    durable: Model,
}

fn key(n: u8) -> Vec<u8> {
    format!("key/{n}").into_bytes()
}

fn lease(n: u8) -> LeaseId {
    LeaseId::from_wire(i64::from(n) + 1).unwrap()
}

impl Trial {
    fn start(disk: SimDisk) -> Result<Trial, LogError> {
        let clock = Clock::fixed(Duration::from_secs(1_000));
        let mut core = Core::new(Rules::default());
        let log = recover::open(&disk, &mut core, clock.instant())?;
        let (model, durable) = (Model::new(), Model::new());
        Ok(Trial { disk, core, log, clock, model, durable })
    }

    /// Does one step; an error says that the disk crashed.
    fn step(&mut self, step: &Step) -> Result<(), ()> {
        match step {
            Step::Put { key: k, size, lease: l } => {
                let id = self.model.leases.contains_key(&lease(*l)).then(|| lease(*l));
                let value = vec![k + 1; *size];
                self.model.put(&[(key(*k), value.clone())], id);
                let put = Put { lease: id, ..Put::new(key(*k), value) };
                self.txn(Txn { then: vec![Op::Put(put)], ..Txn::default() });
            }
            Step::PutTwo { a, b } if a != b => {
                self.model.put(&[(key(*a), b"two".to_vec()), (key(*b), b"two".to_vec())], None);
                let put = |k: &u8| Op::Put(Put::new(key(*k), "two"));
                self.txn(Txn { then: vec![put(a), put(b)], ..Txn::default() });
            }
            Step::PutTwo { .. } => (),
            Step::Delete { from, to } => {
                let (from, to) = (key(*from), key(*to));
                let span = KeyRange::span(from.clone(), to.clone());
                self.model.delete(|k, _| k >= &from[..] && k < &to[..]);
                self.txn(Txn { then: vec![Op::Delete(Delete::new(span))], ..Txn::default() });
            }
            Step::Swap { key: k, stale } => self.swap(*k, *stale),
            Step::Grant { lease: l, ttl } => {
                let request = LeaseRequest { id: Some(lease(*l)), ttl: *ttl };
                let granted = self.core.grant(&request, lease(*l), self.clock.instant());
                let new = !self.model.leases.contains_key(&lease(*l));
                assert_eq!(granted.is_ok(), new);
                if new {
                    let ttl_end = Duration::from_secs(ttl.cast_unsigned());
                    let end = self.clock.instant() + ttl_end;
                    self.model.leases.insert(lease(*l), (*ttl, end));
                }
            }
            Step::Revoke { lease: l } => {
                let known = self.model.leases.contains_key(&lease(*l));
                self.model.end_lease(lease(*l));
                assert_eq!(self.core.revoke(lease(*l)).is_ok(), known);
            }
            Step::Wait { seconds } => {
                self.clock.advance(Duration::from_secs(*seconds));
                let now = self.clock.instant();
                let mut due: Vec<_> = self.model.leases.iter().map(|(id, l)| (l.1, *id)).collect();
                due.sort_unstable();
                for (_, id) in due.into_iter().filter(|(end, _)| *end <= now) {
                    self.model.end_lease(id);
                }
                self.core.tick(now);
            }
            Step::Compact { back } => {
                let revision = self.core.visible().0 - back;
                let allowed = revision > self.model.compacted;
                assert_eq!(self.core.compact(Revision(revision)).is_ok(), allowed);
                if allowed {
                    self.model.compacted = revision;
                }
                while self.core.prune(2) {}
            }
            Step::User { .. } | Step::Role { .. } | Step::GrantRole { .. } => self.manage(step),
            Step::Commit => return self.commit(),
            Step::Checkpoint => return self.checkpoint(),
        }
        Ok(())
    }

    /// A step that changes users or roles.
    fn manage(&mut self, step: &Step) {
        match step {
            Step::User { user } => {
                let gone = self.model.users.remove(user).is_some();
                if !gone {
                    self.model.users.insert(*user, BTreeSet::new());
                }
                let (name, password) = (format!("u{user}"), "hash".into());
                self.account(match gone {
                    true => Change::DeleteUser { name },
                    false => Change::AddUser { name, password, no_password: false },
                });
            }
            Step::Role { role } => {
                let gone = self.model.roles.remove(role);
                if !gone {
                    self.model.roles.insert(*role);
                }
                self.model.users.values_mut().for_each(|held| {
                    held.remove(role);
                });
                let name = format!("r{role}");
                self.account(match gone {
                    true => Change::DeleteRole { name },
                    false => Change::AddRole { name },
                });
            }
            Step::GrantRole { user, role } => {
                let known = self.model.roles.contains(role);
                if let Some(held) = self.model.users.get_mut(user).filter(|_| known)
                    && held.insert(*role)
                {
                    let (user, role) = (format!("u{user}"), format!("r{role}"));
                    self.account(Change::GrantRole { user, role });
                }
            }
            _ => (),
        }
    }

    fn account(&mut self, change: Change) {
        self.model.changes += 1;
        self.core.change_auth(&Caller::Owner, change).unwrap();
    }

    fn txn(&mut self, txn: Txn) {
        let reply = self.core.txn(&txn).unwrap();
        assert_eq!(reply.revision.0, self.model.head());
    }

    /// A put that depends on the key being as it was seen last, or on something that it is not.
    fn swap(&mut self, k: u8, stale: bool) {
        let seen = self.model.now().get(&key(k)).map_or(0, |c| c.2);
        let expected = if stale { seen + 1_000 } else { seen };
        if !stale {
            self.model.put(&[(key(k), b"swapped".to_vec())], None);
        }
        let reply = self.core.txn(&Txn {
            when: vec![Compare::unchanged(key(k), Revision(expected))],
            then: vec![Op::Put(Put::new(key(k), "swapped"))],
            otherwise: vec![Op::Range(Range::new(KeyRange::key(key(k))))],
        });
        assert_eq!(reply.unwrap().succeeded, !stale);
    }

    fn commit(&mut self) -> Result<(), ()> {
        let Some(batch) = self.core.take_batch() else { return Ok(()) };
        loop {
            match self.log.append(&batch.bytes) {
                Ok(()) => break,
                // A full disk is tried again; the simulation frees it after a while.
                Err(Append::Refused(e)) if e.kind() == std::io::ErrorKind::StorageFull => (),
                Err(_) => return Err(()),
            }
        }
        let events = self.core.settle(&batch);
        let before = self.durable.now();
        let after = self.model.now();
        let changed: std::collections::BTreeSet<_> = before
            .iter()
            .filter(|(k, c)| after.get(*k) != Some(c))
            .chain(after.iter().filter(|(k, c)| before.get(*k) != Some(c)))
            .map(|(k, _)| k.clone())
            .collect();
        let told: std::collections::BTreeSet<_> =
            events.iter().map(|e| e.kv.key().to_vec()).collect();
        assert!(changed.is_subset(&told), "a change was not told");
        self.durable = self.model.clone();
        self.check();
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), ()> {
        self.commit()?;
        let number = self.log.number() + 1;
        self.log = Log::create(&self.disk, number).map_err(drop)?;
        let outline = self.core.outline();
        let mut versions = Vec::new();
        let rest = self.core.versions(b"", self.core.visible(), usize::MAX, &mut versions);
        assert_eq!(rest, None);
        versions.sort_unstable_by(crate::kv::Kv::by_time);
        checkpoint::save(&self.disk, number, &outline, &versions).map_err(drop)?;
        recover::forget(&self.disk, number).map_err(drop)
    }

    /// Compares everything that can be read with the durable model.
    fn check(&self) {
        matches(&self.core, &self.durable).unwrap();
    }
}

/// Whether a store is what a model says, at every revision that can be read, and tells it to watchers.
fn matches(core: &Core, model: &Model) -> Result<(), String> {
    if core.visible().0 != model.head() {
        return Err(format!("at revision {} in place of {}", core.visible(), model.head()));
    }
    let all = Range::new(KeyRange::all());
    for (revision, state) in model.states.range(model.compacted.max(1)..) {
        let range = all.clone().at(Revision(*revision));
        let txn = Txn { then: vec![Op::Range(range)], ..Txn::default() };
        let reply = core.read_txn(&txn).map_err(|e| format!("read at {revision}: {e}"))?;
        let crate::store::OpReply::Range(reply) = &reply.replies[0] else { unreachable!() };
        let found: BTreeMap<Vec<u8>, Cell> = reply
            .kvs
            .iter()
            .map(|kv| {
                let numbers = (kv.create_revision().0, kv.mod_revision().0, kv.version());
                let lease = LeaseId::to_wire(kv.lease());
                let value = kv.value().to_vec();
                (kv.key().to_vec(), (value, numbers.0, numbers.1, numbers.2, lease))
            })
            .collect();
        if found != *state {
            return Err(format!("at {revision}: {found:?} in place of {state:?}"));
        }
    }
    if model.compacted > 1 {
        let range = all.at(Revision(model.compacted - 1));
        let txn = Txn { then: vec![Op::Range(range)], ..Txn::default() };
        core.read_txn(&txn).err().ok_or("a compacted revision can be read")?;
    }
    let leases: Vec<_> = core.outline().leases;
    let expected: Vec<_> = model.leases.iter().map(|(id, l)| (*id, l.0)).collect();
    if leases != expected {
        return Err(format!("leases {leases:?} in place of {expected:?}"));
    }
    let auth = core.auth();
    let users: BTreeMap<String, Vec<String>> =
        auth.users().map(|(name, user)| (name.clone(), user.roles.clone())).collect();
    let roles: Vec<String> = auth.roles().map(|(name, _)| name.clone()).collect();
    let names = |roles: &BTreeSet<u8>| roles.iter().map(|r| format!("r{r}")).collect();
    let expected = model.users.iter().map(|(n, held)| (format!("u{n}"), names(held))).collect();
    if (&users, &roles, auth.revision()) != (&expected, &names(&model.roles), model.changes + 1) {
        return Err(format!("{users:?} and {roles:?} in place of {expected:?}"));
    }
    watched(core, model)
}

/// Replays the changes that a watcher from the compacted revision is told, in small slices.
fn watched(core: &Core, model: &Model) -> Result<(), String> {
    let first = model.compacted.max(1) + 1;
    let mut state = model.states.range(..first).next_back().unwrap().1.clone();
    let mut from = Revision(first);
    while from <= core.visible() {
        let (events, next) = core.events(from, |_| true, 1);
        for event in &events {
            let (kv, key) = (&event.kv, event.kv.key().to_vec());
            let before = event.previous.as_ref().map(|p| p.mod_revision().0);
            if before != state.get(&key).map(|c| c.2) {
                return Err(format!("{event:?} names a wrong predecessor"));
            }
            match event.kind {
                EventKind::Delete => drop(state.remove(&key)),
                EventKind::Put => {
                    let numbers = (kv.create_revision().0, kv.mod_revision().0, kv.version());
                    let cell = (kv.value().to_vec(), numbers.0, numbers.1, numbers.2);
                    let lease = LeaseId::to_wire(kv.lease());
                    state.insert(key, (cell.0, cell.1, cell.2, cell.3, lease));
                }
            }
        }
        let reached = Revision(next.0 - 1);
        if model.states.get(&reached.0).is_some_and(|expected| *expected != state) {
            return Err(format!("a watcher at {reached} would believe {state:?}"));
        }
        from = next;
    }
    Ok(())
}

/// Runs a history on a disk that crashes; gives the trial as it was then.
fn run(steps: &[Step], fail: Option<Fail>) -> Result<Trial, ()> {
    let disk = SimDisk::default();
    let mut trial = Trial::start(disk.clone()).map_err(drop)?;
    disk.fail(fail);
    for step in steps {
        if trial.step(step).is_err() {
            return Ok(trial);
        }
    }
    Ok(trial)
}

/// Opens what a crash left and compares: everything acknowledged is there, and the rest whole or not at all.
fn recovered(trial: &Trial, disk: SimDisk) -> Result<(), String> {
    let mut again = Trial::start(disk).map_err(|e| wharf_base::error::chain(&e).to_string())?;
    let durable = matches(&again.core, &trial.durable);
    let model = matches(&again.core, &trial.model);
    if let (Err(a), Err(b)) = (&durable, &model) {
        return Err(format!("neither what was acknowledged: {a}; nor what was under way: {b}"));
    }
    // It goes on from there, and the next opening finds that as well.
    let head = again.core.visible().0;
    let put = Op::Put(Put::new("after", "the crash"));
    again.core.txn(&Txn { then: vec![put], ..Txn::default() }).map_err(|e| e.to_string())?;
    let batch = again.core.take_batch().ok_or("nothing to write")?;
    again.log.append(&batch.bytes).map_err(|e| format!("{e:?}"))?;
    let third = Trial::start(again.disk.after_crash(|| false)).map_err(|e| e.to_string())?;
    match third.core.visible().0 == head + 1 {
        true => Ok(()),
        false => Err("the write after the crash is gone".to_owned()),
    }
}

/// Coin tosses from a seed.
fn dice(mut seed: u64) -> impl FnMut() -> bool {
    move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed & 4 == 0
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn histories_read_as_the_model_says(steps in steps()) {
        let mut trial = run(&steps, None).unwrap();
        trial.commit().unwrap();
        trial.check();
        recovered(&trial, trial.disk.after_crash(|| false)).unwrap();
    }

    #[test]
    fn a_crash_at_any_write_loses_nothing_acknowledged(steps in steps(), seed in 1u64..) {
        let whole = run(&steps, None).unwrap();
        for at in 1..=whole.disk.operations() {
            let Ok(trial) = run(&steps, Some(Fail::Crash { at })) else { continue };
            let mut toss = dice(seed.wrapping_add(at));
            for (how, disk) in [
                ("nothing unsynced kept", trial.disk.after_crash(|| false)),
                ("all kept", trial.disk.after_crash(|| true)),
                ("some kept", trial.disk.after_crash(&mut toss)),
            ] {
                recovered(&trial, disk).map_err(|e| {
                    TestCaseError::fail(format!("crash at operation {at}, {how}: {e}"))
                })?;
            }
        }
    }

    #[test]
    fn a_full_disk_costs_patience_only(steps in steps(), at in 1u64..60, room in 1u64..9) {
        let disk = SimDisk::default();
        let mut trial = Trial::start(disk.clone()).unwrap();
        disk.fail(Some(Fail::Full { at, until: at + room }));
        // Checkpoints may fail on a full disk; what they would have held is still in the log.
        for step in steps.iter().filter(|s| !matches!(s, Step::Checkpoint)) {
            trial.step(step).unwrap();
        }
        trial.commit().unwrap();
        recovered(&trial, disk.after_crash(|| false)).unwrap();
    }

    #[test]
    fn damage_is_found(steps in steps(), place in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut trial = run(&steps, None).unwrap();
        trial.commit().unwrap();
        let names: Vec<String> = crate::disk::Disk::list(&trial.disk).unwrap();
        for name in names {
            let disk = trial.disk.after_crash(|| false);
            let at = place.index(disk.bytes(&name).len());
            disk.flip(&name, at, 1 << bit);
            match Trial::start(disk) {
                Err(LogError::Damaged { file, .. }) => prop_assert_eq!(file, name),
                Err(other) => prop_assert!(false, "{other}"),
                // Only a flip behind the last frame, where nothing is, may go by.
                Ok(again) => prop_assert_eq!(matches(&again.core, &trial.durable), Ok(())),
            }
        }
    }
}

#[test]
fn a_cut_log_is_damage() {
    let put = |key| Step::Put { key, size: 30, lease: 3 };
    let steps = [put(1), Step::Commit, put(2), Step::Commit, put(3), Step::Commit];
    let trial = run(&steps, None).unwrap();
    let name = crate::log::segment(1);
    let whole = trial.disk.bytes(&name).len();
    for len in 0..whole {
        let disk = trial.disk.after_crash(|| false);
        let mut file = crate::disk::Disk::open(&disk, &name).unwrap();
        file.set_len(len as u64).unwrap();
        file.sync().unwrap();
        let opened = Trial::start(disk);
        assert!(matches!(opened, Err(LogError::Damaged { .. })), "cut to {len} of {whole}");
    }
}

#[test]
fn a_failed_sync_is_final() {
    let disk = SimDisk::default();
    let mut trial = Trial::start(disk.clone()).unwrap();
    disk.fail(Some(Fail::Sync { at: 1 }));
    trial.step(&Step::Put { key: 1, size: 3, lease: 3 }).unwrap();
    let batch = trial.core.take_batch().unwrap();
    assert!(matches!(trial.log.append(&batch.bytes), Err(Append::Unknown(_))));
}

#[test]
fn revisions_of_volatile_keys_are_never_given_out_twice() {
    let disk = SimDisk::default();
    let clock = Clock::fixed(Duration::ZERO);
    let rules = Rules { volatile: vec!["events/".into()], ..Rules::default() };
    let mut core = Core::new(rules.clone());
    let mut log = recover::open(&disk, &mut core, clock.instant()).unwrap();
    let put = |core: &mut Core, key: &str| {
        let put = Op::Put(Put::new(key.to_owned(), "a value"));
        core.txn(&Txn { then: vec![put], ..Txn::default() }).unwrap().revision
    };
    let mut commit = |core: &mut Core| {
        let batch = core.take_batch().unwrap();
        if !batch.bytes.is_empty() {
            log.append(&batch.bytes).unwrap();
        }
        core.settle(&batch);
        batch.bytes.len()
    };
    put(&mut core, "durable");
    commit(&mut core);
    assert!(
        {
            put(&mut core, "events/1");
            commit(&mut core)
        } < 20,
        "a reservation and nothing else"
    );
    let written: usize = (0..5_000)
        .map(|n| {
            put(&mut core, &format!("events/{n}"));
            commit(&mut core)
        })
        .sum();
    assert_eq!(written, 0);
    let last = put(&mut core, "durable");
    commit(&mut core);
    let bytes = disk.bytes(&crate::log::segment(1));
    assert!(!bytes.windows(7).any(|w| w == b"events/"), "a volatile key is on the disk");
    let mut again = Core::new(rules);
    recover::open(&disk.after_crash(|| false), &mut again, clock.instant()).unwrap();
    assert!(again.visible() >= last);
    assert!(put(&mut again, "durable") > last);
    let events = Txn {
        then: vec![Op::Range(Range::new(KeyRange::prefix("events/")).count_only())],
        ..Txn::default()
    };
    let reply = again.read_txn(&events).unwrap();
    assert!(matches!(&reply.replies[0], crate::store::OpReply::Range(r) if r.count == 0));
}

/// A put ends in a zero, its lease; alone in a sector it must not pass for one that was lost.
#[test]
fn damage_is_found_wherever_a_frame_ends() {
    for size in 400..1_000 {
        let steps = [Step::Put { key: 1, size, lease: 3 }, Step::Commit];
        let trial = run(&steps, None).unwrap();
        let name = crate::log::segment(1);
        let bytes = trial.disk.bytes(&name);
        let at = bytes.iter().rposition(|b| *b == 2).unwrap();
        let disk = trial.disk.after_crash(|| false);
        disk.flip(&name, at, 1);
        let opened = Trial::start(disk);
        assert!(matches!(opened, Err(LogError::Damaged { .. })), "a value of {size} bytes");
    }
}
