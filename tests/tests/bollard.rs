//! bollard, the Rust client of the Engine API: its ordinary operations, unmodified.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::collections::HashMap;
use std::future::Future;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, HostConfig, PortBinding, VolumeCreateRequest,
};
use bollard::query_parameters::*;
use bollard::{API_DEFAULT_VERSION, Docker, body_full};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncWriteExt as _;
use wharf_test::{Host, PATIENCE, image};

/// Runs one check with a client of a host of its own.
fn with<F: Future<Output = ()>>(host: Host, check: impl FnOnce(Docker) -> F) {
    let socket = host.socket();
    let seconds = PATIENCE.as_secs();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let docker =
            Docker::connect_with_unix(socket.to_str().unwrap(), seconds, API_DEFAULT_VERSION);
        let docker = docker.unwrap().negotiate_version().await.unwrap();
        check(docker).await;
    });
}

fn busybox(command: &[&str]) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some("busybox".into()),
        cmd: Some(command.iter().map(|w| (*w).into()).collect()),
        ..ContainerCreateBody::default()
    }
}

/// Creates a container under a name; with `start`, starts it.
async fn make(docker: &Docker, name: &str, config: ContainerCreateBody, start: bool) -> String {
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    let made = docker.create_container(Some(options), config).await.unwrap();
    if start {
        docker.start_container(name, None).await.unwrap();
    }
    made.id
}

async fn remove(docker: &Docker, name: &str) {
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    docker.remove_container(name, Some(options)).await.unwrap();
}

/// The exit code; bollard makes an error of any but zero.
async fn wait(docker: &Docker, name: &str) -> i64 {
    match docker.wait_container(name, None).next().await.unwrap() {
        Ok(answer) => answer.status_code,
        Err(Error::DockerContainerWaitError { code, .. }) => code,
        Err(e) => panic!("{e}"),
    }
}

/// All text of one of the streams.
async fn text(
    output: impl Stream<Item = Result<LogOutput, Error>>,
    wanted: fn(&LogOutput) -> bool,
) -> String {
    let all: Vec<LogOutput> = output.try_collect().await.unwrap();
    all.iter().filter(|o| wanted(o)).map(ToString::to_string).collect()
}

fn out(o: &LogOutput) -> bool {
    matches!(o, LogOutput::StdOut { .. })
}

fn err(o: &LogOutput) -> bool {
    matches!(o, LogOutput::StdErr { .. })
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, status: u16, says: &str) {
    match result {
        Err(Error::DockerResponseServerError { status_code, message }) => {
            assert_eq!(status_code, status, "{message}");
            assert!(message.contains(says), "{message}");
        }
        other => panic!("{other:?} instead of status {status}"),
    }
}

#[test]
fn system() {
    with(Host::with_busybox(), async |docker| {
        assert_eq!(docker.ping().await.unwrap(), "OK");
        assert_eq!(docker.version().await.unwrap().os.as_deref(), Some("linux"));
        assert_eq!(docker.info().await.unwrap().images, Some(1));
        docker.df(None).await.unwrap();
    });
}

#[test]
fn a_containers_whole_life() {
    with(Host::with_busybox(), async |docker| {
        let labels = HashMap::from([("a".to_owned(), "b".to_owned())]);
        let config = ContainerCreateBody { labels: Some(labels), ..busybox(&["sleep", "1000"]) };
        let id = make(&docker, "box", config, true).await;
        let filters = HashMap::from([("label", vec!["a=b"])]);
        let list = ListContainersOptionsBuilder::new().filters(&filters).build();
        let found = docker.list_containers(Some(list)).await.unwrap();
        assert_eq!(found.iter().map(|c| c.id.as_deref()).collect::<Vec<_>>(), [Some(id.as_str())]);
        docker.pause_container("box").await.unwrap();
        let state = docker.inspect_container("box", None).await.unwrap().state.unwrap();
        assert_eq!(state.paused, Some(true));
        docker.unpause_container("box").await.unwrap();
        let name = RenameContainerOptionsBuilder::new().name("bag").build();
        docker.rename_container("box", name).await.unwrap();
        let limit = ContainerUpdateBody {
            memory: Some(64 << 20),
            memory_swap: Some(128 << 20),
            ..ContainerUpdateBody::default()
        };
        docker.update_container("bag", limit).await.unwrap();
        let host = docker.inspect_container("bag", None).await.unwrap().host_config.unwrap();
        assert_eq!(host.memory, Some(64 << 20));
        let top = docker.top_processes("bag", None).await.unwrap();
        assert!(top.processes.unwrap()[0].concat().contains("sleep"));
        let once = StatsOptionsBuilder::new().stream(false).build();
        let stats = docker.stats("bag", Some(once)).next().await.unwrap().unwrap();
        assert!(stats.memory_stats.unwrap().usage.unwrap() > 0);
        let now = RestartContainerOptionsBuilder::new().t(0).build();
        docker.restart_container("bag", Some(now)).await.unwrap();
        let kill = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        docker.kill_container("bag", Some(kill)).await.unwrap();
        assert_eq!(wait(&docker, "bag").await, 137);
        docker.remove_container("bag", None).await.unwrap();
        refused(docker.inspect_container("bag", None).await, 404, "No such container: bag");
    });
}

