//! HorizontalPodAutoscalers: as many replicas as the load of their pods asks for.

mod behaviour;
mod load;

use crate::object::{is_deleting, meta, number, text};
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use behaviour::{History, Limit};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use wharf_base::sync::Mutex;
use wharf_client::resources::AUTOSCALERS;
use wharf_client::{At, Change, Write};
use wharf_kube::status::Fault;

/// How often the load is looked at.
const PERIOD: Duration = Duration::from_secs(15);

/// The loop; its keys are autoscalers.
#[derive(Default)]
pub struct Autoscalers {
    /// What each has advised and done lately, by uid.
    histories: Mutex<HashMap<String, History>>,
}

impl Loop for Autoscalers {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    fn workers(&self) -> usize {
        4
    }

    fn wake(&self, _: &World, change: &Change, before: &Before) -> Vec<Key> {
        if *change.resource != AUTOSCALERS {
            return Vec::new();
        }
        if change.gone {
            self.histories.lock().remove(meta(&change.object, "uid"));
            return Vec::new();
        }
        // Its own status is no news.
        let same = before.object.as_ref().is_some_and(|b| b["spec"] == change.object["spec"]);
        if same { Vec::new() } else { vec![Key::of(&change.object)] }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let scaler = cx.world.get(&AUTOSCALERS, key).filter(|s| !is_deleting(s));
            let Some(scaler) = scaler else { return Ok(Next::Change) };
            let mut report = Report::of(&scaler, cx);
            let outcome = self.adjust(cx, &scaler, &mut report).await;
            if let Err(Unable { reason, message }) = &outcome {
                cx.tell(&scaler, true, reason, message).await;
            }
            report.store(cx, &scaler).await?;
            Ok(Next::After(PERIOD))
        })
    }
}

/// Why nothing was computed: the reason and message of an event.
struct Unable {
    reason: &'static str,
    message: String,
}

impl Autoscalers {
    async fn adjust(
        &self,
        cx: &Context,
        scaler: &Value,
        report: &mut Report,
    ) -> Result<(), Unable> {
        let unable = |reason: &'static str, message: String| Unable { reason, message };
        let scale = match target(cx, scaler) {
            Ok(path) => cx.ask("GET", &path, &[], Value::Null).await.map(|s| (path, s)),
            Err(f) => Err(f),
        };
        let (path, scale) = scale.map_err(|f| {
            let why =
                format!("the HPA controller was unable to get the target's current scale: {f}");
            report.say("AbleToScale", false, "FailedGetScale", &why);
            unable("FailedGetScale", f.to_string())
        })?;
        let able = "the HPA controller was able to get the target's current scale";
        report.say("AbleToScale", true, "SucceededGetScale", able);
        let current = number(&scale, "/spec/replicas").unwrap_or(0);
        let least = number(scaler, "/spec/minReplicas").unwrap_or(1);
        let most = number(scaler, "/spec/maxReplicas").unwrap_or(1);
        report.replicas = number(&scale, "/status/replicas").unwrap_or(0);
        report.desired = current;
        if current == 0 && least != 0 {
            let why = "scaling is disabled since the replica count of the target is zero";
            report.say("ScalingActive", false, "ScalingDisabled", why);
            return Ok(());
        }
        let (wanted, why) = if current > most {
            (most, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let (wanted, why) = load::replicas(cx, scaler, &scale, current, report)
                .await
                .map_err(|e| unable("FailedComputeMetricsReplicas", e))?;
            let mut histories = self.histories.lock();
            let history = histories.entry(meta(scaler, "uid").to_owned()).or_default();
            let limit = behaviour::limited(scaler, history, current, wanted, cx.now());
            drop(histories);
            report.limited(&limit, wanted, current);
            (limit.replicas, why)
        };
        report.desired = wanted;
        if wanted == current {
            return Ok(());
        }
        let mut next = scale;
        next["spec"]["replicas"] = json!(wanted);
        cx.ask("PUT", &path, &[], next).await.map_err(|f| {
            let why = format!("the HPA controller was unable to update the target scale: {f}");
            report.say("AbleToScale", false, "FailedUpdateScale", &why);
            report.desired = current;
            unable("FailedRescale", format!("New size: {wanted}; reason: {why}; error: {f}"))
        })?;
        let done = format!("the HPA controller was able to update the target scale to {wanted}");
        report.say("AbleToScale", true, "SucceededRescale", &done);
        report.moved = true;
        if let Some(h) = self.histories.lock().get_mut(meta(scaler, "uid")) {
            h.moved(current, wanted, cx.now());
        }
        let told = format!("New size: {wanted}; reason: {why}");
        cx.tell(scaler, false, "SuccessfulRescale", &told).await;
        Ok(())
    }
}

/// The path of the scale that an autoscaler sets.
fn target(cx: &Context, scaler: &Value) -> Result<String, Fault> {
    let of = &scaler["spec"]["scaleTargetRef"];
    let (version, kind) = (text(of, "/apiVersion"), text(of, "/kind"));
    let (resource, _) = cx.lookup(version, kind).ok_or_else(|| {
        Fault::bad_request(format!("no matches for kind {kind:?} in version {version:?}"))
    })?;
    let plural = resource.plural;
    let root = if version.contains('/') { "/apis" } else { "/api" };
    let (ns, name) = (meta(scaler, "namespace"), text(of, "/name"));
    Ok(format!("{root}/{version}/namespaces/{ns}/{plural}/{name}/scale"))
}

/// What becomes the status.
struct Report {
    conditions: Vec<Value>,
    now: String,
    replicas: i64,
    desired: i64,
    moved: bool,
    /// Metrics as they are now.
    readings: Vec<Value>,
}

impl Report {
    fn of(scaler: &Value, cx: &Context) -> Report {
        let status = &scaler["status"];
        Report {
            conditions: status["conditions"].as_array().cloned().unwrap_or_default(),
            now: cx.timestamp(),
            replicas: status["currentReplicas"].as_i64().unwrap_or(0),
            desired: status["desiredReplicas"].as_i64().unwrap_or(0),
            moved: false,
            readings: Vec::new(),
        }
    }

