//! The stock docker CLI with its buildx plugin against wharf: builds, outputs, bake, questions, history.
//!
//! Nothing here runs against Debian's docker: the suite for the classic door compares the two.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod bake;
mod builds;
mod errors;
mod keeping;
mod outputs;
mod posted;
mod pushes;
mod transport;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use wharf_test::{Host, Output, tools};

/// A host with busybox in its store, whose docker CLI has the plugin, and a folder of contexts.
struct Site {
    host: Host,
}

impl Site {
    fn start() -> Site {
        let host = Host::with_busybox();
        tools::path("cli-plugins/docker-buildx");
        let plugins = tools::path("cli-plugins");
        let config = format!(r#"{{"cliPluginsExtraDirs":[{plugins:?}]}}"#);
        host.write("home/.docker/config.json", config.as_bytes());
        Site { host }
    }

    /// Writes a file; paths are relative to the folder that docker runs in.
    fn file(&self, path: &str, content: &str) -> &Site {
        self.host.write(path, content.as_bytes());
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        self.host.dir().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// `docker buildx ARGS`.
    fn buildx(&self, args: &[&str]) -> Output {
        Output::of(self.command().arg("buildx").args(args), b"")
    }

    /// `docker build --progress plain ARGS`, which the plugin takes over.
    fn build(&self, args: &[&str]) -> Output {
        Output::of(self.command().args(["build", "--progress", "plain"]).args(args), b"")
    }

    fn command(&self) -> Command {
        self.host.docker_command()
    }

    /// What a container of the image prints.
    fn run(&self, image: &str, script: &str) -> String {
        self.host.docker(["run", "--rm", image, "sh", "-c", script]).ok()
    }
}

/// What was transferred of the build context, in words: `211B`.
fn transferred(output: &Output) -> String {
    let (_, rest) = output.stderr.split_once("[internal] load build context").expect("a transfer");
    let (_, rest) = rest.split_once("transferring context: ").expect("its size");
    rest.split_whitespace().next().unwrap().to_owned()
}
