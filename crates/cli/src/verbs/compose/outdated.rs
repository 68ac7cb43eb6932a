//! `outdated`: which images of a project are newer in their registry than here.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use wharf_compose::Engine;
use wharf_spec::compose::Selection;
use wharf_spec::docker::ImageInspect;

use crate::api::{Payload, image_path};
use crate::app::{Call, say, say_line};
use crate::conf::auth;
use crate::failure::Failure;
use crate::out::table::align;
use crate::verbs::{Outcome, text};

/// How an image here stands to the one of that name in its registry.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Current,
    Outdated,
    /// Not here: `up` would fetch it.
    Missing,
    /// Made here; no registry has ever had it under this name.
    Local,
    /// The registry did not say.
    Unknown(String),
}

impl State {
    fn word(&self) -> &'static str {
        match self {
            Self::Current => "up to date",
            Self::Outdated => "outdated",
            Self::Missing => "missing",
            Self::Local => "local",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// One image.
struct Line {
    services: Vec<String>,
    image: String,
    here: String,
    there: String,
    state: State,
}

/// `compose outdated [SERVICE...]`
pub async fn outdated(call: Call) -> Outcome {
    let project = super::load(&call, call.args(), Selection::Alone)?;
    let mut images: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, service) in &project.services {
        let image = service.image_or_default(&project.name, name);
        images.entry(image).or_default().push(name.clone());
    }
    let lines = images.into_iter().map(|(image, services)| look(&call, image, services));
    let lines = join_all(lines).await.into_iter().collect::<Result<Vec<Line>, Failure>>()?;
    for line in &lines {
        if let State::Unknown(why) = &line.state {
            super::remark(&format!("{}: {why}", line.image));
        }
    }
    print(&call, &lines)?;
    let behind = lines.iter().any(|l| matches!(l.state, State::Outdated | State::Missing));
    match call.given.on("exit-code") && behind {
        true => crate::verbs::run::exit_with(1),
        false => Ok(()),
    }
}

async fn look(call: &Call, image: String, services: Vec<String>) -> Result<Line, Failure> {
    let engine = super::engine(call)?;
    let found = engine.image(&image).await?;
    let here = found.as_ref().map(|i| digests(i, &image)).unwrap_or_default();
    let (there, state) = match ask(call, &image).await {
        Ok(answer) => {
            let there = text(&answer["Descriptor"], "digest").to_owned();
            let state = match &found {
                None => State::Missing,
                Some(found) if here.contains(&there) || found.id == there => State::Current,
                Some(_) => State::Outdated,
            };
            (there, state)
        }
        Err(_) if found.is_some() && here.is_empty() => (String::new(), State::Local),
        Err(failure) => (String::new(), State::Unknown(failure.text)),
    };
    let here = here.into_iter().next().unwrap_or_default();
    Ok(Line { services, image, here, there, state })
}

/// What the image's registry has under its name.
pub(super) async fn ask(call: &Call, image: &str) -> Result<Value, Failure> {
    let domain = crate::parse::reference::parse(image)?.domain;
    let header = auth::header(call.session.config(), &domain)?;
    let path = format!("/distribution/{}/json", image_path(image));
    let headers = [("X-Registry-Auth", header)];
    let answer = call.client()?.send(Method::GET, &path, Payload::Empty, &headers).await?;
    serde_json::from_slice(&crate::api::collect(answer).await?)
        .map_err(|e| Failure::new(format!("the engine's answer is not understood: {e}")))
}

/// The digests under which an image was pulled or pushed by this name.
fn digests(image: &ImageInspect, name: &str) -> Vec<String> {
    let familiar =
        |name: &str| crate::parse::reference::parse(name).ok().map(|r| r.familiar_name());
    let wanted = familiar(name);
    let all = image.repo_digests.iter().filter_map(|d| d.split_once('@'));
    let own = all.filter(|(repository, _)| familiar(repository) == wanted);
    own.map(|(_, digest)| digest.to_owned()).collect()
}

fn print(call: &Call, lines: &[Line]) -> Outcome {
    let given = &call.given;
    if given.on("quiet") {
        let behind = lines.iter().filter(|l| l.state == State::Outdated);
        return behind.flat_map(|l| &l.services).try_for_each(say_line);
    }
    match given.text("format") {
        "json" => {
            let all: Vec<Value> = lines
                .iter()
                .map(|l| {
                    json!({"Services": l.services, "Image": l.image, "Local": l.here,
                        "Remote": l.there, "State": l.state.word()})
                })
                .collect();
            say_line(Value::from(all).to_string())
        }
        "" | "table" => {
            let short = |digest: &str| {
                let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
                hex.get(..12).unwrap_or(hex).to_owned()
            };
            let mut table = "SERVICE\tIMAGE\tLOCAL\tREGISTRY\tSTATE\n".to_owned();
            for Line { services, image, here, there, state } in lines {
                table.push_str(&format!(
                    "{}\t{image}\t{}\t{}\t{}\n",
                    services.join(","),
                    short(here),
                    short(there),
                    state.word()
                ));
            }
            say(align(&table, 20, 4))
        }
        other => Err(Failure::new(format!("unsupported format {other:?}"))),
    }
}
