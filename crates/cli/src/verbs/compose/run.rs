//! `run`: one command in a container of its own.

use std::io::IsTerminal;

use wharf_compose::create::{self, OneOff};
use wharf_compose::observe::observe;
use wharf_compose::plan::UpOptions;
use wharf_compose::{Engine, labels};
use wharf_spec::compose::model::{Mount, Port, Service};
use wharf_spec::compose::{Env, Project, Selection};

use super::{load, up};
use crate::app::{Call, say_line};
use crate::attach::{self, End, Streams, Window};
use crate::failure::Failure;
use crate::verbs::Outcome;
use crate::verbs::run::{Waiting, attach_path, exit_with, keys, start};

/// `compose run SERVICE [COMMAND] [ARGS...]`
pub async fn run(call: Call) -> Outcome {
    let given = &call.given;
    let name = call.args()[0].clone();
    let chosen = [name.clone()];
    let mut project = load(&call, &chosen, Selection::WithDependencies)?;
    let mut alone = project.clone();
    alone.services.retain(|n, _| *n == name);
    up::images(&call, &alone).await?;
    start_dependencies(&call, &project, &name).await?;
    let detached = given.on("detach");
    let tty = !given.on("no-TTY") && std::io::stdout().is_terminal() && !detached;
    // Of a detached container as well: what reads its input waits for somebody to attach.
    let interactive = given.on_or("interactive", true);
    let slug = slug()?;
    let around = project.environment.clone();
    let Some(service) = project.services.get_mut(&name) else {
        return Err(Failure::new(format!("no such service: {name}")));
    };
    adapt(&call, &around, service, tty, interactive)?;
    let service = service.clone();
    let own = match given.text("name") {
        "" => format!(
            "{}{}{name}{}run{}{slug}",
            project.name,
            dash(&project),
            dash(&project),
            dash(&project)
        ),
        own => own.to_owned(),
    };
    let (id, service) = create_one(&call, &project, &name, &service, (&own, &slug)).await?;
    let client = call.client()?;
    if detached {
        start(client, &id).await?;
        return say_line(&own);
    }
    let streams = Streams {
        stdin: interactive,
        stdout: true,
        stderr: true,
        tty: service.tty,
        detach_keys: keys(&call),
    };
    let work = async {
        let (connection, _) = client.hijack(&attach_path(&id, &streams), None).await?;
        let wait = Waiting::begin(client, &id, given.on("rm")).await?;
        start(client, &id).await?;
        let sized = async {
            match service.tty && std::io::stdout().is_terminal() {
                true => attach::follow_size(client, Window::Container(&id)).await,
                false => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            end = attach::stream(connection, &streams) => end?,
            () = sized => End::Closed,
        };
        match end {
            End::Detached => Ok(()),
            End::Closed => exit_with(wait.status().await),
        }
    };
    attach::forwarding(client, &id, true, work).await
}

fn dash(project: &Project) -> &'static str {
    create::separator(project)
}

/// Twelve hex digits that tell one run from another.
fn slug() -> Result<String, Failure> {
    let mut bytes = [0; 6];
    use std::io::Read;
    std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes))?;
    Ok(hex::encode(bytes))
}

async fn start_dependencies(call: &Call, project: &Project, name: &str) -> Outcome {
    let needed: Vec<String> = match call.given.on("no-deps") {
        true => Vec::new(),
        false => project.services.keys().filter(|n| *n != name).cloned().collect(),
    };
    let mut others = project.clone();
    let all = std::mem::take(&mut others.services).into_iter();
    let (kept, left): (Vec<_>, Vec<_>) = all.partition(|(n, _)| n == name || needed.contains(n));
    others.services.extend(kept);
    // What is left out is no orphan.
    others.disabled.extend(left);
    // The service itself is not brought up, but its networks are.
    if let Some(service) = others.services.get_mut(name) {
        service.set_replicas(0);
    }
    for service in others.services.values_mut() {
        service.depends_on.retain(|n, _| needed.contains(n));
    }
    let options = UpOptions {
        services: needed,
        start: true,
        ignore_orphans: super::switch("COMPOSE_IGNORE_ORPHANS", &project.environment),
        remove_orphans: call.given.on("remove-orphans"),
        ..UpOptions::default()
    };
    // Containers that run for the service already are none of this call's business.
    let engine = super::engine(call)?;
    let running = super::containers(&engine, &project.name, &[name.to_owned()], false).await?;
    if let Some(service) = others.services.get_mut(name) {
        service.set_replicas(i64::try_from(running.len()).unwrap_or(0));
    }
    if !running.is_empty() || !options.services.is_empty() || !others.networks.is_empty() {
        let kept = UpOptions {
            recreate: wharf_compose::plan::Recreate::Diverged,
            recreate_dependencies: wharf_compose::plan::Recreate::Diverged,
            ..options
        };
        if running.is_empty() {
            return up::bring_up(call, &others, &kept).await;
        }
        let own = others.services.remove_entry(name);
        others.disabled.extend(own);
        others.services.values_mut().for_each(|s| drop(s.depends_on.remove(name)));
        return up::bring_up(call, &others, &kept).await;
    }
    Ok(())
}

