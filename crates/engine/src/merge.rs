//! An image's defaults under a container's own configuration, by Docker's rules.

use wharf_spec::docker::{ContainerConfig, Empty, HealthConfig, Map, StrList};
use wharf_spec::image::RunConfig;

/// Fills in from `image` what `config` leaves open.
pub fn merge(config: &mut ContainerConfig, image: &RunConfig) {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    for port in image.exposed_ports.iter().flat_map(|p| p.keys()) {
        config.exposed_ports.entry(port.clone()).or_insert(Empty {});
    }
    merge_env(config, &image.env);
    merge_map(&mut config.labels, image.labels.as_ref());
    command(config, image);
    health(config, image);
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    if let Some(paths) = image.volumes.as_ref().filter(|v| !v.is_empty()) {
        let own = config.volumes.get_or_insert_default();
        for path in paths.keys() {
            own.entry(path.clone()).or_insert(Empty {});
        }
    }
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    if config.shell.as_ref().is_none_or(Vec::is_empty) {
        config.shell.clone_from(&image.shell);
    }
}

/// The container's variables first, then those of the image that it does not set.
fn merge_env(config: &mut ContainerConfig, image: &[String]) {
    let own = config.env.clone().unwrap_or_default();
    let name = |e: &String| e.split('=').next().unwrap_or_default().to_owned();
    let set: std::collections::HashSet<String> = own.iter().map(name).collect();
    let rest = image.iter().filter(|e| !set.contains(&name(e))).cloned();
    config.env = Some(own.iter().cloned().chain(rest).collect());
}

fn merge_map(own: &mut Option<Map<String>>, image: Option<&Map<String>>) {
    let own = own.get_or_insert_default();
    for (key, value) in image.into_iter().flatten() {
        own.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

/// The image's command goes with the image's entrypoint alone; `--entrypoint ""` removes the entrypoint.
fn command(config: &mut ContainerConfig, image: &RunConfig) {
    let none = |l: &Option<StrList>| l.as_ref().is_none_or(|l| l.is_empty());
    if none(&config.entrypoint) {
        if none(&config.cmd) {
            config.cmd = image.cmd.clone().map(StrList);
            config.args_escaped = image.args_escaped;
        }
        if config.entrypoint.is_none() {
            config.entrypoint = image.entrypoint.clone().map(StrList);
        }
    }
    if config.entrypoint.as_ref().is_some_and(|e| matches!(e.as_slice(), [one] if one.is_empty())) {
        config.entrypoint = None;
    }
}

fn health(config: &mut ContainerConfig, image: &RunConfig) {
    let Some(from) = &image.healthcheck else { return };
    let from = HealthConfig {
        test: Some(from.test.clone()),
        interval: from.interval,
        timeout: from.timeout,
        start_period: from.start_period,
        start_interval: from.start_interval,
        retries: from.retries,
    };
    let Some(own) = &mut config.healthcheck else {
        config.healthcheck = Some(from);
        return;
    };
    if own.test.as_ref().is_none_or(Vec::is_empty) {
        own.test = from.test;
    }
    for (mine, theirs) in [
        (&mut own.interval, from.interval),
        (&mut own.timeout, from.timeout),
        (&mut own.start_period, from.start_period),
        (&mut own.start_interval, from.start_interval),
        (&mut own.retries, from.retries),
    ] {
        if *mine == 0 {
            *mine = theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|s| (*s).to_owned()).collect()
    }

    fn image() -> RunConfig {
        RunConfig {
            entrypoint: Some(list(&["/entry"])),
            cmd: Some(list(&["serve"])),
            env: list(&["A=image", "B=image"]),
            user: "web".into(),
            ..RunConfig::default()
        }
    }

    #[track_caller]
    fn line(entrypoint: Option<&[&str]>, cmd: Option<&[&str]>, expected: &[&str]) {
        let own = |l: Option<&[&str]>| l.map(|l| StrList(list(l)));
        let mut c =
            ContainerConfig { entrypoint: own(entrypoint), cmd: own(cmd), ..Default::default() };
        merge(&mut c, &image());
        let part = |l: Option<StrList>| l.map(|l| l.0).unwrap_or_default();
        assert_eq!([part(c.entrypoint), part(c.cmd)].concat(), expected);
    }

    #[test]
    fn entrypoint_and_command_combine_as_in_docker() {
        line(None, None, &["/entry", "serve"]);
        line(None, Some(&["x"]), &["/entry", "x"]);
        line(Some(&["/own"]), None, &["/own"]);
        line(Some(&[""]), Some(&["x"]), &["x"]);
        line(Some(&["/own"]), Some(&["x"]), &["/own", "x"]);
    }

    #[test]
    fn own_values_win() {
        let mut c = ContainerConfig { env: Some(list(&["A=own"])), ..Default::default() };
        merge(&mut c, &image());
        assert_eq!(c.env.unwrap(), ["A=own", "B=image"]);
        assert_eq!(c.user, "web");
    }
}