#[test]
fn logs() {
    with(Host::with_busybox(), async |docker| {
        make(&docker, "box", busybox(&["sh", "-c", "echo out; echo err >&2; exit 3"]), true).await;
        assert_eq!(wait(&docker, "box").await, 3);
        let both = || LogsOptionsBuilder::new().stdout(true).stderr(true);
        let read = |o: LogsOptionsBuilder| docker.logs("box", Some(o.build()));
        assert_eq!(text(read(both()), out).await, "out\n");
        assert_eq!(text(read(both().follow(true)), err).await, "err\n");
        let last = text(read(both().timestamps(true).tail("1")), |_| true).await;
        assert_eq!(last.matches('\n').count(), 1, "{last}");
        docker.remove_container("box", None).await.unwrap();
    });
}

#[test]
fn exec() {
    with(Host::with_busybox(), async |docker| {
        make(&docker, "box", busybox(&["sleep", "1000"]), true).await;
        let command = ["sh", "-c", "echo $X; echo e >&2; exit 4"];
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            env: Some(vec!["X=7"]),
            cmd: Some(command.to_vec()),
            ..CreateExecOptions::default()
        };
        let id = docker.create_exec("box", options).await.unwrap().id;
        let StartExecResults::Attached { output, .. } = docker.start_exec(&id, None).await.unwrap()
        else {
            panic!("detached")
        };
        let all: Vec<LogOutput> = output.try_collect().await.unwrap();
        let part = |wanted: fn(&LogOutput) -> bool| {
            all.iter().filter(|o| wanted(o)).map(ToString::to_string).collect::<String>()
        };
        assert_eq!((part(out), part(err)), ("7\n".into(), "e\n".into()));
        let state = docker.inspect_exec(&id).await.unwrap();
        assert_eq!((state.exit_code, state.running), (Some(4), Some(false)));
        remove(&docker, "box").await;
    });
}

#[test]
fn attach() {
    with(Host::with_busybox(), async |docker| {
        let config = ContainerCreateBody {
            open_stdin: Some(true),
            stdin_once: Some(true),
            attach_stdin: Some(true),
            ..busybox(&["cat"])
        };
        make(&docker, "box", config, false).await;
        let options =
            AttachContainerOptionsBuilder::new().stdin(true).stdout(true).stream(true).build();
        let mut attached = docker.attach_container("box", Some(options)).await.unwrap();
        docker.start_container("box", None).await.unwrap();
        attached.input.write_all(b"through\n").await.unwrap();
        let first = attached.output.next().await.unwrap().unwrap();
        assert_eq!(first.to_string(), "through\n");
        attached.input.shutdown().await.unwrap();
        assert_eq!(wait(&docker, "box").await, 0);
        docker.remove_container("box", None).await.unwrap();
    });
}

#[test]
fn images() {
    let host = Host::start();
    let archive = image::busybox().docker_archive();
    with(host, async |docker| {
        let options = ImportImageOptionsBuilder::new().build();
        let loaded = docker.import_image(options, body_full(archive.into()), None);
        let said: Vec<_> = loaded.try_collect().await.unwrap();
        assert!(said.iter().any(|line| format!("{line:?}").contains("Loaded image")), "{said:?}");
        let tag = TagImageOptionsBuilder::new().repo("copy").tag("2").build();
        docker.tag_image("busybox", Some(tag)).await.unwrap();
        let found = docker.inspect_image("copy:2").await.unwrap();
        assert!(found.repo_tags.unwrap().contains(&"copy:2".to_owned()));
        assert!(!docker.image_history("busybox").await.unwrap().is_empty());
        let saved: Vec<_> = docker.export_image("copy:2").try_collect().await.unwrap();
        for name in ["copy:2", "busybox"] {
            docker.remove_image(name, None::<RemoveImageOptions>, None).await.unwrap();
        }
        assert!(docker.list_images(None::<ListImagesOptions>).await.unwrap().is_empty());
        let options = ImportImageOptionsBuilder::new().build();
        let again = docker.import_image(options, body_full(saved.concat().into()), None);
        again.try_collect::<Vec<_>>().await.unwrap();
        let listed = docker.list_images(None::<ListImagesOptions>).await.unwrap();
        assert_eq!(listed.iter().flat_map(|i| &i.repo_tags).collect::<Vec<_>>(), ["copy:2"]);
        refused(docker.inspect_image("gone").await, 404, "No such image");
    });
}

