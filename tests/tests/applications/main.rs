//! Whole applications, as people write them down, from Debian's packages: each must answer.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests: they run programs, and a broken expectation is a panic"
)]

mod legacy;
mod modern;

use std::process::{Command, Stdio};

use wharf_test::docker::Output;
use wharf_test::{Host, tools};

/// Who speaks Compose.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tool {
    Stock,
    Wharf,
}

impl Tool {
    /// Runs a command in the folder `folder` of the host.
    #[track_caller]
    fn run(self, host: &Host, folder: &str, args: &[&str]) -> Output {
        let mut c = match self {
            Tool::Stock => host.client(tools::path("docker-compose")),
            Tool::Wharf => {
                let mut c = host.client(tools::wharf());
                c.arg("compose");
                c
            }
        };
        Output::run(c.current_dir(host.dir().join(folder)).args(args), b"")
    }
}

/// Adds an image that holds a folder of Debian's packages, under the folder's name.
#[track_caller]
fn import(host: &Host, name: &str) {
    let mut tar = Command::new("tar")
        .args(["-c", "--numeric-owner", "--owner=0", "--group=0"])
        .args(["--exclude=./usr/share/doc", "--exclude=./usr/share/man"])
        .args(["--exclude=./usr/share/locale", "-C"])
        .arg(tools::path(name))
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .expect("start tar");
    let path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let done = host
        .docker_command()
        .args(["import", "-c", path, "-", name])
        .stdin(tar.stdout.take().unwrap())
        .output()
        .expect("start docker");
    assert!(done.status.success(), "import {name}: {}", String::from_utf8_lossy(&done.stderr));
    assert!(tar.wait().unwrap().success(), "tar {name}");
}

/// A page of an application, if it answers and all is well.
fn page(host: &Host, address: &str, path: &str) -> Option<String> {
    let answer = host.get(address, path).ok()?;
    (answer.status == 200).then(|| answer.text().trim().to_owned())
}

/// The ids of a project's containers.
#[track_caller]
fn ids(host: &Host, project: &str) -> Vec<String> {
    let label = format!("label=com.docker.compose.project={project}");
    let mut ids = host.docker(["ps", "-aq", "--no-trunc", "--filter", &label]).lines();
    ids.retain(|id| !id.is_empty());
    ids.sort();
    ids
}