/// The service as this call wants it.
fn adapt(
    call: &Call,
    around: &Env,
    service: &mut Service,
    tty: bool,
    interactive: bool,
) -> Outcome {
    let given = &call.given;
    service.tty = tty;
    service.stdin_open = interactive;
    service.container_name.clear();
    service.scale = Some(1);
    if let Some(deploy) = &mut service.deploy {
        deploy.replicas = None;
        deploy.restart_policy = None;
    }
    service.restart.clear();
    if call.args().len() > 1 {
        service.command.0 = Some(call.args()[1..].to_vec());
    }
    if given.changed("entrypoint") {
        let words = wharf_spec::compose::value::words(given.text("entrypoint"))?;
        service.entrypoint.0 = Some(words);
        if call.args().len() < 2 {
            service.command.0 = None;
        }
    }
    let set = |slot: &mut String, flag: &str| {
        if given.changed(flag) {
            given.text(flag).clone_into(slot);
        }
    };
    set(&mut service.user, "user");
    set(&mut service.working_dir, "workdir");
    for pair in
        crate::parse::files::read(given.all("env-from-file"), &[], |n| std::env::var(n).ok())?
    {
        let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
        service.environment.0.insert(key.to_owned(), Some(value.to_owned()));
    }
    for pair in given.all("env") {
        let (key, value) = match pair.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (pair.as_str(), around.get(pair).cloned()),
        };
        // One that has no value here keeps what the service gives it.
        if value.is_some() {
            service.environment.0.insert(key.to_owned(), value);
        }
    }
    for pair in given.all("label") {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        service.labels.0.insert(key.to_owned(), value.to_owned());
    }
    service.cap_add.extend(given.all("cap-add").iter().cloned());
    service.cap_drop.extend(given.all("cap-drop").iter().cloned());
    if !given.on("service-ports") {
        service.ports.clear();
    }
    for text in given.all("publish") {
        let parsed = crate::parse::ports::parse(std::slice::from_ref(text), &[])?;
        for (key, bindings) in parsed.bindings {
            let (target, protocol) = key.split_once('/').unwrap_or((&key, "tcp"));
            for binding in crate::verbs::items(&bindings) {
                service.ports.push(Port {
                    target: target.parse().unwrap_or(0),
                    protocol: protocol.to_owned(),
                    host_ip: crate::verbs::text(binding, "HostIp").to_owned(),
                    published: crate::verbs::text(binding, "HostPort").to_owned(),
                    ..Port::default()
                });
            }
        }
    }
    volumes(service, given.all("volume"));
    Ok(())
}

/// `--volume`, each in place of what the service mounts there.
fn volumes(service: &mut Service, texts: &[String]) {
    for text in texts {
        let mut parts = text.splitn(3, ':');
        let (first, second, mode) = (parts.next(), parts.next(), parts.next());
        let (source, target) = match (first, second) {
            (Some(source), Some(target)) => (source, target),
            (target, _) => ("", target.unwrap_or_default()),
        };
        let path = source.starts_with(['/', '.', '~']);
        let source = if path { crate::parse::absolute(source) } else { source.to_owned() };
        service.volumes.retain(|v| v.target != target);
        service.volumes.push(Mount {
            kind: if path { "bind" } else { "volume" }.to_owned(),
            source,
            target: target.to_owned(),
            read_only: mode.is_some_and(|m| m.split(',').any(|o| o == "ro")),
            ..Mount::default()
        });
    }
}

async fn create_one(
    call: &Call,
    project: &Project,
    name: &str,
    service: &Service,
    (own, slug): (&str, &str),
) -> Result<(String, Service), Failure> {
    let given = &call.given;
    let engine = super::engine(call)?;
    let screen = super::screen(call)?;
    let observed = observe(&engine, project).await?;
    let mut project = project.clone();
    project.services.insert(name.to_owned(), service.clone());
    let run = up::prepare(call, &engine, &project, &observed, &screen)?;
    let service = run.resolved(name)?;
    let mut context = run.context(name, &service, 1);
    context.oneoff = Some(OneOff {
        remove: given.on("rm"),
        stdin: service.stdin_open,
        aliases: given.on("use-aliases"),
    });
    context.labels.insert(labels::ONEOFF.to_owned(), "True".to_owned());
    context.labels.insert(labels::SLUG.to_owned(), slug.to_owned());
    let request = create::request(&project, name, &service, 0, &context, Default::default())?;
    let (id, warnings) = engine.create(own, &service.platform, &request).await?;
    warnings.iter().for_each(|w| super::remark(w));
    run.inject(name, &service, &id).await?;
    Ok((id, service))
}
