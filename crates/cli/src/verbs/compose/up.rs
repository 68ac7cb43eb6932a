//! `up`, `create` and `scale`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;

use futures_util::future::LocalBoxFuture;
use jiff::Timestamp;
use wharf_compose::apply::Run;
use wharf_compose::labels;
use wharf_compose::observe::{Observed, observe};
use wharf_compose::plan::{Recreate, UpOptions, diverged_volumes, ports, up as plan_up};
use wharf_spec::compose::{Project, Selection};
use wharf_spec::docker::ContainerSummary;

use super::display::Screen;
use super::engine::ApiEngine;
use super::policy::{self, Need};
use super::{attached, builds, load, pulls, remark, watch};
use crate::app::{Call, say_line, warn};
use crate::failure::Failure;
use crate::verbs::Outcome;

/// `compose up [SERVICE...]`
pub async fn up(call: Call) -> Outcome {
    check(&call)?;
    let given = &call.given;
    let services = call.args().to_vec();
    let reach = if given.on("no-deps") { Selection::Alone } else { Selection::WithDependencies };
    let mut project = load(&call, &services, reach)?;
    scale_by_flag(&mut project, given.all("scale"))?;
    if given.on("watch") {
        watch::check(&project)?;
    }
    let detached = given.on("detach") || given.on("wait");
    let options = UpOptions {
        services: services.clone(),
        start: !given.on("no-start"),
        wait: given.on("wait"),
        ..options(&call, &project)
    };
    let limit = given.int_or("wait-timeout", 0);
    let work = bring_up(&call, &project, &options);
    match u64::try_from(limit).ok().filter(|l| *l > 0 && given.on("wait")) {
        Some(limit) => {
            tokio::time::timeout(std::time::Duration::from_secs(limit), work).await.map_err(
                |_| Failure::new("application not healthy after the time of --wait-timeout"),
            )??
        }
        None => work.await?,
    }
    if detached || given.on("no-start") {
        return Ok(());
    }
    let watched: Option<LocalBoxFuture<'_, Outcome>> = match given.on("watch") {
        true => Some(Box::pin(watch::run(&call, &project, &services))),
        false => None,
    };
    attached::follow_until_end(&call, &project, &services, watched).await
}

/// `compose create [SERVICE...]`
pub async fn create(call: Call) -> Outcome {
    let services = call.args().to_vec();
    let mut project = load(&call, &services, Selection::WithDependencies)?;
    scale_by_flag(&mut project, call.given.all("scale"))?;
    let options = UpOptions { services, start: false, ..options(&call, &project) };
    bring_up(&call, &project, &options).await
}

/// `compose scale SERVICE=REPLICAS...`
pub async fn scale(call: Call) -> Outcome {
    let mut services = Vec::new();
    for pair in call.args() {
        let (name, _) = scale_pair(pair)?;
        services.push(name.to_owned());
    }
    let reach =
        if call.given.on("no-deps") { Selection::Alone } else { Selection::WithDependencies };
    let mut project = load(&call, &services, reach)?;
    scale_by_flag(&mut project, call.args())?;
    let options = UpOptions { services, start: true, ignore_orphans: true, ..UpOptions::default() };
    bring_up(&call, &project, &options).await
}

/// Flags that exclude one another.
fn check(call: &Call) -> Outcome {
    let given = &call.given;
    // What is no switch is on when it has any value.
    let on = |name: &str| given.changed(name) && given.on_or(name, true);
    let foreground = [
        "abort-on-container-exit",
        "abort-on-container-failure",
        "exit-code-from",
        "attach",
        "attach-dependencies",
        "watch",
    ];
    let clashes: [(&str, &[&str]); 8] = [
        ("force-recreate", &["no-recreate"]),
        ("always-recreate-deps", &["no-recreate"]),
        ("renew-anon-volumes", &["no-recreate"]),
        ("build", &["no-build"]),
        ("abort-on-container-failure", &["abort-on-container-exit"]),
        ("watch", &["no-build"]),
        ("wait", &foreground),
        ("detach", &foreground),
    ];
    for (flag, others) in clashes {
        if let Some(other) = others.iter().find(|o| on(flag) && on(o)) {
            return Err(Failure::new(format!("--{flag} cannot be combined with --{other}")));
        }
    }
    match given.int_or("wait-timeout", 0) {
        _ if given.on("menu") => Err(Failure::new(
            "--menu: wharf has no menu of shortcuts: leave it out or say --menu=false",
        )),
        n if n < 0 => Err(Failure::new("--wait-timeout must be a non-negative integer")),
        _ => Ok(()),
    }
}

