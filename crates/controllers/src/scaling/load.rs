//! What the load of a target's pods asks for.

mod named;

use super::Report;
use crate::object::{is_deleting, meta, number, text};
use crate::pods;
use crate::run::Context;
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::HashMap;
use wharf_client::Object;
use wharf_client::resources::PODS;
use wharf_kube::quantity::Quantity;
use wharf_kube::selector::Labels;
use wharf_kube::time;

/// A load that differs from the target by no more than this part of it is left alone.
const TOLERANCE: f64 = 0.1;
/// Seconds in which the processor time of a new pod says nothing, and until a pod is first ready.
const WARMING: i64 = 300;
const READINESS: i64 = 30;

/// An amount in thousandths as objects carry it.
fn quantity(millis: i64) -> String {
    Quantity::parse(&format!("{millis}m")).map_or_else(|_| "0".to_owned(), |q| q.to_string())
}

/// Why so many replicas are wanted, for the event that says so.
fn why(what: &str, n: i64, current: i64) -> String {
    match n.cmp(&current) {
        Ordering::Greater => format!("{what} above target"),
        Ordering::Less => "All metrics below target".to_owned(),
        Ordering::Equal => what.to_owned(),
    }
}

/// The pods that a target's selector chooses.
fn own_pods(cx: &Context, namespace: &str, selector: &str) -> Result<Vec<Object>, String> {
    let labels = Labels::parse(selector).map_err(|e| e.to_string())?;
    let all = cx.world.inside(&PODS, namespace).into_iter();
    Ok(all.filter(|p| labels.matches(pods::labels(p))).collect())
}

/// How many replicas the metrics ask for, and why: of several, the most.
pub(super) async fn replicas(
    cx: &Context,
    scaler: &Value,
    scale: &Value,
    current: i64,
    report: &mut Report,
) -> Result<(i64, String), String> {
    let selector = text(scale, "/status/selector");
    if selector.is_empty() {
        let why = "the HPA target's scale is missing a selector";
        report.say("ScalingActive", false, "InvalidSelector", why);
        return Err("selector is required".to_owned());
    }
    let all = scaler["spec"]["metrics"].as_array().map_or(&[][..], Vec::as_slice);
    let mut best: Option<(i64, String)> = None;
    let (mut failed, mut first) = (0, None);
    let there = number(scale, "/status/replicas").unwrap_or(0);
    for spec in all {
        let question = named::Question { scaler, spec, selector, current, there };
        match metric(cx, &question).await {
            Ok((n, why, reading)) => {
                if best.as_ref().is_none_or(|(most, _)| n > *most) {
                    best = Some((n, why));
                }
                report.readings.push(reading);
            }
            Err((reason, why)) => {
                failed += 1;
                cx.tell(scaler, true, reason, &why).await;
                first.get_or_insert((reason, why));
            }
        }
    }
    // What cannot be seen may need what is there: nothing is taken away.
    let outcome = match (best, first) {
        (Some((n, why)), None) => Ok((n, why)),
        (Some((n, why)), Some(_)) if n >= current => Ok((n, why)),
        (_, first) => {
            let (reason, why) =
                first.unwrap_or(("InvalidMetricSourceType", "no metrics are given".to_owned()));
            let told = format!("the HPA was unable to compute the replica count: {why}");
            report.say("ScalingActive", false, reason, &told);
            Err(format!(
                "invalid metrics ({failed} invalid out of {}), first error is: {why}",
                all.len()
            ))
        }
    };
    outcome.inspect(|(_, why)| {
        let what = why.strip_suffix(" above target").unwrap_or(why);
        let told =
            format!("the HPA was able to successfully calculate a replica count from {what}");
        report.say("ScalingActive", true, "ValidMetricFound", &told);
    })
}

