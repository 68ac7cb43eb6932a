//! How many requests are worked on at once, so that a flood slows down those who send it and nobody else.

use crate::user::{MASTERS, User};
use std::collections::HashMap;
use std::sync::Arc;
use wharf_base::sync::Mutex;
use wharf_kube::status::Fault;

/// Requests that read, and requests that change something, in all (as the reference server's
/// `--max-requests-inflight` and `--max-mutating-requests-inflight`).
const READS: usize = 400;
const CHANGES: usize = 200;
/// The part of either that one user may have when others want some: a half.
const SHARE: usize = 2;

/// The requests of the moment. Watches are not counted: they take no time while nothing happens.
#[derive(Debug, Clone)]
pub struct Flow {
    now: Arc<Mutex<[Class; 2]>>,
    most: [usize; 2],
}

#[derive(Debug, Default)]
struct Class {
    all: usize,
    by_user: HashMap<String, usize>,
}

/// A request's turn, which ends when it is dropped.
#[derive(Debug)]
pub struct Turn(Option<(Flow, usize, String)>);

impl Default for Flow {
    fn default() -> Flow {
        Flow::new(READS, CHANGES)
    }
}

impl Flow {
    /// At most so many requests that read, and that change something.
    pub fn new(reads: usize, changes: usize) -> Flow {
        Flow { now: Arc::default(), most: [reads, changes] }
    }

    /// How many requests that read, and that change something, are being worked on.
    pub fn now(&self) -> [usize; 2] {
        self.now.lock().each_ref().map(|class| class.all)
    }

    /// Begins a request, or tells the client to come back. Administrators and nodes never wait.
    pub fn enter(&self, user: &User, verb: &str) -> Result<Turn, Fault> {
        if verb == "watch" || user.is_in(MASTERS) || user.is_in("system:nodes") {
            return Ok(Turn(None));
        }
        let which = usize::from(!matches!(verb, "get" | "list"));
        let mut now = self.now.lock();
        let class = &mut now[which];
        let own = class.by_user.get(&user.name).copied().unwrap_or(0);
        let others = class.by_user.len() > usize::from(own > 0);
        if class.all >= self.most[which] || (others && own >= self.most[which] / SHARE) {
            return Err(Fault::too_many_requests("Too many requests, please try again later.", 1));
        }
        class.all += 1;
        *class.by_user.entry(user.name.clone()).or_default() += 1;
        Ok(Turn(Some((self.clone(), which, user.name.clone()))))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some((flow, which, user)) = self.0.take() else { return };
        let mut now = flow.now.lock();
        let class = &mut now[which];
        class.all -= 1;
        if let Some(n) = class.by_user.get_mut(&user) {
            *n -= 1;
            if *n == 0 {
                class.by_user.remove(&user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_to_come_back_and_leaves_room_for_others() {
        let flow = Flow::new(4, 2);
        let (a, b) = (User::new("a", vec![]), User::new("b", vec![]));
        let first = flow.enter(&b, "get").unwrap();
        let turns: Vec<Turn> = (0..2).map(|_| flow.enter(&a, "get").unwrap()).collect();
        assert_eq!(flow.enter(&a, "list").unwrap_err().code, 429);
        let second = flow.enter(&b, "get").unwrap();
        assert!(flow.enter(&b, "get").is_err(), "all turns are taken");
        assert!(flow.enter(&a, "create").is_ok() && flow.enter(&a, "watch").is_ok());
        drop((first, second));
        assert!(flow.enter(&a, "get").is_ok(), "alone, it may have all of them");
        drop(turns);
        let root = User::new("r", vec![MASTERS.to_owned()]);
        assert!((0..10).all(|_| flow.enter(&root, "get").is_ok()));
    }
}
