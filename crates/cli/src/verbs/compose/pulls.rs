//! Pulling the images of services: several at a time, each image once.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use serde_json::Value;
use wharf_compose::Engine as _;
use wharf_compose::apply::Status;
use wharf_spec::compose::model::Service;
use wharf_spec::compose::{Project, Selection};

use super::display::Screen;
use super::engine::ApiEngine;
use crate::app::{Call, warn};
use crate::failure::Failure;
use crate::parse::reference;
use crate::verbs::{Outcome, pull as engine_pull};

/// `compose pull [SERVICE...]`
pub async fn pull(call: Call) -> Outcome {
    let given = &call.given;
    let reach = match given.on("include-deps") {
        true => Selection::WithDependencies,
        false => Selection::Alone,
    };
    let project = super::load(&call, call.args(), reach)?;
    let engine = super::engine(&call)?;
    let screen = super::screen(&call)?;
    let mut chosen: BTreeMap<&str, &str> = BTreeMap::new();
    let mut wanted = Vec::new();
    for (name, service) in &project.services {
        let why = match reason(&call, &engine, service).await? {
            None => chosen
                .get(service.image.as_str())
                .map(|other| format!("Skipped - Image is already being pulled by {other}")),
            Some(why) => Some(why.to_owned()),
        };
        match why {
            Some(why) => screen.image(name, Status::Done, &why),
            None => {
                chosen.insert(&service.image, name);
                wanted.push((name.as_str(), service.image.as_str(), service.platform.as_str()));
            }
        }
    }
    let mut failures = Vec::new();
    let mut buildable = Vec::new();
    for (name, failure) in all(&call, &project, Some(&screen), &wanted).await? {
        match project.services.get(&name).is_some_and(|s| s.build.is_some()) {
            true => buildable.push(name),
            false if given.on("ignore-pull-failures") => (),
            false => failures.push(failure),
        }
    }
    if !buildable.is_empty() {
        warn(format!(
            "WARNING: Some service image(s) must be built from source by running:\n    docker compose build {}",
            buildable.join(" ")
        ));
    }
    Failure::join(failures)
}

/// Why an image need not be pulled.
async fn reason(
    call: &Call,
    engine: &ApiEngine<'_>,
    service: &Service,
) -> Result<Option<&'static str>, Failure> {
    if service.image.is_empty() {
        return Ok(Some("Skipped - No image to be pulled"));
    }
    if matches!(service.pull_policy.as_str(), "never" | "build") {
        return Ok(Some("Skipped"));
    }
    let policy = match call.given.text("policy") {
        "" => service.pull_policy.as_str(),
        policy => policy,
    };
    if matches!(policy, "missing" | "if_not_present") {
        // What is called latest may always be older than that.
        let latest =
            reference::parse(&service.image)?.with_default_tag().tag.as_deref() == Some("latest");
        if !latest && engine.image(&service.image).await?.is_some() {
            return Ok(Some("Skipped - Image is already present locally"));
        }
    }
    let buildable = service.build.is_some() && call.given.on("ignore-buildable");
    Ok(buildable.then_some("Skipped - Image can be built"))
}

/// Pulls images, each with the service that it is shown under and a platform; returns what failed.
pub(super) async fn all(
    call: &Call,
    project: &Project,
    screen: Option<&Screen>,
    wanted: &[(&str, &str, &str)],
) -> Result<Vec<(String, Failure)>, Failure> {
    let limit = super::up::parallel(call, project);
    let limit = if limit == 0 { wanted.len().max(1) } else { limit };
    let pulls = wanted.iter().map(async |(name, image, platform)| {
        let tell = |status, text: &str| {
            screen.into_iter().for_each(|s| s.image(name, status, text));
        };
        let live = screen.is_some_and(Screen::is_live);
        let percent = |p| tell(Status::Working, &format!("Pulling {p}%"));
        tell(Status::Working, "Pulling");
        let done = one(call, image, platform, |p| {
            if live {
                percent(p)
            }
        })
        .await;
        match &done {
            Ok(()) => tell(Status::Done, "Pulled"),
            Err(failure) => tell(Status::Failed, &failure.text),
        }
        done.err().map(|failure| ((*name).to_owned(), failure))
    });
    let done = futures_util::stream::iter(pulls).buffer_unordered(limit);
    Ok(done.filter_map(async |failed| failed).collect().await)
}

async fn one(call: &Call, image: &str, platform: &str, tell: impl Fn(u64)) -> Outcome {
    let mut stream = engine_pull::stream(call, call.client()?, image, platform).await?;
    let mut layers = Layers::default();
    let mut shown = None;
    while let Some(message) = stream.next().await? {
        if let Some(error) = crate::out::progress::error_of(&message) {
            return Err(Failure::new(error));
        }
        let percent = layers.percent(&message);
        if percent != shown {
            percent.into_iter().for_each(&tell);
            shown = percent;
        }
    }
    Ok(())
}

/// How far the downloads of an image's layers are: bytes there, and bytes in all, by layer.
#[derive(Default)]
struct Layers(BTreeMap<String, (u64, u64)>);

impl Layers {
    fn percent(&mut self, message: &Value) -> Option<u64> {
        let detail = &message["progressDetail"];
        if let (Some(id), "Downloading", Some(total)) = (
            message["id"].as_str(),
            crate::verbs::text(message, "status"),
            detail["total"].as_u64(),
        ) {
            let current = detail["current"].as_u64().unwrap_or(0);
            self.0.insert(id.to_owned(), (current, total));
        }
        let (there, all) = self.0.values().fold((0, 0), |(a, b), (c, t)| (a + c, b + t));
        (there * 100).checked_div(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_add_up() {
        let mut layers = Layers::default();
        let message = |id: &str, current: u64, total: u64| {
            serde_json::json!({"id": id, "status": "Downloading",
                "progressDetail": {"current": current, "total": total}})
        };
        assert_eq!(layers.percent(&serde_json::json!({"status": "Pulling fs layer"})), None);
        assert_eq!(layers.percent(&message("a", 50, 100)), Some(50));
        assert_eq!(layers.percent(&message("b", 0, 100)), Some(25));
        assert_eq!(layers.percent(&message("b", 100, 100)), Some(75));
    }
}