type Failure = (&'static str, String);

async fn metric(cx: &Context, q: &named::Question<'_>) -> Result<(i64, String, Value), Failure> {
    let named::Question { scaler, spec, selector, current, .. } = *q;
    let (source, reason) = match text(spec, "/type") {
        "Resource" => (&spec["resource"], "FailedGetResourceMetric"),
        "ContainerResource" => (&spec["containerResource"], "FailedGetContainerResourceMetric"),
        _ => return named::metric(cx, q).await,
    };
    let name = text(source, "/name");
    let utilization = number(source, "/target/averageUtilization");
    let what = if utilization.is_some() { "utilization" } else { "usage" };
    let fail = |why: String| (reason, format!("failed to get {name} {what}: {why}"));
    let ns = meta(scaler, "namespace");
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{ns}/pods");
    let chosen = [("labelSelector", selector)];
    let usage = cx.ask("GET", &path, &chosen, Value::Null).await.map_err(|f| {
        let f = if f.code == 404 { "the server could not find the requested resource (get pods.metrics.k8s.io)".to_owned() } else { f.to_string() };
        fail(format!("unable to get metrics for resource {name}: unable to fetch metrics from resource metrics API: {f}"))
    })?;
    let container = source["container"].as_str();
    let own = own_pods(cx, ns, selector).map_err(fail)?;
    let used = usages(&usage, name, container);
    if used.is_empty() {
        let why = format!(
            "unable to get metrics for resource {name}: no metrics returned from resource metrics API"
        );
        return Err(fail(why));
    }
    let average = source["target"]["averageValue"].as_str().and_then(|q| Quantity::parse(q).ok());
    let target = match (utilization, average) {
        (Some(percent), _) => Target::Utilization(percent),
        (None, Some(q)) => Target::Average(q.millis()),
        _ => return Err(fail("the target has neither a utilization nor a value".to_owned())),
    };
    let group = Group::of(&own, &used, name, container, cx.now()).map_err(fail)?;
    let (n, seen) = group.replicas(target, current).map_err(fail)?;
    let kind = if utilization.is_some() { "utilization (percentage of request)" } else { "value" };
    let of = container.map_or("resource".to_owned(), |_| "container resource".to_owned());
    let what = format!("{name} {of} {kind}");
    let mut now = json!({"averageValue": quantity(group.average())});
    if let Some(u) = seen {
        now["averageUtilization"] = json!(u);
    }
    let mut status = json!({"name": name, "current": now});
    let status = match container {
        Some(c) => {
            status["container"] = json!(c);
            json!({"type": "ContainerResource", "containerResource": status})
        }
        None => json!({"type": "Resource", "resource": status}),
    };
    Ok((n, why(&what, n, current), status))
}

/// What a pod uses, in thousandths, and when that was measured over how many seconds.
struct Usage {
    amount: i64,
    at: i64,
    window: i64,
}

fn usages(list: &Value, resource: &str, container: Option<&str>) -> HashMap<String, Usage> {
    let mut out = HashMap::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let all = pod["containers"].as_array().into_iter().flatten();
        let mut chosen = all.filter(|c| container.is_none_or(|n| c["name"] == n)).peekable();
        if chosen.peek().is_none() {
            continue;
        }
        let amounts: Option<Vec<i64>> = chosen
            .map(|c| Some(Quantity::parse(c["usage"][resource].as_str()?).ok()?.millis()))
            .collect();
        if let Some(amounts) = amounts {
            let at = time::parse_micros(text(pod, "/timestamp")).unwrap_or(0) / 1_000_000;
            let window = time::parse_duration(text(pod, "/window")).unwrap_or(0) / 1_000_000_000;
            out.insert(
                meta(pod, "name").to_owned(),
                Usage { amount: amounts.iter().sum(), at, window },
            );
        }
    }
    out
}

#[derive(Clone, Copy)]
enum Target {
    /// A percentage of what pods request.
    Utilization(i64),
    /// Thousandths for each pod.
    Average(i64),
}

/// A target's pods: what those use that count, what each requests, and those of which nothing is known yet.
#[derive(Debug, Default)]
struct Group {
    used: Vec<(i64, Option<i64>)>,
    missing: Vec<Option<i64>>,
    unready: Vec<Option<i64>>,
    lacks: Option<String>,
}

impl Group {
    fn of(
        own: &[Object],
        used: &HashMap<String, Usage>,
        resource: &str,
        container: Option<&str>,
        now: i64,
    ) -> Result<Group, String> {
        let mut g = Group::default();
        for pod in own.iter().filter(|p| !is_deleting(p) && text(p, "/status/phase") != "Failed") {
            let request = request(pod, resource, container);
            if let Err(why) = &request {
                g.lacks.get_or_insert_with(|| why.clone());
            }
            let request = request.ok();
            match used.get(meta(pod, "name")) {
                _ if text(pod, "/status/phase") == "Pending" => g.unready.push(request),
                None => g.missing.push(request),
                Some(u) if resource == "cpu" && !is_warm(pod, u, now) => g.unready.push(request),
                Some(u) => g.used.push((u.amount, request)),
            }
        }
        if g.used.is_empty() {
            return Err(format!(
                "did not receive metrics for targeted pods (pods might be unready): {resource}"
            ));
        }
        Ok(g)
    }

    fn average(&self) -> i64 {
        let count = i64::try_from(self.used.len().max(1)).unwrap_or(1);
        self.used.iter().map(|(n, _)| n).sum::<i64>() / count
    }

    /// How many replicas are wanted, and the utilization as it is.
    fn replicas(&self, target: Target, current: i64) -> Result<(i64, Option<i64>), String> {
        if let (Target::Utilization(_), Some(why)) = (target, &self.lacks) {
            return Err(why.clone());
        }
        let (ratio, seen) = ratio(&self.used, target);
        let up_with_unready = !self.unready.is_empty() && ratio > 1.0;
        let near = |r: f64| (1.0 - r).abs() <= TOLERANCE;
        if !up_with_unready && self.missing.is_empty() {
            if near(ratio) {
                return Ok((current, seen));
            }
            return Ok((ceil(ratio * count(self.used.len())), seen));
        }
        // Pods that are not seen count as what lets the target move least.
        let mut all = self.used.clone();
        let usual = |request: &Option<i64>| match target {
            Target::Utilization(percent) => request.unwrap_or(0) * percent.max(100) / 100,
            Target::Average(amount) => amount,
        };
        let shrinks = ratio < 1.0;
        all.extend(self.missing.iter().map(|r| (if shrinks { usual(r) } else { 0 }, *r)));
        if up_with_unready {
            all.extend(self.unready.iter().map(|r| (0, *r)));
        }
        let (after, _) = self::ratio(&all, target);
        let wanted = ceil(after * count(all.len()));
        let turned = (ratio < 1.0) != (after < 1.0);
        let against = after < 1.0 && wanted > current || after > 1.0 && wanted < current;
        Ok((if near(after) || turned || against { current } else { wanted }, seen))
    }
}