#[test]
fn archives_and_commits() {
    with(Host::with_busybox(), async |docker| {
        make(&docker, "box", busybox(&["cat", "/tmp/f"]), false).await;
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        tar.append_data(&mut header, "f", &b"data"[..]).unwrap();
        let into = UploadToContainerOptionsBuilder::new().path("/tmp").build();
        let body = body_full(tar.into_inner().unwrap().into());
        docker.upload_to_container("box", Some(into), body).await.unwrap();
        let saved = CommitContainerOptionsBuilder::new().container("box").repo("saved").build();
        docker.commit_container(saved, bollard::models::ContainerConfig::default()).await.unwrap();
        let config =
            ContainerCreateBody { image: Some("saved".into()), ..busybox(&["cat", "/tmp/f"]) };
        make(&docker, "second", config, true).await;
        assert_eq!(wait(&docker, "second").await, 0);
        let logs = LogsOptionsBuilder::new().stdout(true).build();
        assert_eq!(text(docker.logs("second", Some(logs)), out).await, "data");
        let from = DownloadFromContainerOptionsBuilder::new().path("/tmp/f").build();
        let bytes: Vec<_> =
            docker.download_from_container("second", Some(from)).try_collect().await.unwrap();
        let bytes = bytes.concat();
        let mut archive = tar::Archive::new(&bytes[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("f"));
        for name in ["box", "second"] {
            remove(&docker, name).await;
        }
    });
}

#[test]
fn volumes_and_networks() {
    with(Host::with_busybox(), async |docker| {
        let volume =
            VolumeCreateRequest { name: Some("data".into()), ..VolumeCreateRequest::default() };
        docker.create_volume(volume).await.unwrap();
        let port = vec![PortBinding { host_ip: None, host_port: Some("8080".into()) }];
        let host_config = HostConfig {
            binds: Some(vec!["data:/d".into()]),
            port_bindings: Some(HashMap::from([("80/tcp".to_owned(), Some(port))])),
            ..HostConfig::default()
        };
        let config = ContainerCreateBody {
            host_config: Some(host_config),
            ..busybox(&["sh", "-c", "touch /d/f; sleep 1000"])
        };
        make(&docker, "box", config, true).await;
        let found = docker.inspect_container("box", None).await.unwrap();
        let ports = found.network_settings.unwrap().ports.unwrap();
        let bound = ports["80/tcp"].as_ref().unwrap();
        assert_eq!(bound[0].host_port.as_deref(), Some("8080"));
        refused(docker.remove_volume("data", None::<RemoveVolumeOptions>).await, 409, "in use");
        let names = docker.list_networks(None::<ListNetworksOptions>).await.unwrap();
        assert!(names.iter().any(|n| n.name.as_deref() == Some("bridge")));
        let bridge = docker.inspect_network("bridge", None::<InspectNetworkOptions>).await.unwrap();
        assert_eq!(bridge.containers.unwrap().len(), 1);
        remove(&docker, "box").await;
        docker.remove_volume("data", None::<RemoveVolumeOptions>).await.unwrap();
        let left = docker.list_volumes(None::<ListVolumesOptions>).await.unwrap();
        assert!(left.volumes.unwrap_or_default().is_empty());
    });
}

#[test]
fn events() {
    with(Host::with_busybox(), async |docker| {
        make(&docker, "box", busybox(&["true"]), true).await;
        wait(&docker, "box").await;
        docker.remove_container("box", None).await.unwrap();
        let filters = HashMap::from([("type", vec!["container"])]);
        let options = EventsOptionsBuilder::new().since("1").filters(&filters).build();
        let mut seen = Vec::new();
        let mut events = std::pin::pin!(docker.events(Some(options)));
        while seen.last().is_none_or(|last| last != "destroy") {
            seen.push(events.next().await.unwrap().unwrap().action.unwrap());
        }
        assert_eq!(seen, ["create", "start", "die", "destroy"]);
    });
}

#[test]
fn what_is_refused_says_why() {
    with(Host::with_busybox(), async |docker| {
        make(&docker, "box", busybox(&["true"]), false).await;
        let again = CreateContainerOptionsBuilder::new().name("box").build();
        refused(docker.create_container(Some(again), busybox(&[])).await, 409, "already in use");
        let gone = ContainerCreateBody { image: Some("gone".into()), ..busybox(&["true"]) };
        refused(docker.create_container(None, gone).await, 404, "No such image");
        refused(docker.start_container("nobody", None).await, 404, "No such container");
        refused(docker.pause_container("box").await, 409, "not running");
        docker.remove_container("box", None).await.unwrap();
    });
}
