//! API priority and fairness: who may send how many requests at once, and who waits for whom.
//!
//! Flow schemas sort requests into priority levels, and within a level into flows. A level has its share of all
//! seats; what it does not use others may borrow, as far as both allow. Where there is no seat a request waits, and
//! flows take turns. Unlike in the reference server loans are made request by request, not every ten seconds, and
//! each flow has a queue of its own.

mod rules;

use crate::api::Api;
use crate::authz::Attributes;
use crate::user::User;
use rules::Plan;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use wharf_base::sync::Mutex;
use wharf_kube::status::Fault;

/// Seats in all (the reference server's `--max-requests-inflight` and `--max-mutating-requests-inflight` together).
const SEATS: usize = 400 + 200;
/// The longest that a request waits for a seat.
const PATIENCE: Duration = Duration::from_secs(15);
/// Seconds for which the levels and schemas that were read are good.
const FRESH: i64 = 1;

/// The requests of the moment. Those that go on are not counted: they take no time while nothing happens.
#[derive(Debug, Clone)]
pub struct Flow {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    seats: usize,
    plan: Mutex<Option<(i64, Arc<Plan>)>>,
    levels: Mutex<HashMap<String, Level>>,
    /// Requests that are being worked on: those that read, those that change something.
    running: [AtomicUsize; 2],
}

/// What goes on at a priority level.
#[derive(Debug, Default)]
struct Level {
    used: usize,
    queues: HashMap<String, VecDeque<oneshot::Sender<Turn>>>,
    /// Flows that wait, the next to have a turn first.
    order: VecDeque<String>,
}

/// Where a request was sorted in: uids of its schema and level, which answers tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sorted {
    /// The flow schema.
    pub schema: String,
    /// The priority level.
    pub level: String,
}

/// A request's seat, which is free again when this is dropped.
#[derive(Debug, Default)]
pub struct Turn {
    seat: Option<(Arc<State>, Arc<Plan>, String)>,
    /// What it is counted as in [`State::running`].
    counted: Option<(Arc<State>, usize)>,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow::new(SEATS, 0)
    }
}

fn refused() -> Fault {
    Fault::too_many_requests("too many requests, please try again later", 1)
}

/// Whether a request goes on for as long as its client likes.
fn is_endless(a: &Attributes<'_>) -> bool {
    a.verb == "watch"
        || matches!(a.subresource, "attach" | "exec" | "portforward" | "proxy" | "log")
}

impl Flow {
    /// So many seats for requests that read, and that change something, together.
    pub fn new(reads: usize, changes: usize) -> Flow {
        let (plan, levels) = (Mutex::default(), Mutex::default());
        let running = Default::default();
        Flow { state: Arc::new(State { seats: reads + changes, plan, levels, running }) }
    }

    /// How many requests that read, and that change something, are being worked on.
    pub fn now(&self) -> [usize; 2] {
        self.state.running.each_ref().map(|n| n.load(Ordering::Relaxed))
    }

    /// Waits for a request's turn, or tells the client to come back; `tell` hears first where it was sorted in.
    /// Dropping the future gives the turn up.
    pub async fn enter(
        &self,
        api: &Api,
        user: &User,
        a: &Attributes<'_>,
        tell: impl FnOnce(Sorted),
    ) -> Result<Turn, Fault> {
        let plan = self.plan(api).await?;
        let Some(sorted) = plan.sort(user, a) else {
            return Ok(Turn::default());
        };
        tell(Sorted { schema: sorted.schema.uid.clone(), level: sorted.level.uid.clone() });
        if is_endless(a) {
            return Ok(Turn::default());
        }
        if sorted.level.exempt {
            return Ok(self.count(Turn::default(), a));
        }
        let turn = self.seat(&plan, &sorted.level.name, sorted.flow);
        let turn = match turn? {
            Place::Seat(turn) => turn,
            Place::Queue(wait) => match tokio::time::timeout(PATIENCE, wait).await {
                Ok(Ok(turn)) => turn,
                _ => return Err(refused()),
            },
        };
        Ok(self.count(turn, a))
    }

    fn count(&self, mut turn: Turn, a: &Attributes<'_>) -> Turn {
        let kind = usize::from(!matches!(a.verb, "get" | "list"));
        self.state.running[kind].fetch_add(1, Ordering::Relaxed);
        turn.counted = Some((Arc::clone(&self.state), kind));
        turn
    }

    fn seat(&self, plan: &Arc<Plan>, level: &str, flow: String) -> Result<Place, Fault> {
        let mut levels = self.state.levels.lock();
        let waits = levels.get(level).is_some_and(|l| !l.order.is_empty());
        if !waits && has_seat(&levels, plan, level) {
            levels.entry(level.to_owned()).or_default().used += 1;
            return Ok(Place::Seat(self.state.turn(plan, level)));
        }
        let Some(room) = plan.level(level).and_then(|l| l.queue) else { return Err(refused()) };
        let own = levels.entry(level.to_owned()).or_default();
        let queue = own.queues.entry(flow.clone()).or_default();
        queue.retain(|w| !w.is_closed());
        if queue.len() >= room.of_flow {
            return Err(refused());
        }
        let (tell, wait) = oneshot::channel();
        queue.push_back(tell);
        if !own.order.contains(&flow) {
            own.order.push_back(flow);
        }
        if own.queues.values().map(VecDeque::len).sum::<usize>() > room.of_all {
            return Err(refused());
        }
        Ok(Place::Queue(wait))
    }

