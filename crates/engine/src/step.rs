//! A process of a build: one keeper over given layers, without a record, a name or an event.
//!
//! Its directories lie where those of containers do, so that a daemon that starts after a crash finds it as a stray,
//! ends it and removes what it left.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;
use wharf_base::Id;
use wharf_keeper::client::{KeeperError, Watch};
use wharf_keeper::log::{LogConfig, LogFormat, LogMode};
use wharf_keeper::{AttachOptions, Exit, IoConfig, Launch, LaunchError, Slow};
use wharf_runtime::Root;
use wharf_spec::docker::{
    ContainerConfig, CreateRequest, EndpointSettings, HostConfig, Map, Resources, StrList,
};

use crate::Engine;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::network::Joined;
use crate::options::ByteStream;
use crate::record::{NetworkMode, Record};
use crate::spec::mounts::HostMount;
use crate::spec::user::ResolvedUser;
use crate::start::Furniture;
use crate::undo::Undo;

/// What to run.
#[derive(Debug)]
pub struct Step {
    /// Read-only layers, the top one first.
    pub lowers: Vec<PathBuf>,
    /// An empty directory that takes the changes.
    pub upper: PathBuf,
    /// An empty directory on the same file system.
    pub work: PathBuf,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Its environment, complete but for `PATH`, `HOME` and `HOSTNAME`.
    pub env: Vec<String>,
    /// Its directory.
    pub cwd: String,
    /// Who runs it.
    pub user: ResolvedUser,
    /// What the container calls itself.
    pub hostname: String,
    /// As `--network` of a container.
    pub network: String,
    /// As `--add-host` of a container.
    pub extra_hosts: Vec<String>,
    /// Limits.
    pub resources: Resources,
    /// Bytes of `/dev/shm`; 0 is the default.
    pub shm_size: i64,
    /// All capabilities, no filter, all devices.
    pub privileged: bool,
    /// Mounts beyond Docker's own.
    pub mounts: Vec<HostMount>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepExit {
    /// Its status, or 128 plus the signal.
    pub code: i32,
    /// The kernel killed a process of it for want of memory.
    pub oom: bool,
    /// It was killed because the caller cancelled.
    pub cancelled: bool,
}

/// Takes what a step prints: the stream's number (1 or 2) and the bytes.
pub type StepOutput = Box<dyn FnMut(u8, Bytes) + Send>;

struct Prepared {
    launch: Launch,
    undo: Undo,
    _network: Joined,
}

impl Engine {
    /// Runs a step to its end. Cancelling kills it; so does dropping the future.
    pub async fn run_step(
        &self,
        step: Step,
        output: StepOutput,
        cancel: &CancellationToken,
    ) -> Result<StepExit> {
        let inner = self.inner().clone();
        let cancel = cancel.child_token();
        let _ends_when_dropped = cancel.clone().drop_guard();
        let worker = inner.clone();
        inner.finish(async move { worker.run_step(step, output, cancel).await }).await
    }
}

impl Inner {
    async fn run_step(
        self: &Arc<Self>,
        step: Step,
        output: StepOutput,
        cancel: CancellationToken,
    ) -> Result<StepExit> {
        let Prepared { launch, undo, _network } =
            self.blocking(move |inner| inner.prepare_step(step)).await?;
        let ran = self.launch_step(launch, output, cancel).await;
        // Releasing the network blocks.
        drop(tokio::task::spawn_blocking(move || drop((undo, _network))).await);
        ran
    }

