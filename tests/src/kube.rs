//! `wharf kube serve` on a port of its own, and stock kubectl against it.

use crate::{eventually, program, tools};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A server with its state in a folder that goes with it.
pub struct Cluster {
    dir: Folder,
    flags: Vec<String>,
    program: PathBuf,
    server: Child,
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wharf-kube-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Cluster {
    /// One with the usual flags.
    pub fn start() -> Cluster {
        Cluster::with(&[])
    }

    /// One with more flags.
    pub fn with(flags: &[&str]) -> Cluster {
        let flags: Vec<String> = flags.iter().map(|f| (*f).to_owned()).collect();
        let dir = Folder::new();
        let server = serve(&dir.0, &flags);
        let cluster = Cluster { dir, flags, program: tools::path("kubectl"), server };
        cluster.ready();
        cluster
    }

    /// The same asked with another kubectl.
    pub fn through(mut self, program: &Path) -> Cluster {
        program.clone_into(&mut self.program);
        self
    }

    /// The folder of the server's state and of files for kubectl.
    pub fn dir(&self) -> &Path {
        &self.dir.0
    }

    /// The administrator's kubeconfig.
    pub fn config(&self) -> PathBuf {
        self.dir.0.join("kubeconfig")
    }

    /// The process of the server.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    fn ready(&self) {
        eventually("the kubeconfig", || self.config().exists().then_some(()));
        eventually("the default account", || {
            let mut c = self.kubectl("get serviceaccount default -o name");
            program::run(&mut c, b"").status.success().then_some(())
        });
    }

    /// Kills the server at once and starts another on the same state.
    pub fn restart(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        std::fs::remove_file(self.config()).unwrap();
        self.server = serve(&self.dir.0, &self.flags);
        self.ready();
    }

    /// A command line: parts between bars are split at spaces, except those that begin with `{`, `[` or `=`.
    pub fn kubectl(&self, line: &str) -> Command {
        let mut c = Command::new(&self.program);
        c.env("KUBECONFIG", self.config()).env("HOME", &self.dir.0).current_dir(&self.dir.0);
        c.args(line.split('|').flat_map(words));
        c
    }

    /// Runs a line; gives what it printed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        self.run_with(line, "", 0)
    }

    /// Runs a line, which ends with `code`; gives what it printed.
    #[track_caller]
    pub fn run_with(&self, line: &str, stdin: &str, code: i32) -> String {
        let done = program::run(&mut self.kubectl(line), stdin.as_bytes());
        let text = [done.stdout, done.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(done.status.code(), Some(code), "kubectl {line}\n{text}");
        text
    }

    /// Runs a line, which ends with `code` and prints `expected` somewhere.
    #[track_caller]
    pub fn check(&self, line: &str, code: i32, expected: &str) {
        self.check_with(line, "", code, expected);
    }

    /// The same with a manifest on standard input.
    #[track_caller]
    pub fn check_with(&self, line: &str, stdin: &str, code: i32, expected: &str) {
        let text = self.run_with(line, stdin, code);
        assert!(text.contains(expected), "kubectl {line}\nwanted {expected:?} in\n{text}");
    }

    /// Runs a line until it succeeds and prints `expected` somewhere.
    #[track_caller]
    pub fn until(&self, line: &str, expected: &str) {
        eventually(line, || {
            let done = program::run(&mut self.kubectl(line), b"");
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            (done.status.success() && text.contains(expected)).then_some(())
        });
    }
}

fn serve(dir: &Path, flags: &[String]) -> Child {
    let mut c = Command::new(tools::wharf());
    c.args(["kube", "serve", "--bind", "127.0.0.1:0", "--data-root"]).arg(dir.join("data"));
    c.arg("--write-kubeconfig").arg(dir.join("kubeconfig")).args(flags);
    c.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        _ = self.server.kill();
        _ = self.server.wait();
    }
}

/// The words of a part between bars. One that begins with `{` or `[` is one argument, and so is what follows a `=`.
fn words(part: &str) -> Vec<String> {
    if let Some(one) = part.strip_prefix('=') {
        return vec![one.to_owned()];
    }
    if part.starts_with(['{', '[']) {
        return vec![part.to_owned()];
    }
    part.split_whitespace().map(str::to_owned).collect()
}
