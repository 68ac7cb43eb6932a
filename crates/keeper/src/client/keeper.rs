//! A container's keeper, as the daemon sees it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wharf_runtime::ConsoleSize;

use crate::client::KeeperError;
use crate::client::connection::Connection;
use crate::protocol::{AttachOptions, Detached, ExecRequest, Exit, Fault, Reply, Request, State};

/// A keeper, by its directory. Cloning is cheap; dropping does nothing to the container.
///
/// Each call is a conversation of its own, so calls neither wait for each other nor disturb each other
/// when they are cancelled. All of them need a tokio runtime.
#[derive(Clone, Debug)]
pub struct Keeper {
    dir: Arc<Path>,
}

impl Keeper {
    /// The keeper that serves `dir`. Nothing is asked yet.
    pub fn at(dir: impl Into<PathBuf>) -> Keeper {
        Keeper { dir: dir.into().into() }
    }

    /// Finds the keeper of `dir` after a restart of the daemon.
    ///
    /// # Errors
    /// [`KeeperError::Gone`] if there is none; then [`crate::client::bury`] tells how the container ended.
    pub async fn reconnect(dir: impl Into<PathBuf>) -> Result<(Keeper, State), KeeperError> {
        let keeper = Keeper::at(dir);
        let state = keeper.state().await?;
        Ok((keeper, state))
    }

    /// The directory that it serves.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it knows now.
    pub async fn state(&self) -> Result<State, KeeperError> {
        match self.open()?.ask(&Request::State, &[]).await? {
            Reply::State(state) => Ok(state),
            _ => Err(KeeperError::Confused("something else than its state")),
        }
    }

    /// Follows the container to its end. While a watch is open, an ended container's keeper stays until
    /// [`Keeper::acknowledge`].
    pub async fn watch(&self) -> Result<Watch, KeeperError> {
        let connection = self.open()?;
        connection.send(&Request::Watch, &[]).await?;
        Ok(Watch { connection })
    }

    /// Lets the keeper of an ended container go. Call it once the exit status is stored; repeating is harmless.
    pub async fn acknowledge(&self) -> Result<(), KeeperError> {
        match self.done(&Request::Acknowledge, &[]).await {
            Err(KeeperError::Gone) => Ok(()),
            other => other,
        }
    }

    /// Connects `stream` to the container's streams. The keeper owns it from here on: it may be one end of a
    /// [`wharf_sys::channel::stream_pair`], or the client's own connection. It becomes non-blocking.
    pub async fn attach(
        &self,
        options: AttachOptions,
        stream: OwnedFd,
    ) -> Result<Attachment, KeeperError> {
        let connection = self.open()?;
        let request = Request::Attach(options);
        expect_done(connection.ask(&request, &[stream.as_fd()]).await?)?;
        Ok(Attachment { connection })
    }

    /// Changes the size of the container's terminal.
    pub async fn resize(&self, size: ConsoleSize) -> Result<(), KeeperError> {
        self.done(&Request::Resize(size), &[]).await
    }

    /// Sends a signal, by number, to the container's first process.
    pub async fn signal(&self, signal: i32) -> Result<(), KeeperError> {
        self.done(&Request::Signal(signal), &[]).await
    }

    /// Starts a further process; `fds` are those that `request.io` announces. Returns when its program runs.
    ///
    /// Dropping the [`Exec`] leaves the process alone: its end is kept for [`Keeper::exec_watch`].
    pub async fn exec(&self, request: ExecRequest, fds: &[OwnedFd]) -> Result<Exec, ExecError> {
        let connection = self.open()?;
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
        match connection.ask(&Request::Exec(Box::new(request)), &fds).await? {
            Reply::ExecStarted { pid } => Ok(Exec { pid, connection, over: false }),
            Reply::Failed(fault) => Err(ExecError::Fault(fault)),
            _ => Err(KeeperError::Confused("something else than a started exec").into()),
        }
    }

    /// Finds an exec that an earlier daemon started; `pid` is the one that [`Keeper::state`] tells.
    pub async fn exec_watch(&self, id: &str, pid: i32) -> Result<Exec, KeeperError> {
        let connection = self.open()?;
        connection.send(&Request::ExecWatch(id.to_owned()), &[]).await?;
        Ok(Exec { pid, connection, over: false })
    }

