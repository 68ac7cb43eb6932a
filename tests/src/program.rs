//! Child processes with a deadline: run to the end, or talk to one while it runs.

use crate::PATIENCE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a finished program left.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

/// Runs `c` with `stdin` and kills it after [`PATIENCE`].
#[track_caller]
pub fn run(c: &mut Command, stdin: &[u8]) -> Finished {
    let mut child = c
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("start {c:?}: {e}"));
    let stdout = drain(child.stdout.take().unwrap());
    let stderr = drain(child.stderr.take().unwrap());
    let mut pipe = child.stdin.take().unwrap();
    let input = stdin.to_vec();
    // A program that does not read its input closes the pipe; that is its right.
    let feed = std::thread::spawn(move || pipe.write_all(&input).is_ok());
    let status = wait(&mut child, PATIENCE);
    let late = status.is_none();
    let status = status.unwrap_or_else(|| child.wait().unwrap());
    let done = Finished { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
    feed.join().unwrap();
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(!late, "{c:?} did not end within {PATIENCE:?}; its stderr:\n{text}");
    done
}

/// Waits for the end of `child`; kills it and gives `None` when `patience` runs out.
pub fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let pid = Pid::from_child(child);
    let fd = pidfd_open(pid, PidfdFlags::empty()).expect("pidfd of an own child");
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let limit = Timespec { tv_sec: patience.as_secs().try_into().unwrap(), tv_nsec: 0 };
    if poll(&mut fds, Some(&limit)).is_ok_and(|n| n == 0) {
        pidfd_send_signal(&fd, Signal::KILL).expect("kill an own child");
        return None;
    }
    Some(child.wait().unwrap())
}

/// A program that a test talks to while it runs.
pub struct Talk {
    child: Child,
    input: Option<Box<dyn Write + Send>>,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    read: usize,
}

impl Talk {
    /// Starts `c` on pipes; standard error is part of the output.
    #[track_caller]
    pub fn start(c: &mut Command) -> Talk {
        let mut child = c
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("start {c:?}: {e}"));
        let (send, output) = channel();
        for source in [
            Box::new(child.stdout.take().unwrap()) as Box<dyn Read + Send>,
            Box::new(child.stderr.take().unwrap()),
        ] {
            forward(source, send.clone());
        }
        let input: Box<dyn Write + Send> = Box::new(child.stdin.take().unwrap());
        Talk { child, input: Some(input), output, seen: Vec::new(), read: 0 }
    }

    /// A program whose input and output someone else set up.
    pub fn over(
        child: Child,
        input: impl Write + Send + 'static,
        output: impl Read + Send + 'static,
    ) -> Talk {
        let (send, receive) = channel();
        forward(output, send);
        Talk { child, input: Some(Box::new(input)), output: receive, seen: Vec::new(), read: 0 }
    }

    /// Writes to the program's input.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let input = self.input.as_mut().expect("input is closed");
        input.write_all(bytes.as_ref()).and_then(|()| input.flush()).expect("write to the program");
    }

    /// Closes the program's input.
    pub fn close(&mut self) {
        self.input = None;
    }

    /// Waits until the output holds `text` behind what was expected before.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            if let Some(at) = find(&self.seen[self.read..], text.as_bytes()) {
                self.read += at + text.len();
                return;
            }
            let left = PATIENCE.saturating_sub(start.elapsed());
            match self.output.recv_timeout(left) {
                Ok(more) => self.seen.extend(more),
                Err(_) => panic!("no {text:?} in the output:\n{}", self.text()),
            }
        }
    }

    /// Whether the output holds `text` by now; waits a moment for more of it.
    pub fn shows(&mut self, text: &str) -> bool {
        while let Ok(more) = self.output.recv_timeout(Duration::from_millis(50)) {
            self.seen.extend(more);
        }
        find(&self.seen, text.as_bytes()).is_some()
    }

    /// Everything that the program has written so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal)
            .expect("signal a child");
    }

    /// Waits for the program's end; gives its exit code and all of its output.
    #[track_caller]
    pub fn finish(mut self) -> (i32, String) {
        let status = wait(&mut self.child, PATIENCE);
        if status.is_none() {
            self.child.wait().unwrap();
            panic!("the program did not end; its output:\n{}", self.text());
        }
        while let Ok(more) = self.output.recv_timeout(PATIENCE) {
            self.seen.extend(more);
        }
        use std::os::unix::process::ExitStatusExt;
        let status = status.unwrap();
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        (code, self.text())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().expect("kill an own child");
            self.child.wait().expect("wait for an own child");
        }
    }
}

fn drain(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).expect("read a program's output");
        all
    })
}

fn forward(mut from: impl Read + Send + 'static, to: std::sync::mpsc::Sender<Vec<u8>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        // A terminal reports EIO once its last user is gone: the end.
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if to.send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}
