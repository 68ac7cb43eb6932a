//! What the engine tells about containers: inspect and list.

use std::sync::Arc;

use wharf_net::Endpoint;
use wharf_spec::docker::{self, Map};

use crate::container::Container;
use crate::inner::Inner;
use crate::mount::{MountKind, MountPoint};
use crate::ports;
use crate::record::{Life, Record};
use crate::state::{Run, State};

impl Inner {
    pub(crate) fn inspect(&self, c: &Container) -> docker::ContainerInspect {
        let (record, life) = (c.record(), c.life());
        let endpoints = self.net.endpoints(&c.id);
        let (path, args) = record.command();
        let dir = self.dir(&c.id);
        let file = |name: &str| dir.join(name).display().to_string();
        let log = crate::logs::path(&record, &dir);
        let execs = c.with(|core| core.execs.clone());
        docker::ContainerInspect {
            id: record.id.to_string(),
            created: docker::rfc3339(record.created),
            path,
            args,
            state: self.state(c, &life),
            image: record.image.clone(),
            resolv_conf_path: file("resolv.conf"),
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            log_path: log.map(|p| p.display().to_string()).unwrap_or_default(),
            name: format!("/{}", record.name),
            restart_count: i64::from(life.restarts),
            driver: "overlay2".into(),
            platform: "linux".into(),
            mount_label: String::new(),
            process_label: String::new(),
            app_armor_profile: crate::spec::apparmor_profile(&record.host, &self.facts),
            exec_ids: (!execs.is_empty()).then_some(execs),
            host_config: docker::HostConfig {
                links: self.shown_links(&record),
                ..record.host.clone()
            },
            graph_driver: self.graph_driver(&record),
            size_rw: None,
            size_root_fs: None,
            mounts: self.mount_points_of(&record),
            config: record.config.clone(),
            network_settings: network_settings(&record, &endpoints, life.state.run()),
            image_manifest_descriptor: None,
        }
    }

    fn state(&self, c: &Container, life: &Life) -> docker::ContainerState {
        let state = &life.state;
        let time = |nanos: Option<i64>| nanos.map_or(docker::ZERO_TIME.into(), docker::rfc3339);
        let (run, ended) = (state.run(), state.ended());
        docker::ContainerState {
            status: state.word().into(),
            running: run.is_some() || matches!(state, State::Restarting(_)),
            paused: matches!(state, State::Paused(_)),
            restarting: matches!(state, State::Restarting(_)),
            oom_killed: ended.is_some_and(|e| e.oom),
            dead: matches!(state, State::Dead(_)),
            pid: run.map_or(0, |r| i64::from(r.pid)),
            exit_code: i64::from(state.exit_code()),
            error: state.error().into(),
            started_at: time(run.map(|r| r.started).or(ended.map(|e| e.started))),
            finished_at: time(ended.map(|e| e.finished)),
            health: c.with(|core| core.health.as_ref().map(crate::health::Health::docker)),
        }
    }

    fn graph_driver(&self, record: &Record) -> docker::GraphDriver {
        let dir = self.dir(&record.id);
        let lowers = self.images.pinned_lowers(record.id.as_str()).unwrap_or_default();
        let lowers: Vec<String> = lowers.iter().map(|p| p.display().to_string()).collect();
        let data = [
            ("LowerDir", lowers.join(":")),
            ("MergedDir", dir.join("merged").display().to_string()),
            ("UpperDir", dir.join("upper").display().to_string()),
            ("WorkDir", dir.join("work").display().to_string()),
        ];
        let data = data.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        docker::GraphDriver { data: Some(data), name: "overlay2".into() }
    }

    pub(crate) fn mount_points_of(&self, record: &Record) -> Vec<docker::MountPoint> {
        record.mounts.iter().map(|p| self.mount_point(p)).collect()
    }

    fn mount_point(&self, p: &MountPoint) -> docker::MountPoint {
        let base = docker::MountPoint {
            destination: p.destination.clone(),
            mode: p.mode.clone(),
            rw: p.access.is_write(),
            propagation: p.propagation.clone(),
            ..docker::MountPoint::default()
        };
        match &p.kind {
            MountKind::Bind { source, .. } => {
                docker::MountPoint { kind: "bind".into(), source: source.clone(), ..base }
            }
            MountKind::Volume { name, .. } => docker::MountPoint {
                kind: "volume".into(),
                name: name.clone(),
                source: self.volumes.data(name).display().to_string(),
                driver: "local".into(),
                ..base
            },
            MountKind::Tmpfs { .. } => docker::MountPoint { kind: "tmpfs".into(), ..base },
            MountKind::Image { reference, .. } => {
                docker::MountPoint { kind: "image".into(), source: reference.clone(), ..base }
            }
        }
    }

