//! `watch`: what is changed on this side is copied, rebuilt or restarted on the other.

mod rules;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use wharf_compose::apply::{Run, exec_of};
use wharf_compose::observe::observe;
use wharf_compose::plan::{Recreate, UpOptions, up as plan_up};
use wharf_compose::{Engine, labels};
use wharf_spec::compose::model::Hook;
use wharf_spec::compose::{Project, Selection};
use wharf_spec::docker::ContainerSummary;

use super::restart::{needs, restart_services, with_dependents};
use super::simple::Target;
use super::{builds, containers, load, remark, up};
use crate::api::{Payload, filters, segment, url};
use crate::app::{Call, say_line};
use crate::attach::{self, Streams};
use crate::failure::{Failure, os_text};
use crate::verbs::{Outcome, items, text};
use rules::{Rule, Work};
use tree::Tree;

/// `compose watch [SERVICE...]`
pub async fn watch(call: Call) -> Outcome {
    let services = call.args().to_vec();
    let mut project = load(&call, &services, Selection::WithDependencies)?;
    check(&project)?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terms = signal(SignalKind::terminate())?;
    let work = async {
        if !call.given.on("no-up") {
            for service in project.services.values_mut() {
                if service.build.is_some() && service.develop.is_some() {
                    "build".clone_into(&mut service.pull_policy);
                }
            }
            let options = UpOptions {
                services: services.clone(),
                start: true,
                recreate_dependencies: Recreate::Never,
                ..UpOptions::default()
            };
            up::bring_up(&call, &project, &options).await?;
        }
        run(&call, &project, &services).await
    };
    tokio::select! {
        result = work => result,
        _ = interrupts.recv() => told("Watch disabled"),
        _ = terms.recv() => told("Watch disabled"),
    }
}

/// Refuses a project in which nothing is watched.
pub(crate) fn check(project: &Project) -> Outcome {
    match rules::any(project) {
        true => Ok(()),
        false => Err(Failure::new(
            "none of the selected services is configured for watch, consider setting a 'develop' section",
        )),
    }
}

fn told(what: &str) -> Outcome {
    say_line(format!("⦿ {what}"))
}

/// Watches until something fails; whoever wants it to end drops it. Services that were not asked for
/// are not watched.
pub(crate) async fn run(call: &Call, project: &Project, services: &[String]) -> Outcome {
    let mut chosen = project.clone();
    chosen.select(services, Selection::Alone)?;
    let (rules, remarks) = rules::of(&chosen, |path| std::fs::read_to_string(path).ok())?;
    remarks.iter().for_each(|r| remark(r));
    let failed = |e: std::io::Error| Failure::new(format!("cannot watch: {}", os_text(&e)));
    let mut roots: Vec<PathBuf> = Vec::new();
    for rule in &rules {
        if !roots.contains(&rule.path) {
            roots.push(rule.path.clone());
        }
    }
    let watch = Watch { call, project, rules: &rules };
    watch.begin().await?;
    let enters = |path: &Path| rules.iter().any(|r| r.enters(path));
    let mut tree = Tree::new(roots, enters).map_err(failed)?;
    told("Watch enabled")?;
    loop {
        let changed = tree.batch().await.map_err(failed)?;
        let work = rules::decide(&rules, &changed);
        // What failed is mended by another change of a file, so watching goes on.
        if let Err(failure) = watch.work(&work).await {
            remark(&format!("Error handling changed files: {}", failure.text));
        }
    }
}

struct Watch<'a> {
    call: &'a Call,
    project: &'a Project,
    rules: &'a [Rule],
}

