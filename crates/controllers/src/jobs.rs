//! Jobs: pods until enough of them have succeeded, or too many have failed.
//!
//! A pod of a job carries a finalizer until its end is counted: its uid is noted in the status, then the
//! finalizer is taken away, then the note becomes part of the count. So each is counted once, whatever
//! happens in between. [`plan`] decides, this file acts.

mod indexes;
mod plan;
mod policy;
mod view;

use crate::object::{finalizers, is_deleting, manager, meta, text};
use crate::pods;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use plan::Plan;
use serde_json::{Value, json};
use wharf_client::resources::{JOBS, PODS};
use wharf_client::{At, Change, Object, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;

/// The finalizer of pods that are not counted yet.
const MARK: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The loop; its keys are Jobs, and with a slash before their names pods that no Job has.
pub struct Jobs;

impl Loop for Jobs {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn workers(&self) -> usize {
        4
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        match &*change.resource {
            r if *r == JOBS => {
                let mut keys = vec![Key::of(&change.object)];
                if change.gone {
                    let own = world.managed(&PODS, meta(&change.object, "uid"));
                    keys.extend(own.iter().filter(|p| is_held(p)).map(|p| alone(p)));
                }
                keys
            }
            r if *r == PODS => {
                let pod = &change.object;
                let mut keys = pods::managers("Job", pod, before.object.as_ref());
                if !change.gone {
                    keys.extend(pods::takers(world, &JOBS, pod, selector));
                    keys.extend((is_held(pod) && is_lost(world, pod)).then(|| alone(pod)));
                }
                keys
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            if let Some(name) = key.name.strip_prefix('/') {
                let pod = cx.world.get(&PODS, &Key::new(&*key.namespace, name));
                let lost = pod.into_iter().filter(|p| is_lost(&cx.world, p));
                release(cx, &lost.collect::<Vec<Object>>()).await?;
                return Ok(Next::Change);
            }
            let job = cx.world.get(&JOBS, key);
            let Some(job) = job else { return Ok(Next::Change) };
            if job["spec"].get("managedBy").is_some_and(|m| m != "kubernetes.io/job-controller") {
                return Ok(Next::Change);
            }
            let own = cx.world.managed(&PODS, meta(&job, "uid"));
            // Pods of a job that is going, or has ended, are held no longer.
            if is_deleting(&job) || outcome(&job).is_some() {
                release(cx, &own).await?;
                return Ok(Next::Change);
            }
            let selector = selector(&job).unwrap_or_default();
            let reference = pods::reference("batch/v1", "Job", &job);
            let own = pods::claim(cx, &JOBS, &job, &reference, &selector).await?;
            let plan = Plan::new(&job, &own, cx.now());
            act(cx, key, &job, plan).await
        })
    }
}

fn selector(job: &Value) -> Option<Labels> {
    Labels::from_object(&job["spec"]["selector"])
}

/// How a job has ended; nothing for one that goes on.
pub(crate) fn outcome(job: &Value) -> Option<&str> {
    let list = job.pointer("/status/conditions")?.as_array()?;
    let ended = list
        .iter()
        .find(|c| c["status"] == "True" && matches!(text(c, "/type"), "Complete" | "Failed"))?;
    ended["type"].as_str()
}

fn is_held(pod: &Value) -> bool {
    finalizers(pod).any(|f| f == MARK)
}

/// The key of a pod that no Job has.
fn alone(pod: &Value) -> Key {
    Key::new(meta(pod, "namespace"), format!("/{}", meta(pod, "name")))
}

/// Whether nobody manages a pod, or a Job that is gone.
fn is_lost(world: &World, pod: &Value) -> bool {
    let Some(owner) = manager(pod) else { return true };
    let job = || world.get(&JOBS, &Key::new(meta(pod, "namespace"), text(owner, "/name")));
    owner["kind"] == "Job" && job().is_none_or(|j| meta(&j, "uid") != text(owner, "/uid"))
}

async fn act(cx: &Context, key: &Key, job: &Value, mut plan: Plan) -> Result<Next, Fault> {
    // What is not wanted any more is let go first, so that its end does not count.
    release(cx, &plan.drop).await?;
    pods::remove(cx, job, &plan.drop).await?;
    pods::remove(cx, job, &plan.end).await?;
    let wanted = plan.create.len();
    let (made, outcome) = pods::make(cx, job, std::mem::take(&mut plan.create)).await;
    plan.correct(wanted - made);
    if plan.status != job["status"] {
        let mut next = job.clone();
        next["status"] = plan.status.clone();
        let at = At { resource: &JOBS, namespace: &key.namespace, name: &key.name };
        cx.write(at, Some("status"), Write::Replace(next)).await?;
    }
    for (warning, reason, message) in &plan.news {
        cx.tell(job, *warning, reason, message).await;
    }
    release(cx, &plan.release).await?;
    outcome?;
    Ok(plan.wait)
}

/// Takes the finalizer from pods.
async fn release(cx: &Context, pods: &[Object]) -> Result<(), Fault> {
    for pod in pods.iter().filter(|p| is_held(p)) {
        let at = At { resource: &PODS, namespace: meta(pod, "namespace"), name: meta(pod, "name") };
        let patch = json!({"metadata": {"uid": meta(pod, "uid"), "$deleteFromPrimitiveList/finalizers": [MARK]}});
        match cx.write(at, None, Write::Strategic(patch)).await {
            // Another pod has the name by now.
            Err(f) if f.code != 404 && f.code != 409 => return Err(f),
            _ => {}
        }
    }
    Ok(())
}
