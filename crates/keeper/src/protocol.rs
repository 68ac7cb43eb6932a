//! What the daemon and a keeper say to each other.
//!
//! One connection carries one request and its replies, each one packet of a SOCK_SEQPACKET socket: a version
//! byte, then postcard. Daemons of different ages drive the same keeper, so the rules of change are: variants
//! are only appended, and a struct that has been released never changes, a new variant takes its place.
//! A keeper answers a request that it cannot read with [`Reply::Unsupported`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wharf_runtime::{ConsoleSize, ExecPlan, Plan};

use crate::log::LogConfig;

/// The protocol spoken by this build.
pub const VERSION: u8 = 1;

/// The keeper's socket in the container's directory.
pub const SOCKET: &str = "keeper.sock";
/// The container's exit status in its directory: an [`Exit`] as JSON.
pub const EXIT_FILE: &str = "exit";
/// What outlives a killed keeper in the container's directory: a [`Record`] as JSON.
pub const RECORD_FILE: &str = "keeper.json";

/// A container to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Launch {
    /// The container's id, for the keeper's process name.
    pub id: String,
    /// What to run.
    pub plan: Plan,
    /// How its standard streams are connected.
    pub io: IoConfig,
    /// Where its output is logged.
    pub log: LogConfig,
    /// The keeper's directory; it must exist with mode 0700.
    pub dir: PathBuf,
}

/// How the standard streams of a process are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoConfig {
    /// A terminal in place of pipes; then standard input is always open.
    pub tty: Option<ConsoleSize>,
    /// Standard input is a pipe rather than `/dev/null`.
    pub open_stdin: bool,
    /// The end of the first attached client's input ends the container's input.
    pub stdin_once: bool,
}

/// A client of a process's streams.
///
/// Output is sent in Docker's frames (8 bytes: stream, three zeros, big-endian length) unless the process has a
/// terminal, then raw. The end of the client's input ends the process's input if [`IoConfig::stdin_once`] is set and
/// there is no terminal; otherwise it ends the attachment. Without `stdin` what the client sends is not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachOptions {
    /// Read the process's input from the client.
    pub stdin: bool,
    /// Send it standard output.
    pub stdout: bool,
    /// Send it standard error.
    pub stderr: bool,
    /// Typing this ends the attachment; empty for never, at most [`MAX_DETACH_KEYS`] bytes.
    pub detach_keys: Vec<u8>,
    /// What a client that does not read means for the process.
    pub slow: Slow,
}

/// What happens to a client that reads more slowly than the process writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slow {
    /// The process waits, so that every byte arrives: for the foreground of `docker run`.
    Hold,
    /// The client is cut off with a message, so that it cannot stop the process.
    Drop,
}

/// Longest sequence of detach keys.
pub const MAX_DETACH_KEYS: usize = 64;
/// Most clients attached to one process.
pub const MAX_ATTACHED: usize = 64;
/// Most connections to one keeper.
pub const MAX_CONNECTIONS: usize = 256;
/// Most execs that run in one container at a time.
pub const MAX_EXECS: usize = 256;

/// A further process to run in the container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Chosen by the daemon, unique among the container's execs.
    pub id: String,
    /// What to run.
    pub plan: ExecPlan,
    /// Where its streams go.
    pub io: ExecIo,
}

/// Where the streams of an exec go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ExecIo {
    /// Three descriptors come with the request, in order, for those that are `true`; the rest is `/dev/null`.
    Direct {
        /// Standard input comes with the request.
        stdin: bool,
        /// Standard output comes with the request.
        stdout: bool,
        /// Standard error comes with the request.
        stderr: bool,
    },
    /// The keeper holds the other ends. If `attach` is set, one stream socket comes with the request.
    Kept {
        /// How the process is connected to the keeper.
        io: IoConfig,
        /// The client.
        attach: Option<AttachOptions>,
    },
}

