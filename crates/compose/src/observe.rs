//! What there is of a project: containers, networks, volumes, images.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use wharf_spec::compose::Project;
use wharf_spec::docker::{ContainerSummary, ImageInspect, NetworkInspect, Volume};

use crate::engine::{Answer, Engine};
use crate::labels;

/// A snapshot of the engine, as far as a project is concerned.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The project's containers, those of `run` included.
    pub containers: Vec<ContainerSummary>,
    /// Networks by their key in the project; others that bear the project's label by their name.
    pub networks: BTreeMap<String, NetworkInspect>,
    /// Volumes by their key in the project.
    pub volumes: BTreeMap<String, Volume>,
    /// Images by name.
    pub images: BTreeMap<String, ImageInspect>,
}

/// Looks at everything that a project names, all at once.
pub async fn observe<E: Engine>(engine: &E, project: &Project) -> Answer<Observed> {
    let names: BTreeSet<String> =
        project.services.iter().map(|(n, s)| s.image_or_default(&project.name, n)).collect();
    let networks = async {
        let all = project.networks.iter().map(async |(key, network)| {
            Ok(engine.network(&network.name).await?.map(|found| (key.clone(), found)))
        });
        try_join_all(all).await
    };
    let volumes = async {
        let all = project.volumes.iter().map(async |(key, volume)| {
            Ok(engine.volume(&volume.name).await?.map(|found| (key.clone(), found)))
        });
        try_join_all(all).await
    };
    let images = images(engine, names);
    let containers = engine.containers(&project.name);
    let (containers, networks, volumes, images) =
        futures_util::future::try_join4(containers, networks, volumes, images).await?;
    Ok(Observed {
        containers,
        networks: networks.into_iter().flatten().collect(),
        volumes: volumes.into_iter().flatten().collect(),
        images,
    })
}

/// The images of these names, as far as they are there.
pub async fn images<E: Engine>(
    engine: &E,
    names: BTreeSet<String>,
) -> Answer<BTreeMap<String, ImageInspect>> {
    let all = names.into_iter().map(async |name| {
        let image = engine.image(&name).await?;
        Ok(image.map(|image| (name, image)))
    });
    Ok(try_join_all(all).await?.into_iter().flatten().collect())
}

/// A label of a container, or empty.
pub fn label<'c>(container: &'c ContainerSummary, name: &str) -> &'c str {
    container.labels.get(name).map(String::as_str).unwrap_or_default()
}

/// The name of a container without the slash; of several, the one that is no link.
pub fn name(container: &ContainerSummary) -> &str {
    let plain = |n: &&String| !n.trim_start_matches('/').contains('/');
    let found = container.names.iter().find(plain).or(container.names.first());
    found.map(|n| n.trim_start_matches('/')).unwrap_or_default()
}

/// Which of its service's containers this one is; 0 for those of `run`.
pub fn number(container: &ContainerSummary) -> i64 {
    label(container, labels::NUMBER).parse().unwrap_or(0)
}

/// Whether the container was made by `run`.
pub fn is_oneoff(container: &ContainerSummary) -> bool {
    label(container, labels::ONEOFF) == "True"
}

impl Observed {
    /// The containers of a service, without those of `run`, by number.
    pub fn of_service(&self, service: &str) -> Vec<&ContainerSummary> {
        let mut found: Vec<&ContainerSummary> = self
            .containers
            .iter()
            .filter(|c| label(c, labels::SERVICE) == service && !is_oneoff(c))
            .collect();
        found.sort_by_key(|c| number(c));
        found
    }

    /// The containers of services that the project does not have, and forgotten ones of `run`.
    pub fn orphans(&self, project: &Project) -> Vec<&ContainerSummary> {
        let known = |c: &ContainerSummary| {
            let service = label(c, labels::SERVICE);
            project.services.contains_key(service) || project.disabled.contains_key(service)
        };
        let orphan = |c: &&ContainerSummary| match is_oneoff(c) {
            true => matches!(c.state.as_str(), "exited" | "dead"),
            false => !known(c),
        };
        self.containers.iter().filter(orphan).collect()
    }
}
