//! How fast a target may grow and shrink.

use crate::object::number;
use serde_json::Value;

/// The window in which the highest advice counts before a target shrinks, in seconds.
const DOWN_WINDOW: i64 = 300;

/// What an autoscaler has advised and done lately: times in seconds, and how many replicas.
#[derive(Debug, Default)]
pub(super) struct History {
    advice: Vec<(i64, i64)>,
    /// By how many replicas it grew, or with a minus shrank.
    moves: Vec<(i64, i64)>,
}

impl History {
    pub(super) fn moved(&mut self, from: i64, to: i64, now: i64) {
        self.moves.push((now, to - from));
        self.moves.retain(|(at, _)| *at > now - 1800);
    }

    fn sum(&self, since: i64, grown: bool) -> i64 {
        let fits = |(at, n): &&(i64, i64)| *at > since && (*n > 0) == grown;
        self.moves.iter().filter(fits).map(|(_, n)| n.abs()).sum()
    }
}

/// How many replicas there may be, and what held them there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) replicas: i64,
    /// The reason, if recent advice holds it.
    pub(super) stable: Option<&'static str>,
    /// The reason and message, if a bound does.
    pub(super) bound: Option<(&'static str, &'static str)>,
}

/// What of an advice may be followed now.
pub(super) fn limited(
    scaler: &Value,
    history: &mut History,
    current: i64,
    advice: i64,
    now: i64,
) -> Limit {
    let least = number(scaler, "/spec/minReplicas").unwrap_or(1);
    let most = number(scaler, "/spec/maxReplicas").unwrap_or(1);
    let window = |way: &str, usual| {
        number(scaler, &format!("/spec/behavior/{way}/stabilizationWindowSeconds")).unwrap_or(usual)
    };
    let (up, down) = (window("scaleUp", 0), window("scaleDown", DOWN_WINDOW));
    let recent = |seconds: i64| history.advice.iter().filter(move |(at, _)| *at > now - seconds);
    let lowest = recent(up).map(|(_, n)| *n).chain([advice]).min().unwrap_or(advice);
    let highest = recent(down).map(|(_, n)| *n).chain([advice]).max().unwrap_or(advice);
    history.advice.push((now, advice));
    history.advice.retain(|(at, _)| *at > now - up.max(down));
    let steady = current.max(lowest).min(highest);
    let stable = (steady != advice).then_some(if advice < steady {
        "ScaleDownStabilized"
    } else {
        "ScaleUpStabilized"
    });
    let mut limit = Limit { replicas: steady, stable, bound: None };
    if steady > current {
        let fast = pace(scaler, "scaleUp", history, current, now);
        if fast < most && steady > fast {
            let why = "the desired replica count is increasing faster than the maximum scale rate";
            limit.bound = Some(("ScaleUpLimit", why));
        } else if steady > most {
            limit.bound = Some((
                "TooManyReplicas",
                "the desired replica count is more than the maximum replica count",
            ));
        }
        limit.replicas = steady.min(fast.max(current)).min(most);
    } else if steady < current {
        let slow = pace(scaler, "scaleDown", history, current, now);
        if slow > least && steady < slow {
            let why = "the desired replica count is decreasing faster than the maximum scale rate";
            limit.bound = Some(("ScaleDownLimit", why));
        } else if steady < least {
            limit.bound = Some((
                "TooFewReplicas",
                "the desired replica count is less than the minimum replica count",
            ));
        }
        limit.replicas = steady.max(slow.min(current)).max(least);
    }
    limit
}

/// How far the policies of a way let a target go from where it is.
fn pace(scaler: &Value, way: &str, history: &History, current: i64, now: i64) -> i64 {
    let grows = way == "scaleUp";
    let rules = &scaler["spec"]["behavior"][way];
    let choice = rules["selectPolicy"].as_str().unwrap_or("Max");
    if choice == "Disabled" {
        return current;
    }
    let usual: &[(&str, i64, i64)] =
        if grows { &[("Pods", 4, 15), ("Percent", 100, 15)] } else { &[("Percent", 100, 15)] };
    let given: Vec<(&str, i64, i64)> = rules["policies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|p| {
            Some((p["type"].as_str()?, p["value"].as_i64()?, p["periodSeconds"].as_i64()?))
        })
        .collect();
    let policies = if given.is_empty() { usual } else { &given };
    let ends = policies.iter().map(|(kind, value, period)| {
        let since = now - period;
        let start = current - history.sum(since, true) + history.sum(since, false);
        match (*kind, grows) {
            ("Pods", true) => start + value,
            ("Pods", false) => start - value,
            // Up is rounded up, and down as well: neither is ever stuck.
            (_, true) => (start * (100 + value) + 99).div_euclid(100),
            (_, false) => (start * (100 - value)).div_euclid(100),
        }
    });
    // The most change, or the least.
    if grows == (choice == "Max") { ends.max() } else { ends.min() }.unwrap_or(current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scaler(behaviour: Value) -> Value {
        json!({"spec": {"minReplicas": 2, "maxReplicas": 100, "behavior": behaviour}})
    }

    #[test]
    fn growth_is_bounded_by_the_most_generous_policy() {
        let s = scaler(json!({}));
        let mut h = History::default();
        let limit = limited(&s, &mut h, 2, 50, 1000);
        assert_eq!((limit.replicas, limit.bound.unwrap().0), (6, "ScaleUpLimit"));
        h.moved(2, 6, 1000);
        assert_eq!(
            limited(&s, &mut h, 6, 50, 1010).replicas,
            6,
            "that was all for fifteen seconds"
        );
        assert_eq!(limited(&s, &mut h, 6, 50, 1015).replicas, 12);
        assert_eq!(limited(&s, &mut h, 90, 500, 2000).bound.unwrap().0, "TooManyReplicas");
        let least = json!({"scaleUp": {"selectPolicy": "Min", "policies": [
            {"type": "Pods", "value": 1, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]}});
        assert_eq!(limited(&scaler(least), &mut History::default(), 10, 50, 0).replicas, 11);
        let off = json!({"scaleUp": {"selectPolicy": "Disabled"}});
        assert_eq!(limited(&scaler(off), &mut History::default(), 10, 50, 0).replicas, 10);
    }

    #[test]
    fn a_target_shrinks_only_when_the_load_was_low_for_long() {
        let s = scaler(json!({}));
        let mut h = History::default();
        assert_eq!(limited(&s, &mut h, 10, 10, 1000).replicas, 10);
        let held = limited(&s, &mut h, 10, 4, 1100);
        assert_eq!((held.replicas, held.stable), (10, Some("ScaleDownStabilized")));
        let limit = limited(&s, &mut h, 10, 3, 1300);
        assert_eq!((limit.replicas, limit.stable), (4, Some("ScaleDownStabilized")));
        assert_eq!(limited(&s, &mut h, 4, 1, 1700).replicas, 2);
        let slow = json!({"scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}});
        let limit = limited(&scaler(slow), &mut History::default(), 50, 5, 0);
        assert_eq!((limit.replicas, limit.bound.unwrap().0), (45, "ScaleDownLimit"));
    }
}
