//! The daemon's handle on the launcher: starts it, starts it again, and has keepers forked by it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use wharf_base::sync::Mutex;
use wharf_sys::own::OwnProgram;
use wharf_sys::{channel, process};

use crate::client::KeeperError;
use crate::client::connection::{Connection, gone};
use crate::client::keeper::{Attachment, Keeper, Watch};
use crate::protocol::{AttachOptions, Fault, Launch, Reply, Request, Started};

/// What to execute as the launcher.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file; wharf's own binary when `None`, through a read-only mount that only the launcher holds.
    pub path: Option<PathBuf>,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Default for Program {
    fn default() -> Program {
        Program { path: None, args: vec!["launcher".into()] }
    }
}

/// The process that forks keepers. Cloning shares it; it ends when the last clone is dropped, and keepers go on.
#[derive(Clone, Debug)]
pub struct Launcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    program: Program,
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    socket: OwnedFd,
    child: Child,
}

/// A container that was launched.
#[derive(Debug)]
pub struct Launched {
    /// Its keeper.
    pub keeper: Keeper,
    /// Its first process and the time it started.
    pub started: Started,
    /// News of it, from the first moment.
    pub watch: Watch,
    /// The clients that were attached before it started, in the order they were given.
    pub attached: Vec<Attachment>,
}

/// A container did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Its set-up failed or its program could not be run. Nothing of it is left.
    #[error("{}", .0.message)]
    Fault(Fault),
    /// The launcher does not run and cannot be started.
    #[error("start the launcher")]
    Launcher(#[source] io::Error),
    /// The keeper died during the set-up. [`crate::client::bury`] removes what it left.
    #[error("the container's keeper died while it set the container up")]
    Lost,
    /// The keeper could not be asked.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
}

impl Launcher {
    /// Starts the launcher. Do it before the process has much memory: forking it is dearer then.
    pub fn spawn(program: Program) -> Result<Launcher, LaunchError> {
        let running = start(&program).map_err(LaunchError::Launcher)?;
        Ok(Launcher { shared: Arc::new(Shared { program, running: Mutex::new(running) }) })
    }

    /// The launcher's process id, for accounting.
    pub fn pid(&self) -> u32 {
        self.shared.running.lock().child.id()
    }

    /// Starts a container with `clients` attached from its first byte on. Returns when its program runs.
    ///
    /// A launcher that has died is started again. If this is dropped, the container starts or fails all the
    /// same: ask [`Keeper::reconnect`].
    pub async fn launch(
        &self,
        launch: Launch,
        clients: Vec<(AttachOptions, OwnedFd)>,
    ) -> Result<Launched, LaunchError> {
        let dir = launch.dir.clone();
        let (options, streams): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
        let (attached, reports) = reports(streams.len()).map_err(KeeperError::Io)?;
        let request = Request::Launch(Box::new(launch), options);
        let fds: Vec<BorrowedFd<'_>> = streams
            .iter()
            .zip(&reports)
            .flat_map(|(stream, report)| [stream.as_fd(), report.as_fd()])
            .collect();
        let connection = self.keeper(&request, &fds).await?;
        match connection.reply().await {
            Ok(Reply::Started(started)) => {
                let watch = Watch { connection };
                Ok(Launched { keeper: Keeper::at(dir), started, watch, attached })
            }
            Ok(Reply::Failed(fault)) => Err(LaunchError::Fault(fault)),
            Ok(_) => Err(KeeperError::Confused("something else than a started container").into()),
            Err(KeeperError::Gone) => Err(LaunchError::Lost),
            Err(e) => Err(e.into()),
        }
    }

    /// A new keeper that has `request`. Only here is it tried twice: a keeper that has not said hello has done nothing.
    async fn keeper(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Connection, LaunchError> {
        match self.try_keeper(request, fds).await {
            Err(LaunchError::Keeper(KeeperError::Gone)) => {}
            other => return other,
        }
        self.restart().map_err(LaunchError::Launcher)?;
        self.try_keeper(request, fds).await
    }

    async fn try_keeper(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Connection, LaunchError> {
        let (ours, theirs) = channel::pair().map_err(KeeperError::Io)?;
        match channel::send(&self.shared.running.lock().socket, &[0], &[theirs.as_fd()]) {
            Err(e) if gone(&e) => return Err(KeeperError::Gone.into()),
            sent => sent.map_err(KeeperError::Io)?,
        }
        drop(theirs);
        let connection = Connection::from_fd(ours).map_err(KeeperError::Io)?;
        match connection.ask(request, fds).await? {
            Reply::Hello => Ok(connection),
            Reply::Failed(fault) => Err(LaunchError::Fault(fault)),
            _ => Err(KeeperError::Confused("something else than hello").into()),
        }
    }

    /// Starts a new launcher if the old one has ended; an old one that merely lost one keeper stays.
    fn restart(&self) -> io::Result<()> {
        let mut running = self.shared.running.lock();
        if running.has_ended()? {
            tracing::warn!(pid = running.child.id(), "launcher died, starting another");
            *running = start(&self.shared.program)?;
        }
        Ok(())
    }
}

impl Running {
    /// Whether the launcher has ended, and then reaps it.
    fn has_ended(&mut self) -> io::Result<bool> {
        // It says nothing on its socket, so that is readable only at its end: a dying process closes it a moment
        // before it can be reaped.
        let closed = process::poll_readable(&[self.socket.as_fd()], 0)?;
        if closed.contains(&true) {
            self.child.wait()?;
            return Ok(true);
        }
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        // The launcher also ends by itself at the end of its socket; waiting for that could take for ever if it hangs.
        drop(running.child.kill());
        drop(running.child.wait());
    }
}

/// The two ends of the sockets on which a launch reports how each attachment ended.
fn reports(n: usize) -> io::Result<(Vec<Attachment>, Vec<OwnedFd>)> {
    let mut attached = Vec::with_capacity(n);
    let mut theirs = Vec::with_capacity(n);
    for _ in 0..n {
        let (ours, keepers) = channel::pair()?;
        attached.push(Attachment { connection: Connection::from_fd(ours)? });
        theirs.push(keepers);
    }
    Ok((attached, theirs))
}

/// The launcher gets its socket as standard input: the one descriptor that needs no agreement.
#[allow(clippy::disallowed_methods, reason = "wharf starts itself, with its environment cleared")]
fn start(program: &Program) -> io::Result<Running> {
    let (socket, theirs) = channel::pair()?;
    let own = if program.path.is_none() { Some(OwnProgram::open()?) } else { None };
    let path = program.path.clone().or(own.as_ref().map(OwnProgram::path)).unwrap_or_default();
    let child = Command::new(path)
        .args(&program.args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    wharf_sys::daemon::restore_file_limit(child.id())?;
    Ok(Running { socket, child })
}