    async fn launch_step(
        self: &Arc<Self>,
        launch: Launch,
        mut output: StepOutput,
        cancel: CancellationToken,
    ) -> Result<StepExit> {
        let (ours, theirs) = crate::attach::pair()?;
        let options = AttachOptions {
            stdin: false,
            stdout: true,
            stderr: true,
            detach_keys: Vec::new(),
            slow: Slow::Hold,
        };
        let dir = launch.dir.clone();
        let launched = self.launcher.launch(launch, vec![(options, theirs)]).await;
        let launched = launched.map_err(|e| match e {
            LaunchError::Fault(fault) => {
                EngineError::invalid(fault.message).with_exit_code(fault.kind.exit_code())
            }
            e => EngineError::system("the step could not be launched", e),
        })?;
        let keeper = launched.keeper;
        let mut frames = Frames::new(crate::attach::session(ours, false)?.output);
        let mut watch = launched.watch;
        let mut cancelled = false;
        // What it printed is read to its end before its exit counts.
        loop {
            tokio::select! {
                frame = frames.next() => match frame {
                    Some((stream, data)) => output(stream, data),
                    None => break,
                },
                () = cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    // It may have ended by itself just now.
                    drop(keeper.signal(9).await);
                }
            }
        }
        let exit = loop {
            tokio::select! {
                exit = end(&mut watch) => break exit,
                () = cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    drop(keeper.signal(9).await);
                }
            }
        };
        let exit = match exit {
            Ok(exit) => {
                // It only lets the keeper go a moment sooner.
                drop(keeper.acknowledge().await);
                exit
            }
            Err(_) => self.bury_step(dir).await?,
        };
        Ok(StepExit { code: exit.code, oom: exit.oom, cancelled })
    }

    async fn bury_step(self: &Arc<Self>, dir: PathBuf) -> Result<Exit> {
        let found = self.blocking(move |inner| {
            wharf_keeper::client::bury(&dir, &inner.clock)
                .map_err(|e| EngineError::system("end a step whose keeper was killed", e))
        });
        found.await?.ok_or_else(|| EngineError::conflict("the step's keeper was killed"))
    }

    /// Blocks: makes network and files, compiles the plan.
    fn prepare_step(self: &Arc<Self>, step: Step) -> Result<Prepared> {
        let record = self.step_record(&step)?;
        let mut undo = Undo::new();
        let (run_dir, dir) = (self.run_dir(&record.id), self.dir(&record.id));
        for made in [&run_dir, &dir] {
            wharf_base::fs::private_dir(made)
                .map_err(|e| EngineError::system(format!("create {}", made.display()), e))?;
            let made = made.clone();
            undo.push("remove the step's directory", move || drop(std::fs::remove_dir_all(made)));
        }
        let network = self.join_network(&record, &mut undo)?;
        let hostname = self.write_files(&record, &network)?;
        let mut mounts = step.mounts;
        for own in self.host_mounts(&record)? {
            if !mounts.iter().any(|m| m.destination == own.destination) {
                mounts.push(own);
            }
        }
        // The image store makes a layer durable; a step that a crash cuts short is run again.
        let (lowers, upper, work) = (step.lowers, step.upper, step.work);
        let root = Root::Overlay { lowers, upper, work, volatile: true };
        let furniture = Furniture { hostname: &hostname, root, user: &step.user, mounts: &mounts };
        let plan = self.plan_with(&record, &network, furniture)?;
        let log = LogConfig {
            format: LogFormat::None,
            path: PathBuf::new(),
            max_size: 0,
            max_files: 1,
            compress: false,
            attrs: Vec::new(),
            mode: LogMode::Blocking,
        };
        let id = record.id.to_string();
        let launch = Launch { id, plan, io: IoConfig::default(), log, dir: run_dir };
        Ok(Prepared { launch, undo, _network: network })
    }

    /// What a container's record would be, for the parts of the engine that start from one.
    fn step_record(&self, step: &Step) -> Result<Record> {
        let config = ContainerConfig {
            hostname: step.hostname.clone(),
            env: Some(step.env.clone()),
            cmd: Some(StrList(step.args.clone())),
            working_dir: step.cwd.clone(),
            ..ContainerConfig::default()
        };
        let host = HostConfig {
            network_mode: step.network.clone(),
            extra_hosts: Some(step.extra_hosts.clone()),
            resources: step.resources.clone(),
            shm_size: step.shm_size,
            privileged: step.privileged,
            ..HostConfig::default()
        };
        let mut request = CreateRequest { config, host_config: host, ..CreateRequest::default() };
        self.complete(&mut request);
        // Its warnings are about limits that the host does not have; the same command without build tells them.
        crate::validate::request(&request, &self.facts)?;
        let id = Id::random();
        let (name, created) = (format!("build-{}", id.short()), self.clock.unix_nanos());
        let CreateRequest { config, host_config: host, .. } = request;
        let mut record = Record {
            id,
            name,
            created,
            image: String::new(),
            config,
            host,
            networks: Map::new(),
            mounts: Vec::new(),
            links: Vec::new(),
        };
        let network = match record.network_mode() {
            NetworkMode::Named(network) => Some(network.to_owned()),
            NetworkMode::None => Some("none".to_owned()),
            NetworkMode::Host | NetworkMode::Container(_) => None,
        };
        record.networks.extend(network.map(|n| (n, EndpointSettings::default())));
        Ok(record)
    }
}

async fn end(watch: &mut Watch) -> Result<Exit, KeeperError> {
    watch.exit().await
}

/// Docker's frames out of a stream of bytes.
pub(crate) struct Frames {
    source: ByteStream,
    buffer: BytesMut,
}

impl Frames {
    pub(crate) fn new(source: ByteStream) -> Frames {
        Frames { source, buffer: BytesMut::new() }
    }

    /// The next frame; `None` at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            let bytes = self.source.next().await?.ok()?;
            self.buffer.extend_from_slice(&bytes);
        }
    }

    fn take(&mut self) -> Option<(u8, Bytes)> {
        let head: [u8; 8] = self.buffer.get(..8)?.try_into().ok()?;
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if self.buffer.len() < 8 + length {
            return None;
        }
        self.buffer.advance(8);
        Some((head[0], self.buffer.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_put_together_across_reads() {
        let pieces: [&[u8]; 3] =
            [&[1, 0, 0, 0, 0, 0, 0, 2, b'a'], &[b'b', 2, 0, 0, 0, 0, 0], &[0, 1, b'c']];
        let pieces: Vec<std::io::Result<Bytes>> =
            pieces.iter().map(|p| Ok(Bytes::copy_from_slice(p))).collect();
        let mut frames = Frames::new(futures_util::stream::iter(pieces).boxed());
        assert_eq!(frames.next().await.unwrap(), (1, Bytes::from_static(b"ab")));
        assert_eq!(frames.next().await.unwrap(), (2, Bytes::from_static(b"c")));
        assert!(frames.next().await.is_none());
    }
}
