//! Files of 2014 and 2015, in which every top-level key is a service.
//!
//! docker-compose 1.x took a file without `version` and without sections for this format; so does
//! this. It is rewritten in today's terms before anything else looks at it.

use crate::compose::fault::{Fault, Result};
use crate::compose::node::{Map, Node, Value};

const SECTIONS: [&str; 8] =
    ["services", "networks", "volumes", "secrets", "configs", "include", "models", "version"];

/// Keys that make a mapping a service.
const MARKS: [&str; 3] = ["image", "build", "extends"];

/// Whether a file is of the old format.
pub(super) fn is(root: &Node) -> bool {
    let Some(map) = root.as_map() else { return false };
    // A mapping called `version` is a service of that name.
    let section =
        |name: &str| map.get(name).is_some_and(|n| name != "version" || n.as_map().is_none());
    let is_service = |n: &Node| MARKS.iter().any(|mark| n.get(mark).is_some());
    !SECTIONS.iter().any(|s| section(s)) && map.values().any(is_service)
}

/// Rewrites a file of the old format.
pub(super) fn modernize(root: &mut Node) -> Result<()> {
    let Some(map) = root.as_map_mut() else { return Ok(()) };
    let mut services = std::mem::take(map);
    let names: Vec<String> = services.keys().cloned().collect();
    let mut volumes = Map::new();
    for (name, node) in &mut services {
        let span = node.span;
        match node.as_map_mut() {
            Some(service) => modern(service, &names, &mut volumes)?,
            None => {
                let text = format!("services.{name} must be a mapping");
                return Err(Fault::at(span, text));
            }
        }
    }
    let span = root.span;
    let sections = [("services", services), ("volumes", volumes)];
    let sections = sections.into_iter().filter(|(_, section)| !section.is_empty());
    let whole = sections.map(|(k, v)| (k.to_owned(), Node::new(Value::Map(v), span))).collect();
    root.value = Value::Map(whole);
    Ok(())
}

fn modern(service: &mut Map, names: &[String], volumes: &mut Map) -> Result<()> {
    if let (Some(build), true) = (service.get("build"), service.contains_key("image")) {
        let text = "a service has both an image and a build path; this format allows only one";
        return Err(Fault::at(build.key, text));
    }
    if let Some(dockerfile) = service.remove("dockerfile") {
        let Some(build) = service.get_mut("build") else {
            return Err(Fault::at(dockerfile.key, "dockerfile is given without build"));
        };
        let context = build.clone();
        build.value = Value::Map(Map::from([
            ("context".to_owned(), context),
            ("dockerfile".to_owned(), dockerfile),
        ]));
    }
    if let Some(mut net) = service.remove("net") {
        if let Value::Text(mode) = &mut net.value {
            *mode = reference(mode, "container:", names);
        }
        service.insert("network_mode".to_owned(), net);
    }
    logging(service);
    named_volumes(service, volumes);
    if let Some(Value::List(list)) = service.get_mut("volumes_from").map(|v| &mut v.value) {
        for item in list {
            let Value::Text(text) = &mut item.value else { continue };
            let source = text.split(':').next().unwrap_or_default();
            // What is no service is a container, which today's form says aloud.
            if !names.iter().any(|n| n == source) && source != "container" {
                *text = format!("container:{text}");
            }
        }
    }
    Ok(())
}

/// `container:NAME` where NAME is a service of the file is `service:NAME`.
fn reference(mode: &str, prefix: &str, names: &[String]) -> String {
    match mode.strip_prefix(prefix) {
        Some(name) if names.iter().any(|n| n == name) => format!("service:{name}"),
        _ => mode.to_owned(),
    }
}

fn logging(service: &mut Map) {
    let driver = service.remove("log_driver");
    let options = service.remove("log_opt");
    let Some(span) = driver.as_ref().or(options.as_ref()).map(|n| n.span) else { return };
    let parts = [("driver", driver), ("options", options)];
    let parts = parts.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))).collect();
    service.insert("logging".to_owned(), Node::new(Value::Map(parts), span));
}

/// Volumes with a name belonged to the engine, not to the project, and appeared when first used.
fn named_volumes(service: &mut Map, volumes: &mut Map) {
    let driver = service.remove("volume_driver");
    let Some(list) = service.get("volumes").and_then(Node::as_list) else { return };
    for item in list {
        let Some((source, _)) = item.as_text().and_then(|t| t.split_once(':')) else { continue };
        if source.starts_with(['.', '/', '~', '$']) || source.len() == 1 {
            continue;
        }
        let mut volume = Map::from([("name".to_owned(), item.with(Value::Text(source.into())))]);
        if let Some(driver) = &driver {
            volume.insert("driver".to_owned(), driver.clone());
        }
        volumes.insert(source.to_owned(), item.with(Value::Map(volume)));
    }
}