    fn say(&mut self, kind: &str, yes: bool, reason: &str, message: &str) {
        let status = if yes { "True" } else { "False" };
        let old = self.conditions.iter().position(|c| c["type"] == kind);
        let mut next = json!({"type": kind, "status": status, "lastTransitionTime": self.now, "reason": reason, "message": message});
        match old {
            Some(i) => {
                if self.conditions[i]["status"] == status {
                    next["lastTransitionTime"] = self.conditions[i]["lastTransitionTime"].clone();
                }
                self.conditions[i] = next;
            }
            None => self.conditions.push(next),
        }
    }

    fn limited(&mut self, limit: &Limit, wanted: i64, current: i64) {
        match limit.stable {
            Some(reason) => {
                let (than, which) = if reason == "ScaleDownStabilized" {
                    ("higher", "highest")
                } else {
                    ("lower", "lowest")
                };
                let why = format!(
                    "recent recommendations were {than} than current one, applying the {which} recent recommendation"
                );
                self.say("AbleToScale", true, reason, &why);
            }
            None if wanted == current => self.say(
                "AbleToScale",
                true,
                "ReadyForNewScale",
                "recommended size matches current size",
            ),
            None => {}
        }
        match limit.bound {
            Some((reason, message)) => self.say("ScalingLimited", true, reason, message),
            None => self.say(
                "ScalingLimited",
                false,
                "DesiredWithinRange",
                "the desired count is within the acceptable range",
            ),
        }
    }

    async fn store(self, cx: &Context, scaler: &Value) -> Result<(), Fault> {
        let mut status = json!({"currentReplicas": self.replicas, "desiredReplicas": self.desired,
            "conditions": self.conditions});
        let last =
            if self.moved { json!(self.now) } else { scaler["status"]["lastScaleTime"].clone() };
        if !last.is_null() {
            status["lastScaleTime"] = last;
        }
        if !self.readings.is_empty() {
            status["currentMetrics"] = Value::Array(self.readings);
        }
        if let Some(n) = scaler["status"].get("observedGeneration") {
            status["observedGeneration"] = n.clone();
        }
        if crate::replicas::same_numbers(&status, &scaler["status"]) {
            return Ok(());
        }
        let mut next = scaler.clone();
        next["status"] = status;
        let at = At {
            resource: &AUTOSCALERS,
            namespace: meta(scaler, "namespace"),
            name: meta(scaler, "name"),
        };
        cx.write(at, Some("status"), Write::Replace(next)).await.map(drop)
    }
}
