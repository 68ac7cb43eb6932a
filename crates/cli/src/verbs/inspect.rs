//! `inspect` of anything, and of each kind.

use serde_json::Value;
use wharf_template::{Env, Missing, Template};

use super::Outcome;
use crate::api::{ApiError, Client, image_path, segment, url};
use crate::app::{Call, say, warn};
use crate::failure::Failure;
use crate::out::{indent, shape, table};
use crate::parse::quote;

/// Fields whose objects have keys of the user's choice: asking for a missing one gives no value.
const OPEN_MAPS: &[&str] = &[
    "Annotations",
    "Containers",
    "Data",
    "DriverOpts",
    "ExposedPorts",
    "Labels",
    "Networks",
    "OnBuild",
    "Options",
    "PortBindings",
    "Ports",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// The kinds of `--type`.
const TYPES: &[&str] = &[
    "config",
    "container",
    "image",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "task",
    "volume",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Container, Self::Image, Self::Network, Self::Volume];

    fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }

    async fn fetch(
        self,
        client: &Client,
        name: &str,
        query: &[(&str, &str)],
    ) -> Result<Value, ApiError> {
        let path = match self {
            Self::Container => format!("/containers/{}/json", segment(name)),
            Self::Image => format!("/images/{}/json", image_path(name)),
            Self::Network => format!("/networks/{}", segment(name)),
            Self::Volume => format!("/volumes/{}", segment(name)),
        };
        client.get(&url(&path, query)).await
    }
}

/// `inspect NAME|ID...`
pub async fn any(call: Call) -> Outcome {
    let given = &call.given;
    let wanted = given.text("type");
    let list = TYPES.join("\", \"");
    if given.changed("type") && wanted.is_empty() {
        return Err(Failure::new(format!("type is empty: must be one of \"{list}\"")));
    }
    if !wanted.is_empty() && !TYPES.contains(&wanted) {
        return Err(Failure::new(format!(
            "unknown type: {}: must be one of \"{list}\"",
            quote(wanted)
        )));
    }
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|k| wanted.is_empty() || k.name() == wanted).collect();
    if kinds.is_empty() {
        return Err(Failure::new(format!("wharf has no objects of type {wanted}")));
    }
    inspect(&call, &kinds, given.on("size")).await
}

/// `container inspect`
pub async fn container(call: Call) -> Outcome {
    let size = call.given.on("size");
    inspect(&call, &[Kind::Container], size).await
}

/// `image inspect`
pub async fn image(call: Call) -> Outcome {
    inspect(&call, &[Kind::Image], false).await
}

/// `network inspect`
pub async fn network(call: Call) -> Outcome {
    inspect(&call, &[Kind::Network], false).await
}

/// `volume inspect`
pub async fn volume(call: Call) -> Outcome {
    inspect(&call, &[Kind::Volume], false).await
}

async fn inspect(call: &Call, kinds: &[Kind], size: bool) -> Outcome {
    let format = call.given.text("format");
    let template = match format {
        "" | "json" => None,
        text => Some(table::parse(text).map_err(|f| f.with_status(64))?),
    };
    let client = call.client()?;
    let (mut found, mut texts, mut failures) = (Vec::new(), String::new(), Vec::new());
    for name in call.args() {
        match fetch(call, client, kinds, name, size).await {
            Ok(object) => match &template {
                None => found.push(object),
                Some(template) => match execute(template, &typed(object)) {
                    Ok(text) => texts.push_str(&format!("{text}\n")),
                    Err(failure) => failures.push(failure),
                },
            },
            Err(failure) => failures.push(failure),
        }
    }
    let shown = match (&template, format) {
        (Some(_), _) if texts.is_empty() => "\n".to_owned(),
        (Some(_), _) => texts,
        (None, "json") => format!("{}\n", Value::from(found)),
        (None, _) => format!("{}\n", indent(&found.into(), "    ")),
    };
    say(shown)?;
    Failure::join(failures)
}

async fn fetch(
    call: &Call,
    client: &Client,
    kinds: &[Kind],
    name: &str,
    size: bool,
) -> Result<Value, Failure> {
    let platform = super::images::platform_json(call.given.text("platform"))?;
    for kind in kinds {
        let query: &[(&str, &str)] = match kind {
            Kind::Container if size => &[("size", "1")],
            Kind::Image => &[("platform", &platform)],
            Kind::Network if call.given.on("verbose") => &[("verbose", "true")],
            _ => &[],
        };
        match kind.fetch(client, name, query).await {
            Ok(object) => {
                if size && *kind != Kind::Container {
                    warn(format!("WARNING: --size ignored for {}", kind.name()));
                }
                return Ok(object);
            }
            Err(error) if kinds.len() > 1 && skippable(&error) => (),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(format!("Error: No such object: {name}")))
}

fn skippable(error: &ApiError) -> bool {
    let text = error.to_string();
    error.is_not_found()
        || text.contains("not supported")
        || text.contains("invalid reference format")
}

/// The object with the empty fields that docker's types print even when the engine leaves them out.
fn typed(mut object: Value) -> Value {
    if let Some(Value::Object(config)) = object.get_mut("Config")
        && config.contains_key("Entrypoint")
        && !config.contains_key("OnBuild")
    {
        let fields = std::mem::take(config).into_iter();
        config.extend(fields.flat_map(|(name, value)| {
            let after = (name == "Entrypoint").then(|| ("OnBuild".to_owned(), Value::Null));
            [(name, value)].into_iter().chain(after)
        }));
    }
    object
}

fn execute(template: &Template, object: &Value) -> Result<String, Failure> {
    let env = Env {
        missing: Missing::Error,
        open_maps: OPEN_MAPS,
        optional: shape::OPTIONAL,
        print: Some(&shape::print),
        ..Env::default()
    };
    template.execute_in(object, &env).map_err(table::parsing)
}
