//! `down`.

use wharf_compose::apply::Run;
use wharf_compose::observe::{label, observe};
use wharf_compose::plan::down::{DownOptions, Images, down as plan_down};
use wharf_compose::{Engine, labels};
use wharf_spec::compose::Project;
use wharf_spec::compose::model::Service;
use wharf_spec::docker::ContainerSummary;

use super::remark;
use crate::app::{Call, say_line, warn};
use crate::failure::Failure;
use crate::verbs::Outcome;

/// `compose down [SERVICES]`
pub async fn down(call: Call) -> Outcome {
    let given = &call.given;
    let images = match given.text("rmi") {
        "" => Images::Keep,
        "local" => Images::Local,
        "all" => Images::All,
        other => return Err(Failure::new(format!("invalid value for --rmi: {other:?}"))),
    };
    let project = project(&call).await?;
    let all = super::switch("COMPOSE_REMOVE_ORPHANS", &project.environment);
    let options = DownOptions {
        services: call.args().to_vec(),
        remove_orphans: given.on("remove-orphans") || all,
        volumes: given.on("volumes"),
        images,
        timeout: super::timeout(&call),
    };
    take_down(&call, &project, &options).await
}

/// The project of a call, from its files or else from its containers.
pub(super) async fn project(call: &Call) -> Result<Project, Failure> {
    match super::project_or_name(call)? {
        (Some(project), _) => Ok(project),
        (None, name) => of_labels(call, name).await,
    }
}

/// A project without its files: the services that there are containers of.
async fn of_labels(call: &Call, name: String) -> Result<Project, Failure> {
    let engine = super::engine(call)?;
    let found = super::containers(&engine, &name, &[], false).await?;
    let service = |c: &ContainerSummary| {
        let service = Service { image: c.image.clone(), ..Service::default() };
        (label(c, labels::SERVICE).to_owned(), service)
    };
    Ok(Project { name, services: found.iter().map(service).collect(), ..Project::default() })
}

/// Plans and does it.
pub(crate) async fn take_down(call: &Call, project: &Project, options: &DownOptions) -> Outcome {
    let engine = super::engine(call)?;
    let screen = super::screen(call)?;
    let nothing = Project { name: project.name.clone(), ..Project::default() };
    let observed = observe(&engine, &nothing).await?;
    let networks = engine.networks(&project.name).await?;
    let volumes = match options.volumes {
        true => engine.volumes(&project.name).await?,
        false => Vec::new(),
    };
    super::check_services(Some(project), &observed.containers, &options.services)?;
    let plan = plan_down(project, &observed, &networks, &volumes, options);
    plan.remarks.iter().for_each(|r| match r.0.strip_prefix("Warning: ") {
        Some(text) => remark(&format!("Warning: {text}")),
        None => warn(&r.0),
    });
    if call.group.on("dry-run") {
        return say_line(plan.to_string().trim_end());
    }
    Run::new(&engine, project, &observed, &screen).run(&plan).await?;
    Ok(())
}
