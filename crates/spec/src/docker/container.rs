//! What a client sends to create a container: its portable configuration.

use super::{Empty, HostConfig, Map, NetworkingConfig};

go_struct! {
    /// The part of a container that travels with an image.
    ContainerConfig {
        hostname: String = "Hostname";
        domainname: String = "Domainname";
        user: String = "User";
        attach_stdin: bool = "AttachStdin";
        attach_stdout: bool = "AttachStdout";
        attach_stderr: bool = "AttachStderr";
        exposed_ports: Map<Empty> = "ExposedPorts", omitempty;
        tty: bool = "Tty";
        open_stdin: bool = "OpenStdin";
        stdin_once: bool = "StdinOnce";
        env: Option<Vec<String>> = "Env";
        cmd: Option<StrList> = "Cmd";
        healthcheck: Option<HealthConfig> = "Healthcheck", omitempty;
        args_escaped: bool = "ArgsEscaped", omitempty;
        image: String = "Image";
        volumes: Option<Map<Empty>> = "Volumes";
        working_dir: String = "WorkingDir";
        entrypoint: Option<StrList> = "Entrypoint";
        network_disabled: bool = "NetworkDisabled", omitempty;
        mac_address: String = "MacAddress", omitempty;
        on_build: Option<Vec<String>> = "OnBuild", omitempty;
        labels: Option<Map<String>> = "Labels";
        stop_signal: String = "StopSignal", omitempty;
        stop_timeout: Option<i64> = "StopTimeout", omitempty;
        shell: Option<Vec<String>> = "Shell", omitempty;
    }
}

go_struct! {
    /// A probe; durations in nanoseconds, zero means inherit or default.
    HealthConfig {
        test: Option<Vec<String>> = "Test", omitempty;
        interval: i64 = "Interval", omitempty;
        timeout: i64 = "Timeout", omitempty;
        start_period: i64 = "StartPeriod", omitempty;
        start_interval: i64 = "StartInterval", omitempty;
        retries: i64 = "Retries", omitempty;
    }
}

go_struct! {
    /// The body of `POST /containers/create`: a [`ContainerConfig`] with two more keys.
    CreateRequest {
        config: ContainerConfig = flatten;
        host_config: HostConfig = "HostConfig";
        networking_config: NetworkingConfig = "NetworkingConfig";
    }
}

go_struct! {
    /// The answer to a successful create.
    CreateResponse {
        id: String = "Id";
        warnings: Vec<String> = "Warnings";
    }
}

/// A command line: Go accepts one string or a list, and prints a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StrList(pub Vec<String>);

impl<'de> serde::Deserialize<'de> for StrList {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<StrList, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Form {
            One(String),
            Many(Vec<String>),
        }
        Ok(match Form::deserialize(d)? {
            Form::One(s) => StrList(vec![s]),
            Form::Many(list) => StrList(list),
        })
    }
}

impl std::ops::Deref for StrList {
    type Target = Vec<String>;

    fn deref(&self) -> &Vec<String> {
        &self.0
    }
}

go_struct! {
    /// The body of `POST /containers/{id}/update`.
    UpdateRequest {
        resources: super::Resources = flatten;
        restart_policy: super::RestartPolicy = "RestartPolicy";
    }
}

go_struct! {
    /// One line of the wait answer.
    WaitResponse {
        status_code: i64 = "StatusCode";
        error: Option<WaitError> = "Error", omitempty;
    }
}

go_struct! {
    /// Why waiting ended without an exit status.
    WaitError {
        message: String = "Message";
    }
}

go_struct! {
    /// One changed path; kind 0 modified, 1 added, 2 deleted.
    FilesystemChange {
        path: String = "Path";
        kind: u32 = "Kind";
    }
}

go_struct! {
    /// `docker top`.
    TopResponse {
        titles: Vec<String> = "Titles";
        processes: Vec<Vec<String>> = "Processes";
    }
}

go_struct! {
    /// The `X-Docker-Container-Path-Stat` header. `mode` has the bits of Go's `os.FileMode`.
    PathStat {
        name: String = "name";
        size: i64 = "size";
        mode: u32 = "mode";
        mtime: String = "mtime";
        link_target: String = "linkTarget";
    }
}