/// What a pod's containers request, in thousandths.
fn request(pod: &Value, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let sidecars = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    let sidecars = sidecars.filter(|c| c["restartPolicy"] == "Always");
    let all = pod["spec"]["containers"].as_array().into_iter().flatten().chain(sidecars);
    let chosen = all.filter(|c| container.is_none_or(|n| c["name"] == n));
    chosen
        .map(|c| {
            let asked = c["resources"]["requests"][resource].as_str();
            asked.and_then(|q| Quantity::parse(q).ok()).map(|q| q.millis()).ok_or_else(|| {
                format!(
                    "missing request for {resource} in container {} of Pod {}",
                    text(c, "/name"),
                    meta(pod, "name")
                )
            })
        })
        .sum()
}

/// Whether a pod's processor time says something yet.
fn is_warm(pod: &Value, u: &Usage, now: i64) -> bool {
    let seconds = |t: &str| time::parse_micros(t).map(|t| t / 1_000_000);
    let list = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = list.into_iter().find(|c| c["type"] == "Ready");
    let (Some(ready), Some(start)) = (ready, seconds(text(pod, "/status/startTime"))) else {
        return false;
    };
    let since = seconds(text(ready, "/lastTransitionTime")).unwrap_or(0);
    if start + WARMING > now {
        return ready["status"] != "False" && u.at >= since + u.window;
    }
    !(ready["status"] == "False" && start + READINESS > since)
}

#[allow(clippy::cast_precision_loss, reason = "ratios for a comparison with a tolerance")]
fn ratio(used: &[(i64, Option<i64>)], target: Target) -> (f64, Option<i64>) {
    let sum: i64 = used.iter().map(|(n, _)| n).sum();
    match target {
        Target::Utilization(percent) => {
            let requested: i64 = used.iter().filter_map(|(_, r)| *r).sum();
            let now = sum.saturating_mul(100).checked_div(requested).unwrap_or(0);
            (now as f64 / percent.max(1) as f64, Some(now))
        }
        Target::Average(amount) => {
            (sum as f64 / count(used.len().max(1)) / amount.max(1) as f64, None)
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of pods")]
fn count(n: usize) -> f64 {
    n as f64
}

#[allow(clippy::cast_possible_truncation, reason = "counts of pods")]
fn ceil(n: f64) -> i64 {
    n.ceil() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pods that each request 1000 and use so much; and so many of which nothing is known.
    #[track_caller]
    fn check(used: &[i64], missing: usize, unready: usize, target: Target, expected: i64) {
        let g = Group {
            used: used.iter().map(|n| (*n, Some(1000))).collect(),
            missing: vec![Some(1000); missing],
            unready: vec![Some(1000); unready],
            lacks: None,
        };
        let current = i64::try_from(used.len() + missing + unready).unwrap();
        assert_eq!(g.replicas(target, current).unwrap().0, expected);
    }

    #[test]
    fn replicas_follow_the_load() {
        use Target::{Average, Utilization};
        check(&[300, 500, 700], 0, 0, Utilization(30), 5);
        check(&[300, 310], 0, 0, Utilization(30), 2);
        check(&[100, 100, 100, 100], 0, 0, Utilization(50), 1);
        check(&[900, 900], 0, 0, Average(500), 4);
        // New pods use nothing yet: growth is careful.
        check(&[400, 500], 0, 1, Utilization(30), 3);
        check(&[900, 900], 0, 1, Utilization(30), 6);
        // Silent pods count as fully used when the target would shrink, as idle when it would grow.
        check(&[100, 100], 2, 0, Utilization(50), 4);
        check(&[450, 450], 1, 0, Utilization(40), 3);
        check(&[600, 600], 1, 0, Utilization(20), 6);
    }

    #[test]
    fn new_pods_say_little_of_their_processor_time() {
        let t = |s: i64| time::format_seconds(s);
        let pod = |start: i64, ready: &str, since: i64| json!({"status": {"startTime": t(start), "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": t(since)}]}});
        let u = |at: i64| Usage { amount: 1, at, window: 30 };
        assert!(!is_warm(&pod(1000, "True", 1010), &u(1030), 1100));
        assert!(is_warm(&pod(1000, "True", 1010), &u(1040), 1100));
        assert!(!is_warm(&pod(1000, "False", 1010), &u(1040), 2000));
        assert!(is_warm(&pod(1000, "False", 1040), &u(1040), 2000));
        assert!(!is_warm(&json!({"status": {}}), &u(1040), 2000));
    }
}