/// The options that `up` and `create` share.
fn options(call: &Call, project: &Project) -> UpOptions {
    let given = &call.given;
    let truth = |name: &str| super::switch(name, &project.environment);
    let recreate = match () {
        () if given.on("force-recreate") => Recreate::Force,
        () if given.on("no-recreate") => Recreate::Never,
        () => Recreate::Diverged,
    };
    let dependencies = match () {
        () if given.on("always-recreate-deps") => Recreate::Force,
        () if given.on("no-recreate") => Recreate::Never,
        () => Recreate::Diverged,
    };
    UpOptions {
        recreate,
        recreate_dependencies: dependencies,
        renew_volumes: given.on("renew-anon-volumes"),
        timeout: super::timeout(call),
        remove_orphans: given.on("remove-orphans") || truth("COMPOSE_REMOVE_ORPHANS"),
        ignore_orphans: truth("COMPOSE_IGNORE_ORPHANS"),
        ..UpOptions::default()
    }
}

fn scale_pair(pair: &str) -> Result<(&str, i64), Failure> {
    let wrong = || Failure::new(format!("invalid --scale option {pair:?}. Should be SERVICE=NUM"));
    let (name, count) = pair.split_once('=').ok_or_else(wrong)?;
    Ok((name, count.parse().ok().filter(|n| *n >= 0).ok_or_else(wrong)?))
}

fn scale_by_flag(project: &mut Project, pairs: &[String]) -> Outcome {
    for pair in pairs {
        let (name, count) = scale_pair(pair)?;
        let Some(service) = project.services.get_mut(name) else {
            return Err(Failure::new(format!("no such service: {name}")));
        };
        if count > 1 && !service.container_name.is_empty() {
            return Err(Failure::new(format!(
                "WARNING: The {name:?} service is using the custom container name {:?}. Docker requires each container to have a unique name. Remove the custom name to scale the service",
                service.container_name
            )));
        }
        service.set_replicas(count);
    }
    Ok(())
}

/// Images, then a plan, then doing it.
pub(crate) async fn bring_up(call: &Call, project: &Project, options: &UpOptions) -> Outcome {
    if let Some(clash) = project.container_name_clash() {
        return Err(Failure::new(clash));
    }
    let engine = super::engine(call)?;
    let screen = super::screen(call)?;
    let mut observed = observe(&engine, project).await?;
    if call.group.on("dry-run") {
        let needs = Needs::of(call, project, &observed)?;
        needs.pulls.keys().try_for_each(|image| say_line(format!("pull {image}")))?;
        needs.builds.iter().try_for_each(|name| say_line(format!("build {name}")))?;
    } else if ensure_images(call, &screen, project, &observed).await? {
        observed = observe(&engine, project).await?;
    }
    let mut options = options.clone();
    options.renew = agreed(call, project, &observed)?;
    let plan = plan_up(project, &observed, &options)?;
    plan.remarks.iter().for_each(|r| remark(&r.0));
    if !plan.is_idle() {
        let running: Vec<ContainerSummary> = engine.get("/containers/json").await?;
        if let Some(clash) = ports::clash(project, &running) {
            return Err(Failure::new(clash));
        }
    }
    if call.group.on("dry-run") {
        return say_line(plan.to_string().trim_end());
    }
    let run = prepare(call, &engine, project, &observed, &screen)?;
    run.run(&plan).await?;
    Ok(())
}

/// How many things are done at a time; 0 for as many as there are.
pub(crate) fn parallel(call: &Call, project: &Project) -> usize {
    let limit = match call.group.changed("parallel") {
        true => call.group.int_or("parallel", -1),
        false => {
            let variable = project.environment.get("COMPOSE_PARALLEL_LIMIT");
            variable.and_then(|v| v.parse().ok()).unwrap_or(-1)
        }
    };
    usize::try_from(limit).unwrap_or(0)
}

