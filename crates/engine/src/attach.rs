//! Attaching to containers: a socket whose other end the keeper serves.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::net::UnixStream;
use tokio_util::io::ReaderStream;
use wharf_keeper::{AttachOptions as KeeperOptions, Slow};
use wharf_runtime::ConsoleSize;

use crate::container::{Container, Waiting};
use crate::detach::DetachKeys;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::options::{AttachOptions, LogOptions, Session};
use crate::state::State;

/// Bytes per read: the keeper's pipe-sized chunks fit.
const CHUNK: usize = 64 << 10;

impl Inner {
    pub(crate) async fn attach(
        self: &Arc<Self>,
        c: &Arc<Container>,
        options: AttachOptions,
    ) -> Result<Session> {
        let record = c.record();
        match c.state() {
            State::Paused(_) => return Err(EngineError::paused(c.id.as_str())),
            State::Restarting(_) => return Err(EngineError::restarting(c.id.as_str())),
            _ => (),
        }
        let keys = DetachKeys::parse(options.detach_keys.as_deref().unwrap_or_default())?;
        let (stream, logs) = (options.stream, options.logs.then(|| past(&options)));
        let (ours, theirs) = pair()?;
        if stream {
            let options = KeeperOptions {
                stdin: options.stdin && record.config.open_stdin,
                stdout: options.stdout,
                stderr: options.stderr,
                detach_keys: keys.into_bytes(),
                slow: Slow::Hold,
            };
            self.connect(c, options, theirs).await?;
        }
        // Read when the stream is connected, so that nothing falls between the two.
        let past = match logs {
            Some(past) => {
                let until = Some(self.clock.unix_nanos());
                Some(self.logs(c, LogOptions { until, ..past }).await?)
            }
            None => None,
        };
        self.emit(&record, "attach", &[]);
        let mut session = session(ours, record.config.tty)?;
        if let Some(past) = past {
            session.output = past.chain(session.output).boxed();
        }
        Ok(session)
    }

    /// To the keeper if the container runs; otherwise the client waits for the start. A container that ends under our
    /// hands is one that does not run.
    async fn connect(
        self: &Arc<Self>,
        c: &Arc<Container>,
        options: KeeperOptions,
        stream: OwnedFd,
    ) -> Result<()> {
        let mut news = c.subscribe();
        loop {
            // In turn, so that a start in progress either takes this client along or has finished.
            let turn = c.turn.lock().await;
            let Ok(keeper) = c.keeper() else {
                match c.state() {
                    State::Created { .. } | State::Exited(_) => {
                        c.with(|core| core.waiting.push(Waiting { options, stream }));
                        return Ok(());
                    }
                    _ => return Err(EngineError::not_running(c.id.as_str())),
                }
            };
            drop(turn);
            let copy = stream
                .try_clone()
                .map_err(|e| EngineError::system("use the socket of an attached client", e))?;
            let error = match keeper.attach(options.clone(), copy).await {
                Ok(attached) => {
                    self.watch_attachment(c, attached);
                    return Ok(());
                }
                Err(error) => error,
            };
            if keeper.state().await.is_ok_and(|state| state.exit.is_none()) {
                return Err(EngineError::system("attach to the container", error));
            }
            // Until its end is known here as well.
            if news.changed().await.is_err() {
                return Err(EngineError::not_running(c.id.as_str()));
            }
        }
    }

    pub(crate) async fn resize(&self, c: &Container, rows: u16, cols: u16) -> Result<()> {
        let keeper = c.keeper()?;
        let size = ConsoleSize { rows, cols };
        keeper
            .resize(size)
            .await
            .map_err(|e| EngineError::conflict("resize the container's terminal").because(e))?;
        let (h, w) = (rows.to_string(), cols.to_string());
        self.emit(&c.record(), "resize", &[("height", &h), ("width", &w)]);
        Ok(())
    }
}

fn past(o: &AttachOptions) -> LogOptions {
    LogOptions { stdout: o.stdout, stderr: o.stderr, ..LogOptions::default() }
}

/// A connected pair: ours and the keeper's.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    wharf_sys::channel::stream_pair()
        .map_err(|e| EngineError::system("make a socket for an attached client", e))
}

/// Our end as a session.
pub(crate) fn session(ours: OwnedFd, tty: bool) -> Result<Session> {
    let failed = |e| EngineError::system("use the socket of an attached client", e);
    let stream = StdStream::from(ours);
    stream.set_nonblocking(true).map_err(failed)?;
    let (read, write) = UnixStream::from_std(stream).map_err(failed)?.into_split();
    let output = ReaderStream::with_capacity(read, CHUNK).boxed();
    Ok(Session { output, input: Box::pin(write), tty })
}
