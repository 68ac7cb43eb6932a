//! Links: under which other names a service finds the containers of another.

use std::collections::BTreeMap;

use wharf_spec::compose::Project;
use wharf_spec::compose::model::Service;
use wharf_spec::docker::ImageInspect;

use crate::create::separator;

/// The containers that there are by now: id and name, by service and number.
pub(crate) type Made = BTreeMap<String, BTreeMap<i64, (String, String)>>;

fn split(link: &str) -> (&str, &str) {
    link.split_once(':').unwrap_or((link, link))
}

/// `container:alias` for every link of a service.
pub(crate) fn of(project: &Project, service: &Service, number: i64, made: &Made) -> Vec<String> {
    let dash = separator(project);
    let mut links = Vec::new();
    for link in &service.links {
        let (name, alias) = split(link);
        for (_, container) in made.get(name).into_iter().flat_map(|m| m.values()) {
            let project = &project.name;
            for alias in [
                alias.to_owned(),
                format!("{name}{dash}{number}"),
                format!("{project}{dash}{name}{dash}{number}"),
            ] {
                links.push(format!("{container}:{alias}"));
            }
        }
    }
    for link in &service.external_links {
        let (container, alias) = split(link);
        links.push(format!("{container}:{alias}"));
    }
    links
}

/// The variables that links set in 2015. Addresses are the alias itself, which is resolved when it
/// is used, so that they stay right when a container comes back with another address.
pub(crate) fn variables(
    project: &Project,
    service: &Service,
    images: &BTreeMap<String, ImageInspect>,
) -> BTreeMap<String, Option<String>> {
    let mut out = BTreeMap::new();
    if !project.legacy {
        return out;
    }
    for link in &service.links {
        let (name, alias) = split(link);
        let Some(target) = project.services.get(name) else { continue };
        let image = images.get(&target.image_or_default(&project.name, name));
        let mut add = |key: String, value: String| drop(out.insert(key, Some(value)));
        for alias in [alias.to_owned(), name.to_owned(), format!("{name}_1")] {
            let prefix = alias.to_uppercase().replace(['-', '.'], "_");
            add(format!("{prefix}_NAME"), format!("/{}/{alias}", project.name));
            let ports = ports(target, image);
            if let Some((port, protocol)) = ports.first() {
                add(format!("{prefix}_PORT"), format!("{protocol}://{alias}:{port}"));
            }
            for (port, protocol) in ports {
                let key = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
                add(key.clone(), format!("{protocol}://{alias}:{port}"));
                add(format!("{key}_ADDR"), alias.clone());
                add(format!("{key}_PORT"), port.to_string());
                add(format!("{key}_PROTO"), protocol);
            }
            for (variable, value) in &target.environment.0 {
                let value = value.clone().unwrap_or_default();
                add(format!("{prefix}_ENV_{variable}"), value);
            }
        }
    }
    out
}

/// The ports of a service, the lowest first: exposed, published, or exposed by its image.
fn ports(service: &Service, image: Option<&ImageInspect>) -> Vec<(u32, String)> {
    let parse = |text: &str| {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        Some((port.parse().ok()?, protocol.to_owned()))
    };
    let published = service.ports.iter().map(|p| format!("{}/{}", p.target, p.protocol));
    let config = image.and_then(|i| i.config.as_ref());
    let of_image = config.into_iter().flat_map(|c| c.exposed_ports.keys().cloned());
    let all = service.expose.iter().cloned().chain(published).chain(of_image);
    let mut ports: Vec<(u32, String)> = all.filter_map(|p| parse(&p)).collect();
    ports.sort();
    ports.dedup();
    ports
}