    /// Changes the size of an exec's terminal.
    pub async fn exec_resize(&self, id: &str, size: ConsoleSize) -> Result<(), KeeperError> {
        self.done(&Request::ExecResize(id.to_owned(), size), &[]).await
    }

    /// Sends a signal, by number, to an exec.
    pub async fn exec_signal(&self, id: &str, signal: i32) -> Result<(), KeeperError> {
        self.done(&Request::ExecSignal(id.to_owned(), signal), &[]).await
    }

    /// Is told when the log has grown, without looking.
    pub async fn follow_log(&self) -> Result<LogSignal, KeeperError> {
        let connection = self.open()?;
        connection.send(&Request::FollowLog, &[]).await?;
        Ok(LogSignal { connection })
    }

    async fn done(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), KeeperError> {
        expect_done(self.open()?.ask(request, fds).await?)
    }

    fn open(&self) -> Result<Connection, KeeperError> {
        Connection::open(&self.dir)
    }
}

/// News of one container, until its end.
#[derive(Debug)]
pub struct Watch {
    pub(crate) connection: Connection,
}

/// One piece of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The kernel killed a process of the container for want of memory.
    Oom,
    /// The container has ended. Nothing follows.
    Exited(Exit),
}

impl Watch {
    /// The next piece of news. Cancel-safe.
    ///
    /// # Errors
    /// [`KeeperError::Gone`] if the keeper was killed; then [`crate::client::bury`] ends the container.
    pub async fn next(&mut self) -> Result<Event, KeeperError> {
        match self.connection.reply().await? {
            Reply::Oom => Ok(Event::Oom),
            Reply::Exited(exit) => Ok(Event::Exited(exit)),
            _ => Err(KeeperError::Confused("something else than news")),
        }
    }

    /// Waits for the end.
    pub async fn exit(&mut self) -> Result<Exit, KeeperError> {
        loop {
            if let Event::Exited(exit) = self.next().await? {
                return Ok(exit);
            }
        }
    }
}

/// One client's attachment. Dropping it does not detach: closing the stream does.
#[derive(Debug)]
pub struct Attachment {
    pub(crate) connection: Connection,
}

impl Attachment {
    /// Waits for its end. Cancel-safe.
    pub async fn ended(&mut self) -> Result<Detached, KeeperError> {
        match self.connection.reply().await? {
            Reply::Detached(why) => Ok(why),
            _ => Err(KeeperError::Confused("something else than the end of an attachment")),
        }
    }
}

/// A process that [`Keeper::exec`] started.
///
/// The streams of the exec's client are closed only after this is dropped: store the exit status before
/// that, and a client that asks for it as soon as its stream ends will find it.
#[derive(Debug)]
pub struct Exec {
    /// Its process id, as the host sees it.
    pub pid: i32,
    connection: Connection,
    over: bool,
}

impl Exec {
    /// Waits for its end. Cancel-safe.
    pub async fn ended(&mut self) -> Result<Exit, KeeperError> {
        match self.connection.reply().await? {
            Reply::ExecEnded(exit) => {
                self.over = true;
                Ok(exit)
            }
            _ => Err(KeeperError::Confused("something else than the end of an exec")),
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if self.over {
            // The keeper may forget the result; if this is lost, it remembers it for longer.
            self.connection.try_send_empty();
        }
    }
}

/// An exec did not start.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Its program could not be run.
    #[error("{}", .0.message)]
    Fault(Fault),
    /// The keeper could not be asked.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
}

/// Tells when a log has grown.
#[derive(Debug)]
pub struct LogSignal {
    connection: Connection,
}

impl LogSignal {
    /// Asks to be told of what is written from now on. After it, read the log to its end, then [`LogSignal::grew`].
    pub async fn arm(&mut self) -> Result<(), KeeperError> {
        self.connection.send_empty().await
    }

    /// Waits for growth since [`LogSignal::arm`]. `false` means that the log is complete. Cancel-safe.
    pub async fn grew(&mut self) -> Result<bool, KeeperError> {
        match self.connection.reply().await {
            Ok(Reply::LogGrew) => Ok(true),
            Ok(_) => Err(KeeperError::Confused("something else than growth of the log")),
            Err(KeeperError::Gone) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

fn expect_done(reply: Reply) -> Result<(), KeeperError> {
    match reply {
        Reply::Done => Ok(()),
        _ => Err(KeeperError::Confused("something else than done")),
    }
}