/// What the daemon asks.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Run this container. Descriptors: for each of `attach` its stream, then the socket for its end.
    /// Replies: `Hello`, then `Started` and the replies of `Watch`, or `Failed`.
    Launch(Box<Launch>, Vec<AttachOptions>),
    /// Replies: `Oom` each time, then `Exited`.
    Watch,
    /// The exit is stored; the keeper may go. Reply: `Done`.
    Acknowledge,
    /// Reply: `State`.
    State,
    /// Descriptor: the stream. Replies: `Done`, then `Detached`.
    Attach(AttachOptions),
    /// Reply: `Done`.
    Resize(ConsoleSize),
    /// Signal number to the first process. Reply: `Done`.
    Signal(i32),
    /// Replies: `ExecStarted` and `ExecEnded`, or `Failed`.
    Exec(Box<ExecRequest>),
    /// Reply: `ExecEnded`, when it has.
    ExecWatch(String),
    /// Reply: `Done`.
    ExecResize(String, ConsoleSize),
    /// Reply: `Done`.
    ExecSignal(String, i32),
    /// Each empty packet that follows asks for one `LogGrew`, sent when the log has grown since the last one; the
    /// first may come without growth.
    /// The keeper closes the connection when the log is complete.
    FollowLog,
}

/// What the keeper answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The keeper exists; from here on a lost connection is a lost container.
    Hello,
    /// The container's program runs.
    Started(Started),
    /// It does not.
    Failed(Fault),
    /// Done.
    Done,
    /// Not possible, and why.
    Refused(String),
    /// This keeper is too old for that request; its version.
    Unsupported(u8),
    /// See [`State`].
    State(State),
    /// An attachment is over.
    Detached(Detached),
    /// The exec's program runs.
    ExecStarted {
        /// Its process id as the host sees it.
        pid: i32,
    },
    /// It has ended.
    ExecEnded(Exit),
    /// The kernel killed a process of the container for want of memory.
    Oom,
    /// The container has ended; its exit file is written and its cgroup removed.
    Exited(Exit),
    /// There is more in the log.
    LogGrew,
}

/// A container that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The first process, as the host sees it.
    pub pid: i32,
    /// Nanoseconds since 1970.
    pub at: i64,
}

/// Why a process did not come to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which class of error it is.
    pub kind: FaultKind,
    /// runc's text, without its outer layers.
    pub message: String,
}

/// Classes of [`Fault`], by the exit code that Docker stores for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// 127: no such program.
    NotFound,
    /// 126: not executable.
    NotExecutable,
    /// 128: anything else.
    Other,
}

impl FaultKind {
    /// Docker's exit code.
    pub fn exit_code(self) -> i32 {
        match self {
            FaultKind::NotFound => 127,
            FaultKind::NotExecutable => 126,
            FaultKind::Other => 128,
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its status, or 128 plus the signal.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// The kernel killed some process of the container for want of memory.
    pub oom: bool,
    /// Nanoseconds since 1970.
    pub at: i64,
}

/// Why an attachment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detached {
    /// The process ended and everything was sent.
    Ended,
    /// The client typed the detach keys.
    Keys,
    /// The client went away, or ended its input where that means the same.
    Client,
    /// The client did not read, see [`Slow::Drop`].
    Slow,
}

/// A keeper's account of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The container's first process.
    pub started: Started,
    /// Set once the container has ended.
    pub exit: Option<Exit>,
    /// Execs that run, or that ended and were not collected.
    pub execs: Vec<ExecState>,
    /// Clients attached to the container.
    pub attached: u32,
    /// Log lines that could not be written, because the disk was full or a non-blocking buffer was.
    pub log_lines_lost: u64,
    /// The last error of the log.
    pub log_error: Option<String>,
}

/// One exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecState {
    /// As the daemon named it.
    pub id: String,
    /// Its process id as the host sees it.
    pub pid: i32,
    /// Set once it has ended.
    pub exit: Option<Exit>,
}

/// What the daemon must know of a container whose keeper was killed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The container's first process.
    pub started: Started,
    /// To kill what is left and remove.
    pub cgroup: wharf_runtime::cgroup::Cgroup,
}