    /// One row of a list.
    pub(crate) fn summary(&self, c: &Arc<Container>) -> docker::ContainerSummary {
        let (record, life) = (c.record(), c.life());
        let endpoints = self.net.endpoints(&c.id);
        let (path, args) = record.command();
        let bound: Vec<_> = endpoints.iter().flat_map(|e| e.ports.clone()).collect();
        let health = c.with(|core| core.health.as_ref().map(crate::health::Health::status));
        docker::ContainerSummary {
            id: record.id.to_string(),
            names: vec![format!("/{}", record.name)],
            image: self.shown_image(&record),
            image_id: record.image.clone(),
            image_manifest_descriptor: None,
            command: command_line(&path, &args),
            created: record.created / 1_000_000_000,
            ports: ports::summary(
                &record.config,
                if life.state.run().is_some() { &bound } else { &[] },
            ),
            size_rw: None,
            size_root_fs: None,
            labels: record.config.labels.clone().unwrap_or_default(),
            state: life.state.word().into(),
            status: crate::status::text(&life.state, health, self.clock.unix_nanos()),
            host_config: docker::SummaryHostConfig {
                network_mode: record.host.network_mode.clone(),
                annotations: record.host.annotations.clone(),
            },
            network_settings: docker::SummaryNetworkSettings {
                networks: networks(&record, &endpoints),
            },
            mounts: self.mount_points_of(&record),
        }
    }

    /// The name that the container was created with, unless it has moved to another image meanwhile.
    fn shown_image(&self, record: &Record) -> String {
        match self.images.resolve(&record.config.image) {
            Ok(image) if image.id().to_string() == record.image => record.config.image.clone(),
            _ => record.image.clone(),
        }
    }
}

fn command_line(path: &str, args: &[String]) -> String {
    let quoted = |a: &String| match a.is_empty() || a.contains(' ') {
        true => format!("'{a}'"),
        false => a.clone(),
    };
    std::iter::once(path.to_owned()).chain(args.iter().map(quoted)).collect::<Vec<_>>().join(" ")
}

fn network_settings(
    record: &Record,
    endpoints: &[Endpoint],
    run: Option<Run>,
) -> docker::NetworkSettings {
    let bound: Vec<_> = endpoints.iter().flat_map(|e| e.ports.clone()).collect();
    let networks = networks(record, endpoints);
    let ports =
        if endpoints.is_empty() { Map::new() } else { ports::settings(&record.config, &bound) };
    let mut out = docker::NetworkSettings { ports, ..docker::NetworkSettings::default() };
    if !endpoints.is_empty() {
        out.sandbox_id = record.id.to_string();
        // The namespace has no file of its own; this one leads to it as long as the container runs.
        out.sandbox_key = run.map(|r| format!("/proc/{}/ns/net", r.pid)).unwrap_or_default();
    }
    // The flat fields are those of the default bridge alone.
    if let Some(b) = networks.get("bridge") {
        out.endpoint_id.clone_from(&b.endpoint_id);
        out.gateway.clone_from(&b.gateway);
        out.ip_address.clone_from(&b.ip_address);
        out.ip_prefix_len = b.ip_prefix_len;
        out.ipv6_gateway.clone_from(&b.ipv6_gateway);
        out.global_ipv6_address.clone_from(&b.global_ipv6_address);
        out.global_ipv6_prefix_len = b.global_ipv6_prefix_len;
        out.mac_address.clone_from(&b.mac_address);
    }
    out.networks = networks;
    out
}

/// Networks as asked, completed by what they are now.
fn networks(record: &Record, endpoints: &[Endpoint]) -> Map<docker::EndpointSettings> {
    let mut out = record.networks.clone();
    for e in endpoints {
        let s = out.entry(e.network_name.clone()).or_default();
        s.network_id = e.network.to_string();
        s.endpoint_id = e.id.to_string();
        s.mac_address = e.mac.map(|m| m.to_string()).unwrap_or_default();
        s.gateway = e.gateway4.map(|g| g.to_string()).unwrap_or_default();
        s.ipv6_gateway = e.gateway6.map(|g| g.to_string()).unwrap_or_default();
        if let Some(net) = e.ipv4 {
            (s.ip_address, s.ip_prefix_len) = (net.addr().to_string(), i64::from(net.prefix()));
        }
        if let Some(net) = e.ipv6 {
            s.global_ipv6_address = net.addr().to_string();
            s.global_ipv6_prefix_len = i64::from(net.prefix());
        }
        let mut names: Vec<String> = Vec::new();
        for name in e.names() {
            if !names.iter().any(|n| n == name) {
                names.push(name.to_owned());
            }
        }
        // Docker has no names on the default bridge, and its clients expect none.
        s.dns_names = (e.network_name != "bridge").then_some(names);
    }
    out
}