/// A run with what the call adds: labels, proxies, security profiles, the limit of parallel work.
pub(crate) fn prepare<'r>(
    call: &'r Call,
    engine: &'r ApiEngine<'r>,
    project: &'r Project,
    observed: &'r Observed,
    screen: &'r Screen,
) -> Result<Run<'r, ApiEngine<'r>, Screen>, Failure> {
    let mut run = Run::new(engine, project, observed, screen);
    run.parallel = parallel(call, project);
    let env_files = call.group.all("env-file");
    if !env_files.is_empty() {
        run.labels.insert(labels::ENVIRONMENT_FILE.to_owned(), env_files.join(","));
    }
    run.environment = crate::verbs::create_options::proxies(call)?;
    for service in project.services.values() {
        let files = service.security_opt.iter().filter_map(|o| {
            let (key, file) = o.split_once('=').or_else(|| o.split_once(':'))?;
            (key == "seccomp" && !matches!(file, "unconfined" | "builtin")).then_some(file)
        });
        for file in files {
            let path = match file.starts_with('/') {
                true => file.to_owned(),
                false => format!("{}/{file}", project.dir),
            };
            let profile = crate::verbs::create_options::seccomp_profile(&path)?;
            run.profiles.insert(file.to_owned(), profile);
        }
    }
    Ok(run)
}

/// The volumes that may be made anew: all with `-y`, those that the user agrees to, or none.
fn agreed(
    call: &Call,
    project: &Project,
    observed: &Observed,
) -> Result<BTreeSet<String>, Failure> {
    let mut agreed = BTreeSet::new();
    for key in diverged_volumes(project, observed) {
        let name = project.volumes.get(&key).map(|v| v.name.clone()).unwrap_or_default();
        let text = format!(
            "Volume {name:?} exists but doesn't match configuration in compose file. Recreate (data will be lost)?"
        );
        if call.given.on("yes") || ask(&text)? {
            agreed.insert(key);
        }
    }
    Ok(agreed)
}

/// Asks a yes-or-no question; without a terminal the answer is no.
pub(crate) fn ask(text: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        remark(&format!("{text} [y/N]: no"));
        return Ok(false);
    }
    crate::app::say(format!("{text} (y/N) "))?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// The images that are to be fetched, with a service and its platform, and the services whose image is to be built.
#[derive(Debug, Default)]
struct Needs {
    pulls: BTreeMap<String, (String, String)>,
    builds: Vec<String>,
}

impl Needs {
    fn of(call: &Call, project: &Project, observed: &Observed) -> Result<Self, Failure> {
        let mut needs = Self::default();
        let built: BTreeSet<String> = project
            .services
            .iter()
            .filter(|(_, s)| s.build.is_some())
            .map(|(name, s)| s.image_or_default(&project.name, name))
            .collect();
        for (name, service) in &project.services {
            if service.build.is_none() && built.contains(&service.image) {
                // Another service builds it.
                continue;
            }
            if service.replicas() == 0 || service.provider.is_some() {
                continue;
            }
            let image = service.image_or_default(&project.name, name);
            let found = observed.images.get(&image);
            match policy::need(&call.given, name, service, found, Timestamp::now())? {
                Need::Pull => {
                    needs.pulls.insert(image, (name.clone(), service.platform.clone()));
                }
                Need::Build => needs.builds.push(name.clone()),
                Need::Nothing if found.is_none() => {
                    return Err(Failure::new(format!("No such image: {image}")));
                }
                Need::Nothing => (),
            }
        }
        Ok(needs)
    }
}

/// Pulls and builds what a project's services need before there is a container of theirs.
pub(crate) async fn images(call: &Call, project: &Project) -> Outcome {
    let observed = observe(&super::engine(call)?, project).await?;
    ensure_images(call, &super::screen(call)?, project, &observed).await.map(drop)
}

/// Pulls and builds what is needed; whether anything changed.
async fn ensure_images(
    call: &Call,
    screen: &Screen,
    project: &Project,
    observed: &Observed,
) -> Result<bool, Failure> {
    let Needs { pulls, builds: built } = Needs::of(call, project, observed)?;
    let wanted: Vec<(&str, &str, &str)> = pulls
        .iter()
        .map(|(image, (service, platform))| (service.as_str(), image.as_str(), platform.as_str()))
        .collect();
    let shown = Some(screen).filter(|_| !call.given.on("quiet-pull"));
    let failed = pulls::all(call, project, shown, &wanted).await?;
    if let Some((_, failure)) = failed.into_iter().next() {
        return Err(failure);
    }
    if !built.is_empty() {
        builds::build_services(call, screen, project, &built).await?;
    }
    Ok(!pulls.is_empty() || !built.is_empty())
}

/// Tells what `up` does when it is interrupted.
pub(crate) fn stopping() {
    warn("Gracefully Stopping... press Ctrl+C again to force");
}
