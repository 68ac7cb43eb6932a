//! A web server that a test controls: answers by a closure, in the network of a host.

use crate::namespace::in_network;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET`
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, its transfer encoding undone.
    pub body: Vec<u8>,
}

impl Asked {
    /// The first header called `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// One answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The status code; 0 counts as 200.
    pub status: u16,
    /// Header lines.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer of success.
    pub fn of(body: impl Into<Vec<u8>>) -> Answer {
        Answer { body: body.into(), ..Answer::default() }
    }

    /// An answer without a body.
    pub fn status(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running server; ends with the test.
pub struct Web {
    /// `127.0.0.1:PORT` in the network it listens in.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl Web {
    /// Serves in the network of process `init`.
    pub fn serve(init: u32, answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Web {
        let listener = in_network(init, || TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (all, answer) = (Arc::clone(&seen), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                std::thread::spawn(move || talk(&stream, &all, answer.as_ref()));
            }
        });
        Web { address, seen }
    }

    /// Serves the repositories below `root` by git's smart HTTP protocol; with `password`, only to whoever sends it as
    /// that of `x-access-token`.
    pub fn git(init: u32, root: PathBuf, authorization: Option<&str>) -> Web {
        let wanted = authorization.map(str::to_owned);
        Web::serve(init, move |asked| {
            if wanted.as_deref().is_some_and(|w| asked.header("authorization") != Some(w)) {
                return Answer::status(401).with("WWW-Authenticate", "Basic realm=\"git\"");
            }
            let (path, _) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
            let service =
                |end: &str| path.strip_suffix(end).map(|p| root.join(p.trim_matches('/')));
            if let Some(repository) = service("/info/refs") {
                let refs = upload_pack(&["--http-backend-info-refs"], &repository, asked);
                return refs.map_or(Answer::status(404), Answer::of);
            }
            let repository = service("/git-upload-pack");
            let sent = repository.and_then(|r| upload_pack(&["--stateless-rpc"], &r, asked));
            sent.map_or(Answer::status(404), Answer::of)
        })
    }

    /// Serves the repositories below `root` by git's own protocol, with git's own daemon; gives its address.
    pub fn git_daemon(init: u32, root: &std::path::Path) -> SocketAddr {
        let listener = in_network(init, || TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let root = root.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut daemon = settled(Command::new(crate::tools::path("git/git-daemon")), &root);
                daemon.args(["--inetd", "--export-all"]);
                daemon.arg(format!("--base-path={}", root.display()));
                let input = std::os::fd::OwnedFd::from(stream.try_clone().unwrap());
                daemon.stdin(input).stdout(std::os::fd::OwnedFd::from(stream));
                std::thread::spawn(move || drop(daemon.status()));
            }
        });
        address
    }

    /// The requests so far: `METHOD TARGET`.
    pub fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|a| format!("{} {}", a.method, a.target)).collect()
    }
}

/// git as a command of its own settings, which reads nobody else's.
pub fn git(dir: &std::path::Path) -> Command {
    settled(Command::new(crate::tools::path("git/git")), dir)
}

fn settled(mut c: Command, dir: &std::path::Path) -> Command {
    c.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(dir);
    c.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", dir);
    for who in ["AUTHOR", "COMMITTER"] {
        c.env(format!("GIT_{who}_NAME"), "A").env(format!("GIT_{who}_EMAIL"), "a@example.com");
        c.env(format!("GIT_{who}_DATE"), "1700000000 +0000");
    }
    c
}

fn upload_pack(flags: &[&str], repository: &std::path::Path, asked: &Asked) -> Option<Vec<u8>> {
    let mut c = git(repository.parent()?);
    c.arg("-c").arg("safe.directory=*").arg("upload-pack").args(flags).arg(repository);
    c.env("GIT_PROTOCOL", asked.header("git-protocol").unwrap_or_default());
    let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    child.stdin.take()?.write_all(&asked.body).ok()?;
    let done = child.wait_with_output().ok()?;
    done.status.success().then_some(done.stdout)
}

fn talk(
    stream: &TcpStream,
    seen: &Mutex<Vec<Asked>>,
    answer: &(dyn Fn(&Asked) -> Answer + Send + Sync),
) -> Option<()> {
    let mut from = BufReader::new(stream);
    loop {
        let asked = read(&mut from)?;
        seen.lock().unwrap().push(asked.clone());
        let answer = answer(&asked);
        let status = if answer.status == 0 { 200 } else { answer.status };
        let mut head = format!("HTTP/1.1 {status} X\r\n");
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if status != 304 {
            head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
        }
        head.push_str("\r\n");
        let mut out = stream;
        out.write_all(head.as_bytes()).and_then(|()| out.write_all(&answer.body)).ok()?;
    }
}

fn read(from: &mut BufReader<&TcpStream>) -> Option<Asked> {
    let mut first = String::new();
    from.read_line(&mut first).ok().filter(|n| *n > 0)?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut asked = Asked { method, target, headers, body: Vec::new() };
    if let Some(length) = asked.header("content-length").and_then(|v| v.parse().ok()) {
        asked.body = vec![0; length];
        from.read_exact(&mut asked.body).ok()?;
    }
    Some(asked)
}
