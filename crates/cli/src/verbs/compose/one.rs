//! The verbs that act on one container as docker's own do: `cp`, `commit`, `export`, `stats`; and `push`.

use wharf_compose::observe;
use wharf_spec::compose::{Project, Selection};

use super::{check_services, containers, pick, project_or_name};
use crate::app::Call;
use crate::failure::Failure;
use crate::verbs::{
    Outcome, archive, commit as engine_commit, cp as engine_cp, push as engine_push,
    stats as engine_stats,
};

/// The same call on a container instead of a service.
async fn on_container(call: &Call, at: usize) -> Result<Call, Failure> {
    let (_, name) = project_or_name(call)?;
    let engine = super::engine(call)?;
    let index = call.given.int_or("index", 0);
    let container = pick(&engine, &name, &call.args()[at], index).await?;
    let mut other = call.clone();
    other.given.args[at] = container.id;
    Ok(other)
}

/// `compose cp SERVICE:SRC DEST` and `compose cp SRC SERVICE:DEST`
pub async fn cp(call: Call) -> Outcome {
    let (_, name) = project_or_name(&call)?;
    let engine = super::engine(&call)?;
    let index = call.given.int_or("index", 0);
    let service = |arg: &str| match arg.split_once(':') {
        Some((service, path)) if !service.starts_with(['.', '/']) => {
            Some((service.to_owned(), path.to_owned()))
        }
        _ => None,
    };
    let parts: Vec<_> = call.args().iter().map(|a| service(a)).collect();
    match &parts[..] {
        [Some(_), Some(_)] => Err("copying between services is not supported".into()),
        [Some((service, path)), None] => {
            let mut other = call.clone();
            let container = pick(&engine, &name, service, index).await?;
            other.given.args[0] = format!("{}:{path}", container.id);
            engine_cp::cp(other).await
        }
        [None, Some((service, path))] => {
            // Into every container of the service, unless one is named.
            let mut found =
                containers(&engine, &name, std::slice::from_ref(service), call.given.on("all"))
                    .await?;
            found.retain(|c| index == 0 || observe::number(c) == index);
            if found.is_empty() {
                return Err(Failure::new(format!("no container found for service {service:?}")));
            }
            for container in found {
                let mut other = call.clone();
                other.given.args[1] = format!("{}:{path}", container.id);
                engine_cp::cp(other).await?;
            }
            Ok(())
        }
        _ => Err("unknown copy direction".into()),
    }
}

/// `compose commit SERVICE [REPOSITORY[:TAG]]`
pub async fn commit(call: Call) -> Outcome {
    engine_commit::commit(on_container(&call, 0).await?).await
}

/// `compose export SERVICE`
pub async fn export(call: Call) -> Outcome {
    archive::export(on_container(&call, 0).await?).await
}

/// `compose stats [SERVICE...]`
pub async fn stats(call: Call) -> Outcome {
    let (project, name) = project_or_name(&call)?;
    let engine = super::engine(&call)?;
    let found = containers(&engine, &name, call.args(), false).await?;
    check_services(project.as_ref(), &found, call.args())?;
    let mut other = call.clone();
    let wanted = found.iter().filter(|c| call.given.on("all") || c.state == "running");
    other.given.args = wanted.map(|c| c.id.clone()).collect();
    match other.given.args.is_empty() {
        true => Err("no containers of the project are running".into()),
        false => engine_stats::stats(other).await,
    }
}

/// `compose push [SERVICE...]`
pub async fn push(call: Call) -> Outcome {
    let given = &call.given;
    let reach = match given.on("include-deps") {
        true => Selection::WithDependencies,
        false => Selection::Alone,
    };
    let project = super::load(&call, call.args(), reach)?;
    let failures = push_all(&call, &project).await;
    match given.on("ignore-push-failures") {
        true => {
            failures.iter().for_each(|f| super::remark(&f.text));
            Ok(())
        }
        false => Failure::join(failures),
    }
}

/// Pushes the images that a project builds, under all their names; what went wrong.
pub(super) async fn push_all(call: &Call, project: &Project) -> Vec<Failure> {
    let mut failures = Vec::new();
    for service in project.services.values().filter(|s| s.build.is_some() && !s.image.is_empty()) {
        let tags = service.build.iter().flat_map(|b| b.tags.iter());
        for image in std::iter::once(&service.image).chain(tags) {
            let mut other = call.clone();
            other.given.args = vec![image.clone()];
            failures.extend(engine_push::push(other).await.err());
        }
    }
    failures
}