    /// The levels and schemas as they were a moment ago.
    async fn plan(&self, api: &Api) -> Result<Arc<Plan>, Fault> {
        let now = api.now_seconds();
        if let Some((read, plan)) = &*self.state.plan.lock()
            && (*read..=*read + FRESH).contains(&now)
        {
            return Ok(Arc::clone(plan));
        }
        let plan = Arc::new(Plan::read(api, self.state.seats).await?);
        *self.state.plan.lock() = Some((now, Arc::clone(&plan)));
        Ok(plan)
    }
}

enum Place {
    Seat(Turn),
    Queue(oneshot::Receiver<Turn>),
}

/// Whether a level has a seat: one of its own, or one that others do not use.
fn has_seat(levels: &HashMap<String, Level>, plan: &Plan, level: &str) -> bool {
    let Some(own) = plan.level(level) else { return true };
    let used = |name: &str| levels.get(name).map_or(0, |l| l.used);
    if used(level) < own.seats {
        return true;
    }
    if used(level) >= own.most {
        return false;
    }
    let others = plan.levels().filter(|l| l.name != level && !l.exempt);
    let idle: usize = others.map(|l| l.lends.min(l.seats.saturating_sub(used(&l.name)))).sum();
    let lent: usize = plan.levels().map(|l| used(&l.name).saturating_sub(l.seats)).sum();
    lent < idle
}

impl State {
    fn turn(self: &Arc<State>, plan: &Arc<Plan>, level: &str) -> Turn {
        let seat = Some((Arc::clone(self), Arc::clone(plan), level.to_owned()));
        Turn { seat, counted: None }
    }

    /// Gives free seats to who waits, flow by flow.
    fn serve(self: &Arc<State>, levels: &mut HashMap<String, Level>, plan: &Arc<Plan>) {
        let waiting: Vec<String> =
            levels.iter().filter(|(_, l)| !l.order.is_empty()).map(|(n, _)| n.clone()).collect();
        for name in waiting {
            while has_seat(levels, plan, &name) {
                let Some(level) = levels.get_mut(&name) else { break };
                let Some(flow) = level.order.pop_front() else { break };
                let queue = level.queues.get_mut(&flow);
                let next = queue.and_then(|q| q.pop_front().map(|w| (w, !q.is_empty())));
                let Some((waiter, more)) = next else {
                    level.queues.remove(&flow);
                    continue;
                };
                if more {
                    level.order.push_back(flow);
                } else {
                    level.queues.remove(&flow);
                }
                level.used += 1;
                if let Err(mut given_up) = waiter.send(self.turn(plan, &name)) {
                    // Nobody waits there any more. The levels are locked: the seat is freed here.
                    given_up.seat = None;
                    level.used -= 1;
                }
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((state, kind)) = self.counted.take() {
            state.running[kind].fetch_sub(1, Ordering::Relaxed);
        }
        let Some((state, plan, level)) = self.seat.take() else { return };
        // Who waits may have been sorted in by a newer plan.
        let plan = state.plan.lock().as_ref().map_or(plan, |(_, p)| Arc::clone(p));
        let mut levels = state.levels.lock();
        if let Some(l) = levels.get_mut(&level) {
            l.used = l.used.saturating_sub(1);
        }
        state.serve(&mut levels, &plan);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn plan(seats: usize) -> Arc<Plan> {
        let level = |name: &str, shares: i64, lends: i64, queue: Value| {
            json!({"metadata": {"name": name, "uid": name}, "spec": {"type": "Limited",
                "limited": {"nominalConcurrencyShares": shares, "lendablePercent": lends, "limitResponse": queue}}})
        };
        let queue = json!({"type": "Queue", "queuing": {"queues": 4, "handSize": 1, "queueLengthLimit": 2}});
        let levels = [
            level("a", 1, 0, queue.clone()),
            level("b", 1, 50, queue),
            level("c", 2, 0, json!({"type": "Reject"})),
        ];
        Arc::new(Plan::of(&levels, &[], seats))
    }

    fn taken(flow: &Flow, plan: &Arc<Plan>, level: &str, of: &str) -> Option<Turn> {
        match flow.seat(plan, level, of.to_owned()) {
            Ok(Place::Seat(turn)) => Some(turn),
            _ => None,
        }
    }

    #[test]
    fn a_level_has_its_seats_and_borrows_what_others_lend() {
        let (flow, plan) = (Flow::new(16, 0), plan(16));
        let a: Vec<Turn> = std::iter::from_fn(|| taken(&flow, &plan, "a", "x")).collect();
        assert_eq!(a.len(), 6, "four of its own and two that b lends");
        let c: Vec<Turn> = std::iter::from_fn(|| taken(&flow, &plan, "c", "x")).collect();
        assert_eq!(c.len(), 8);
        assert!(flow.seat(&plan, "c", "x".to_owned()).is_err(), "it has no queue");
        drop(a);
        assert!(taken(&flow, &plan, "a", "x").is_some());
    }

    #[tokio::test]
    async fn flows_take_turns_and_queues_are_bounded() {
        let (flow, plan) = (Flow::new(4, 0), plan(4));
        let seats: Vec<Turn> = std::iter::from_fn(|| taken(&flow, &plan, "b", "x")).collect();
        let wait = |of: &str| match flow.seat(&plan, "b", of.to_owned()) {
            Ok(Place::Queue(w)) => Some(w),
            _ => None,
        };
        let (first, second, other) = (wait("x").unwrap(), wait("x").unwrap(), wait("y").unwrap());
        assert!(wait("x").is_none(), "its queue is full");
        drop(seats);
        let first = first.await.unwrap();
        drop(first);
        let other = other.await.unwrap();
        drop(second);
        drop(other);
        assert!(flow.state.levels.lock()["b"].queues.is_empty());
        assert!(taken(&flow, &plan, "b", "x").is_some());
    }
}