impl Watch<'_> {
    /// Copies what wants to be there from the start.
    async fn begin(&self) -> Outcome {
        let initial = self.rules.iter().filter(|r| r.initial && r.copies());
        for rule in initial.filter(|r| r.path.exists()) {
            let found = tree::files(&rule.path, &|p: &Path| rule.enters(p));
            let found = found.map_err(|e| {
                let path = rule.path.display();
                Failure::new(format!("cannot read {path}: {}", os_text(&e)))
            })?;
            let work = rules::decide(std::slice::from_ref(rule), &found);
            for (service, files) in &work.sync {
                self.copy(service, files).await?;
            }
        }
        Ok(())
    }

    async fn work(&self, work: &Work) -> Outcome {
        if !work.rebuild.is_empty() {
            self.rebuild(&work.rebuild).await?;
        }
        for (service, files) in &work.sync {
            told(&format!(
                "Syncing service {service:?} after {} changes were detected",
                files.len()
            ))?;
            self.copy(service, files).await?;
        }
        if !work.restart.is_empty() {
            self.restart(&work.restart, true).await?;
            told(&format!("service(s) {:?} restarted", Vec::from_iter(&work.restart)))?;
        }
        for rule in work.exec.iter().filter_map(|at| self.rules.get(*at)) {
            for container in self.containers(&rule.service).await? {
                if container.state == "running" {
                    self.exec(&container, &rule.exec).await?;
                }
            }
        }
        Ok(())
    }

    async fn containers(&self, service: &str) -> Result<Vec<ContainerSummary>, Failure> {
        let engine = super::engine(self.call)?;
        containers(&engine, &self.project.name, &[service.to_owned()], false).await
    }

    /// Puts files into all containers of a service, and takes away those that are gone.
    async fn copy(&self, service: &str, files: &BTreeMap<String, PathBuf>) -> Outcome {
        let mut gone = Vec::new();
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        for (place, path) in files {
            match pack(&mut archive, place, path) {
                Ok(true) => (),
                Ok(false) => gone.push(place.clone()),
                Err(e) => {
                    let path = path.display();
                    return Err(Failure::new(format!("cannot read {path}: {}", os_text(&e))));
                }
            }
        }
        let archive = archive.into_inner()?;
        let engine = super::engine(self.call)?;
        for container in self.containers(service).await? {
            if !gone.is_empty() && container.state == "running" {
                let words = ["rm", "-rf", "--"].into_iter().map(str::to_owned);
                let request = wharf_spec::docker::ExecCreateRequest {
                    user: "0".to_owned(),
                    cmd: Some(words.chain(gone.clone()).collect()),
                    attach_stderr: true,
                    ..Default::default()
                };
                let status = engine.exec(&container.id, &request).await?;
                if status != 0 {
                    remark(&format!("{}: rm exited with status {status}", gone.join(" ")));
                }
            }
            if gone.len() < files.len() {
                engine.upload(&container.id, "/", archive.clone()).await?;
            }
        }
        Ok(())
    }

    async fn restart(&self, services: &BTreeSet<String>, themselves: bool) -> Outcome {
        let engine = super::engine(self.call)?;
        let containers = containers(&engine, &self.project.name, &[], false).await?;
        let screen = super::screen(self.call)?;
        let project = Some(self.project.clone());
        let found = Target { engine, screen, project, containers, dry: false };
        let needs = needs(Some(self.project), &found.containers);
        let names: Vec<String> = services.iter().cloned().collect();
        let mut chosen = with_dependents(&names, &needs);
        chosen.retain(|n| themselves || !services.contains(n));
        restart_services(&found, &chosen, &needs, super::timeout(self.call)).await
    }

    /// Builds images and replaces the containers that were made from the earlier ones.
    async fn rebuild(&self, services: &BTreeSet<String>) -> Outcome {
        let names: Vec<String> = services.iter().cloned().collect();
        told(&format!("Rebuilding service(s) {names:?} after changes were detected..."))?;
        let screen = super::screen(self.call)?;
        builds::build_services(self.call, &screen, self.project, &names).await?;
        told(&format!("service(s) {names:?} successfully built"))?;
        let mut project = self.project.clone();
        project.select(&names, Selection::Alone)?;
        let engine = super::engine(self.call)?;
        let observed = observe(&engine, &project).await?;
        let options = UpOptions {
            services: names,
            recreate: Recreate::Force,
            start: true,
            ignore_orphans: true,
            ..UpOptions::default()
        };
        let plan = plan_up(&project, &observed, &options)?;
        let run: Run<'_, _, _> = up::prepare(self.call, &engine, &project, &observed, &screen)?;
        run.run(&plan).await?;
        self.restart(services, false).await?;
        match self.call.given.on_or("prune", true) {
            true => self.prune().await,
            false => Ok(()),
        }
    }

    /// Removes the project's images that have lost their name to a newer build.
    async fn prune(&self) -> Outcome {
        let client = self.call.client()?;
        let wanted = filters(&[
            "dangling=true".to_owned(),
            format!("label={}={}", labels::PROJECT, self.project.name),
        ]);
        let list = client.get(&url("/images/json", &[("filters", &wanted)])).await?;
        for image in items(&list) {
            // One that somebody still uses stays.
            drop(client.delete(&format!("/images/{}", segment(text(image, "Id")))).await);
        }
        Ok(())
    }

    /// Runs a command in a container and shows its output.
    async fn exec(&self, container: &ContainerSummary, hook: &Hook) -> Outcome {
        let client = self.call.client()?;
        let body = serde_json::to_value(exec_of(hook))
            .map_err(|e| Failure::new(format!("the request cannot be written: {e}")))?;
        let path = format!("/containers/{}/exec", segment(&container.id));
        let made = client.post(&path, Payload::Json(body)).await?;
        let id = text(&made, "Id").to_owned();
        let start = serde_json::json!({"Detach": false, "Tty": false});
        let (connection, _) = client.hijack(&format!("/exec/{id}/start"), Some(start)).await?;
        let streams = Streams {
            stdin: false,
            stdout: true,
            stderr: true,
            tty: false,
            detach_keys: String::new(),
        };
        attach::stream(connection, &streams).await?;
        let answer =
            client.send(Method::GET, &format!("/exec/{id}/json"), Payload::Empty, &[]).await?;
        let state: Value =
            serde_json::from_slice(&crate::api::collect(answer).await?).unwrap_or_default();
        match state["ExitCode"].as_i64().unwrap_or(0) {
            0 => Ok(()),
            status => Err(Failure::new(format!("command exited with status {status}"))),
        }
    }
}

/// Adds a file, link or directory to an archive; whether it is there.
fn pack(archive: &mut tar::Builder<Vec<u8>>, place: &str, path: &Path) -> std::io::Result<bool> {
    let metadata = match path.symlink_metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&metadata);
    header.set_uid(0);
    header.set_gid(0);
    let name = place.trim_start_matches('/');
    if metadata.is_symlink() {
        archive.append_link(&mut header, name, std::fs::read_link(path)?)?;
    } else if metadata.is_dir() {
        header.set_size(0);
        archive.append_data(&mut header, name, std::io::empty())?;
    } else if metadata.is_file() {
        // Read at once, so that the size is right even when somebody writes meanwhile.
        let text = match std::fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        header.set_size(text.len() as u64);
        archive.append_data(&mut header, name, &text[..])?;
    }
    Ok(true)
}
