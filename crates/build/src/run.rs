//! `RUN`: its mounts, its key, its process, and the layer that it leaves.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio_util::task::AbortOnDropHandle;
use wharf_base::fs::{Durability, write_atomic};
use wharf_engine::mount::Access;
use wharf_engine::spec::mounts::{HostMount, Source, layer_options};
use wharf_engine::step::{Step, StepExit};
use wharf_image::{Layer, Lease};
use wharf_spec::digest::Digest;
use wharf_spec::dockerfile::instruction::Run;
use wharf_spec::dockerfile::{Command, Mount, MountType};
use wharf_sys::root::{Kind, Root};

use crate::base::{Files, Opened};
use crate::context::Want;
use crate::copy::blocking;
use crate::error::BuildError;
use crate::files::{self, Attributes, Select};
use crate::job::{Job, Place};
use crate::layers::{self, Found};
use crate::mounts::{CacheMount, Wanted};
use crate::progress::{Event, Output};
use crate::request::NetworkMode;
use crate::scratch::Scratch;
use crate::state::{PROXIES, State, absolute};

/// Where a script that is a heredoc appears.
const SCRIPTS: &str = "/dev/pipes";
/// What a container of wharf always has mounted, so that it must be there.
const STANDARD_DIRS: &[&str] = &["/proc", "/sys", "/dev"];
const STANDARD_FILES: &[&str] = &["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// A mount whose source is settled.
#[derive(Default)]
struct Settled {
    mounts: Vec<HostMount>,
    /// What the key says of them.
    key: Vec<Value>,
    /// Variables that they bring, secret or not, and never part of the key.
    env: Vec<(String, String)>,
    /// What must live as long as the step.
    held: Vec<Box<dyn Send + Sync>>,
    agents: usize,
}

/// A program to run, settled.
struct Program {
    args: Vec<String>,
    env: Vec<String>,
    secret_env: Vec<String>,
    cwd: String,
    user: String,
    network: NetworkMode,
    insecure: bool,
}

impl Job {
    /// Carries out RUN; true if it was cached.
    pub(crate) async fn run_step(
        self: &Arc<Self>,
        state: &mut State,
        place: &Place<'_>,
        run: &Run,
    ) -> Result<bool, BuildError> {
        let scratch = Arc::new(Scratch::later(self.builder.store()));
        let mut settled = Settled::default();
        let args = self.arguments(state, run, &scratch, &mut settled)?;
        for mount in &run.mounts {
            let mount = self.expanded(state, place, mount)?;
            self.settle(state, place, &mount, &scratch, &mut settled).await?;
        }
        let program = self.program(state, run, args, &settled)?;
        self.refuse_foreign(state)?;
        let key = self.run_key(state, &program, &settled);
        let shown = shown_command(state, &program.args);
        let work = self.perform(state.clone(), place, program, settled, scratch);
        let done = Box::pin(self.keyed(state, place.keyed(key), work)).await?;
        state.log(&done.created, format!("RUN {shown} # buildkit"), !done.made);
        Ok(done.cached)
    }

    /// The command line, with its documents where they belong.
    fn arguments(
        &self,
        state: &State,
        run: &Run,
        scratch: &Scratch,
        settled: &mut Settled,
    ) -> Result<Vec<String>, BuildError> {
        let text = match &run.command {
            Command::Shell(text) if !run.heredocs.is_empty() => text,
            command => return Ok(state.arguments(command)),
        };
        if let [document] = &run.heredocs[..]
            && text.trim_start().starts_with("<<")
            && !text.trim().contains(char::is_whitespace)
        {
            if !document.content.starts_with("#!") {
                return Ok(state.arguments(&Command::Shell(document.content.clone())));
            }
            // Its first line names its interpreter: it becomes a program.
            scratch.make()?;
            let dir = scratch.sub("scripts");
            let failed = || BuildError::io("write a script of a heredoc");
            fs::create_dir_all(&dir).map_err(failed())?;
            let file = dir.join(&document.name);
            write_atomic(&file, document.content.as_bytes(), 0o755, Durability::Process)
                .map_err(failed())?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).map_err(failed())?;
            settled.mounts.push(bind(SCRIPTS, &dir, Access::Read));
            settled.key.push(json!(["script", document.content]));
            return Ok(vec![format!("{SCRIPTS}/{}", document.name)]);
        }
        // The shell understands them itself.
        let mut whole = text.clone();
        for document in &run.heredocs {
            whole.push_str(&format!("\n{}{}", document.content, document.name));
        }
        Ok(state.arguments(&Command::Shell(whole)))
    }

    pub(crate) fn expanded(
        &self,
        state: &State,
        place: &Place<'_>,
        mount: &Mount,
    ) -> Result<Mount, BuildError> {
        let word =
            |text: &Option<String>| text.as_deref().map(|t| self.word(state, place, t)).transpose();
        Ok(Mount {
            target: word(&mount.target)?,
            source: word(&mount.source)?,
            from: word(&mount.from)?,
            id: word(&mount.id)?,
            ..mount.clone()
        })
    }

    async fn settle(
        self: &Arc<Self>,
        state: &State,
        place: &Place<'_>,
        mount: &Mount,
        scratch: &Arc<Scratch>,
        out: &mut Settled,
    ) -> Result<(), BuildError> {
        let target = mount.target.as_deref().map(|t| absolute(&state.run.working_dir, t));
        match mount.kind {
            MountType::Bind => {
                let target = target.unwrap_or_else(|| "/".into());
                self.bind_mount(place, mount, &target, scratch, out).await
            }
            MountType::Cache => {
                let target = target.unwrap_or_else(|| "/".into());
                self.cache_mount(place, mount, &target, out).await
            }
            MountType::Tmpfs => {
                let target = target.unwrap_or_else(|| "/".into());
                let mut options = vec!["nosuid".to_owned(), "nodev".into()];
                options.extend(mount.size.map(|n| format!("size={n}")));
                out.key.push(json!(["tmpfs", target, mount.size]));
                out.mounts.push(HostMount {
                    destination: target,
                    source: Source::Tmpfs(options),
                    access: Access::Write,
                    propagation: String::new(),
                });
                Ok(())
            }
            MountType::Secret => self.secret_mount(mount, target, out).await,
            MountType::Ssh => self.ssh_mount(mount, target, out).await,
        }
    }

    async fn bind_mount(
        self: &Arc<Self>,
        place: &Place<'_>,
        mount: &Mount,
        target: &str,
        scratch: &Arc<Scratch>,
        out: &mut Settled,
    ) -> Result<(), BuildError> {
        if target == "/" {
            return Err(BuildError::Invalid(format!(
                "invalid mount target {target:?}: the root itself cannot be mounted over"
            )));
        }
        let source = mount.source.clone().unwrap_or_else(|| "/".into());
        let files = match &mount.from {
            None => Files::Context(self.context(vec![source.clone()]).await?),
            Some(from) => {
                let want = Want {
                    include: vec![source.clone()],
                    follow: vec![source.clone()],
                    exclude: Vec::new(),
                };
                self.source(place.stage, from, &want).await?
            }
        };
        let own_context = mount.from.is_none();
        scratch.make()?;
        let (job, name) = (self.clone(), source.clone());
        let copy_to = scratch.sub(&format!("bind-{}", out.mounts.len()));
        let found = blocking(move || job.find_source(&files, &name, own_context, &copy_to)).await?;
        let (digest, parts, held) = found;
        let writable = mount.read_only == Some(false);
        out.key.push(json!(["bind", target, digest, writable]));
        let hidden = scratch.sub(&format!("rw-{}", out.mounts.len()));
        out.mounts.push(shown(target, parts, writable, &hidden)?);
        out.held.push(held);
        Ok(())
    }

    /// The content digest of what a bind mount shows, and where it is. Blocks.
    fn find_source(
        &self,
        files: &Files,
        source: &str,
        own_context: bool,
        copy_to: &Path,
    ) -> Result<(Digest, Found, Box<dyn Send + Sync>), BuildError> {
        let opened = self.open(files)?;
        let root = opened.root();
        let select = match own_context {
            true => Select { ignore: self.ignore.clone(), ..Select::default() },
            false => Select::default(),
        };
        let selection = files::select(root, source, &select)?;
        let owner = matches!(opened, Opened::Tree(_)).then_some((0, 0));
        let attributes = Attributes { owner, mode: None };
        let digest = files::digest_of(root, &selection, &attributes)?;
        let failed = || BuildError::io(format!("find {source} to mount it"));
        let path = layers::resolve(root, Path::new(source)).map_err(failed())?;
        let found = match (files, &opened) {
            (Files::Stage(state), _) => {
                let lowers = self.builder.store().layer_dirs(&state.layers);
                layers::find(&lowers, &path).map_err(failed())?
            }
            (Files::Context(tree), _) if self.ignore.is_empty() || !own_context => {
                layers::find(&[tree.path().to_owned()], &path).map_err(failed())?
            }
            // What .dockerignore leaves out must not be seen: the rest is put together.
            (Files::Context(_), opened) => {
                fs::create_dir(copy_to).map_err(failed())?;
                fs::set_permissions(copy_to, fs::Permissions::from_mode(0o755)).map_err(failed())?;
                let to = Root::open(copy_to).map_err(failed())?;
                let file = selection.iter().any(|s| s.single_file);
                for s in &selection {
                    let target = files::Target { root: &to, dest: "/".into(), is_dir: true };
                    files::copy(opened.root(), s, &target, &attributes)?;
                }
                let name = files::base_name(source).filter(|_| file);
                Some(match name {
                    Some(name) => Found::File(copy_to.join(name)),
                    None => Found::Dir(vec![copy_to.to_owned()]),
                })
            }
        };
        let found = found.ok_or_else(|| {
            BuildError::NotFound(format!("failed to calculate checksum of {source:?}: not found"))
        })?;
        let held: Box<dyn Send + Sync> = match files {
            Files::Context(tree) => Box::new(tree.clone()),
            Files::Stage(state) => Box::new(state.leases.clone()),
        };
        Ok((digest, found, held))
    }

    async fn cache_mount(
        self: &Arc<Self>,
        place: &Place<'_>,
        mount: &Mount,
        target: &str,
        out: &mut Settled,
    ) -> Result<(), BuildError> {
        if target == "/" {
            return Err(BuildError::Invalid("invalid mount target \"/\" for a cache".into()));
        }
        let id = mount.id.clone().unwrap_or_else(|| target.to_owned());
        let wanted = Wanted {
            id: format!("{}{id}", self.request.cache_namespace),
            sharing: mount.sharing,
            mode: mount.mode.unwrap_or(0o755),
            owner: (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0)),
        };
        if mount.from.is_none() && mount.source.is_some() {
            return Err(BuildError::Invalid(
                "source of a cache mount needs from: a cache begins empty otherwise".into(),
            ));
        }
        self.uses_mount(&wanted);
        let seed: Option<(Files, String)> = match &mount.from {
            None if self.builder.cache().mounts.has(&wanted.id) => None,
            None => {
                let imported = self.imported_mount(&wanted.id).await;
                imported.map(|state| (Files::Stage(state), "/".to_owned()))
            }
            Some(from) => {
                let source = mount.source.clone().unwrap_or_else(|| "/".into());
                let want = Want {
                    include: vec![source.clone()],
                    follow: vec![source.clone()],
                    exclude: Vec::new(),
                };
                Some((self.source(place.stage, from, &want).await?, source))
            }
        };
        let job = self.clone();
        let taken = self.builder.cache().mounts.take(&wanted, move |root| {
            let Some((files, source)) = seed else { return Ok(()) };
            let opened = job.open(&files)?;
            for s in files::select(opened.root(), &source, &Select::default())? {
                let target = files::Target { root, dest: "/".into(), is_dir: true };
                files::copy(opened.root(), &s, &target, &Attributes::default())?;
            }
            Ok(())
        });
        let taken: CacheMount = taken.await?;
        let access = if mount.read_only == Some(true) { Access::Read } else { Access::Write };
        out.key.push(json!(["cache", target, id]));
        out.mounts.push(bind(target, &taken.path, access));
        out.held.push(Box::new(taken));
        Ok(())
    }

    async fn secret_mount(
        &self,
        mount: &Mount,
        target: Option<String>,
        out: &mut Settled,
    ) -> Result<(), BuildError> {
        let from_target =
            || files::base_name(target.as_deref()?).map(|n| n.to_string_lossy().into_owned());
        let id =
            mount.id.clone().or_else(from_target).or_else(|| mount.env.clone()).unwrap_or_default();
        out.key.push(json!(["secret", id, target, mount.env]));
        let secret = self.inputs.secrets.secret(&id).await.map_err(BuildError::Client)?;
        let Some(secret) = secret else {
            return match mount.required {
                true => Err(BuildError::NotFound(format!("secret {id}: not found"))),
                false => Ok(()),
            };
        };
        if let Some(name) = &mount.env {
            let value = String::from_utf8(secret.clone()).map_err(|_| {
                BuildError::Invalid(format!(
                    "secret {id} is not text and cannot be the variable {name}"
                ))
            })?;
            out.env.push((name.clone(), value));
            if target.is_none() {
                return Ok(());
            }
        }
        let dir = self.builder.private_dir()?;
        let path = dir.path().join("secret");
        let failed = || BuildError::io(format!("write secret {id}"));
        write_atomic(&path, &secret, 0o400, Durability::Process).map_err(failed())?;
        own(&path, mount, 0o400).map_err(failed())?;
        let target = target.unwrap_or_else(|| format!("/run/secrets/{id}"));
        out.mounts.push(bind(&target, &path, Access::Read));
        out.held.push(Box::new(dir));
        Ok(())
    }

    async fn ssh_mount(
        &self,
        mount: &Mount,
        target: Option<String>,
        out: &mut Settled,
    ) -> Result<(), BuildError> {
        let id = mount.id.clone().unwrap_or_else(|| "default".into());
        let target = target.unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{}", out.agents));
        out.key.push(json!(["ssh", id, target]));
        if !self.inputs.ssh.has(&id).await.map_err(BuildError::Client)? {
            return match mount.required {
                true => Err(BuildError::NotFound(format!(
                    "ssh agent {id}: not forwarded; build with --ssh {id}"
                ))),
                false => Ok(()),
            };
        }
        let dir = self.builder.private_dir()?;
        let path = dir.path().join("agent");
        let failed = || BuildError::io(format!("listen for ssh agent {id}"));
        let listener = UnixListener::bind(&path).map_err(failed())?;
        own(&path, mount, 0o600).map_err(failed())?;
        let ssh = self.inputs.ssh.clone();
        let served = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (ssh, id) = (ssh.clone(), id.clone());
                connections.spawn(async move {
                    if let Err(error) = ssh.serve(&id, stream).await {
                        tracing::debug!(id, error, "connection to a forwarded ssh agent ended");
                    }
                });
            }
        });
        if out.agents == 0 {
            out.env.push(("SSH_AUTH_SOCK".into(), target.clone()));
        }
        out.agents += 1;
        out.mounts.push(bind(&target, &path, Access::Write));
        out.held.push(Box::new((AbortOnDropHandle::new(served), dir)));
        Ok(())
    }

    fn program(
        &self,
        state: &State,
        run: &Run,
        args: Vec<String>,
        settled: &Settled,
    ) -> Result<Program, BuildError> {
        let network = match run.network.as_deref() {
            None | Some("default") => self.request.network.clone(),
            Some("none") => NetworkMode::None,
            Some(_)
                if self.request.allow.network_host || self.request.network == NetworkMode::Host =>
            {
                NetworkMode::Host
            }
            Some(_) => {
                return Err(BuildError::Invalid(
                    "network.host is not allowed: build with --allow network.host".into(),
                ));
            }
        };
        let insecure = run.security.as_deref() == Some("insecure");
        if insecure && !self.request.allow.security_insecure {
            return Err(BuildError::Invalid(
                "security.insecure is not allowed: build with --allow security.insecure".into(),
            ));
        }
        let mut env = state.run.env.clone();
        env.extend(state.visible_args().into_iter().map(|(k, v)| format!("{k}={v}")));
        let mut secret_env: Vec<String> =
            PROXIES.iter().filter_map(|p| Some(format!("{p}={}", self.proxy(p)?))).collect();
        secret_env.extend(settled.env.iter().map(|(k, v)| format!("{k}={v}")));
        Ok(Program {
            args,
            env,
            secret_env,
            cwd: state.cwd(),
            user: state.run.user.clone(),
            network,
            insecure,
        })
    }

    /// A proxy that the client names, in whichever case: programs look for it in either.
    fn proxy(&self, name: &str) -> Option<&String> {
        let given = self.request.args.iter().find(|(k, _)| k.eq_ignore_ascii_case(name));
        self.request.args.get(name).or(given.map(|(_, value)| value))
    }

    /// Everything that the result depends on, as far as it can be known.
    fn run_key(&self, state: &State, program: &Program, settled: &Settled) -> Digest {
        let r = &self.request;
        // One door says none by an empty list, another by nothing: builds share steps whatever door they came by.
        let ulimits = r.resources.ulimits.as_ref().filter(|u| !u.is_empty());
        let key = json!({
            "run": program.args, "env": program.env, "cwd": program.cwd, "user": program.user,
            "network": format!("{:?}", program.network), "insecure": program.insecure,
            "mounts": settled.key, "parent": state.chain(), "epoch": self.epoch,
            "hosts": r.extra_hosts, "hostname": r.hostname,
            "ulimits": ulimits.map(|u| format!("{u:?}")), "shm": r.shm_size,
        });
        Digest::sha256(key.to_string().as_bytes())
    }

    /// Programs of another architecture run only where the kernel knows an interpreter for them.
    fn refuse_foreign(&self, state: &State) -> Result<(), BuildError> {
        let (host, wanted) = (wharf_spec::platform::Platform::host(), state.config.platform());
        if wanted.architecture.is_empty() || host.distance(&wanted).is_some() {
            return Ok(());
        }
        let interpreter = match wanted.architecture.as_str() {
            "arm64" => "aarch64",
            "amd64" => "x86_64",
            "386" => "i386",
            other => other,
        };
        let handler = format!("/proc/sys/fs/binfmt_misc/qemu-{interpreter}");
        match fs::read_to_string(handler).is_ok_and(|text| text.starts_with("enabled")) {
            true => Ok(()),
            false => Err(BuildError::Unsupported(format!(
                "RUN cannot run {wanted} programs on this {host} host: it has no binfmt_misc handler for them; \
                 install qemu-user-static, or build that platform on a host of its own"
            ))),
        }
    }

    async fn perform(
        self: &Arc<Self>,
        state: State,
        place: &Place<'_>,
        program: Program,
        settled: Settled,
        scratch: Arc<Scratch>,
    ) -> Result<Option<(Layer, Lease)>, BuildError> {
        let _slot = self.builder.slot().await;
        let shown = program.args.join(" ");
        let (job, settled) = (self.clone(), Arc::new(settled));
        let step = {
            let (job, settled, scratch, state) =
                (job.clone(), settled.clone(), scratch.clone(), state.clone());
            blocking(move || job.step(&state, program, &settled, &scratch)).await?
        };
        let (step, made) = step;
        let program = step.args.clone();
        let (vertex, tell) = (place.vertex.digest.clone(), self.sender());
        let output = Box::new(move |stream: u8, data| {
            let output = if stream == 2 { Output::Stderr } else { Output::Stdout };
            let log = Event::Log { vertex: vertex.clone(), output, data, at: SystemTime::now() };
            // Nobody listens any more: the step is cancelled with the build.
            let _gone = tell.send(log);
        });
        let exit = Box::pin(self.builder.engine().run_step(step, output, &self.cancel)).await;
        let exit = match exit {
            Ok(exit) => exit,
            Err(e) => {
                let hint = self.why(&state, &program);
                let message = format!("{}{hint}", e.message());
                return Err(BuildError::Invalid(message));
            }
        };
        match exit {
            StepExit { cancelled: true, .. } => return Err(BuildError::Cancelled),
            StepExit { code: 0, .. } => {}
            StepExit { code, oom, .. } => {
                let hint = if oom { ": the kernel killed it for want of memory" } else { "" };
                return Err(BuildError::Exit { command: shown, code, hint: hint.into() });
            }
        }
        let store = self.builder.store().clone();
        let epoch = self.epoch;
        let keep = settled.clone();
        blocking(move || {
            drop(keep);
            remove_stubs(scratch.upper(), &made);
            Ok(store.add_upper(&state.layers, scratch.upper(), epoch)?)
        })
        .await
    }

    /// Why a program could not be started, if its file tells.
    fn why(&self, state: &State, args: &[String]) -> String {
        use std::io::Read as _;
        let Ok(root) = layers::merged(self.builder.store(), &state.layers) else {
            return String::new();
        };
        let exists = |path: &str| root.stat(Path::new(path)).is_ok();
        let config = wharf_spec::docker::ContainerConfig {
            env: Some(state.run.env.clone()),
            working_dir: state.cwd(),
            ..Default::default()
        };
        let program = args.first().map(String::as_str).unwrap_or_default();
        let found =
            wharf_engine::preflight::candidates(program, &config).into_iter().find(|p| exists(p));
        let hint = found.and_then(|path| {
            let mut head = Vec::new();
            root.read(Path::new(&path)).ok()?.take(4096).read_to_end(&mut head).ok()?;
            wharf_engine::preflight::diagnose(&path, &head, &exists)
        });
        hint.map(|h| format!(" ({h})")).unwrap_or_default()
    }

    /// The step for the engine, and the mount points that had to be made. Blocks.
    fn step(
        &self,
        state: &State,
        program: Program,
        settled: &Settled,
        scratch: &Scratch,
    ) -> Result<(Step, Vec<Stub>), BuildError> {
        let root = layers::merged(self.builder.store(), &state.layers)?;
        let user = layers::user(&root, &program.user)?;
        let stubs = stubs(&root, &settled.mounts)?;
        scratch.make()?;
        let bottom = scratch.sub("stubs");
        make_stubs(&bottom, &stubs).map_err(BuildError::io("make mount points"))?;
        let mut lowers = self.builder.store().layer_dirs(&state.layers);
        lowers.push(bottom);
        make_workdir(&root, scratch, self.builder.store(), state, &program.cwd)?;
        let r = &self.request;
        let mut env = program.env;
        env.extend(program.secret_env);
        let hostname = if r.hostname.is_empty() { "buildkitsandbox" } else { r.hostname.as_str() };
        Ok((
            Step {
                lowers,
                upper: scratch.upper().to_owned(),
                work: scratch.work()?.to_owned(),
                args: program.args,
                env,
                cwd: program.cwd,
                user,
                hostname: hostname.to_owned(),
                network: match program.network {
                    NetworkMode::Default => "bridge".into(),
                    NetworkMode::None => "none".into(),
                    NetworkMode::Host => "host".into(),
                    NetworkMode::Named(name) => name,
                },
                extra_hosts: r.extra_hosts.clone(),
                resources: r.resources.clone(),
                shm_size: r.shm_size,
                privileged: program.insecure,
                mounts: settled.mounts.clone(),
            },
            stubs,
        ))
    }
}

/// A mount point that the stage does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stub {
    path: PathBuf,
    dir: bool,
}

/// The mount points that are missing, at the places that their paths lead to. They are put under all other layers,
/// where they are seen and leave no trace in the new one.
fn stubs(root: &Root, mounts: &[HostMount]) -> Result<Vec<Stub>, BuildError> {
    let standard = STANDARD_DIRS.iter().map(|d| (PathBuf::from(d), true));
    let files = STANDARD_FILES.iter().map(|f| (PathBuf::from(f), false));
    let own = mounts.iter().map(|m| {
        let dir = match &m.source {
            Source::Path { path, .. } => path.is_dir(),
            _ => true,
        };
        (PathBuf::from(&m.destination), dir)
    });
    let mut out = Vec::new();
    for (path, dir) in standard.chain(files).chain(own) {
        if root.stat(&path).is_ok() || path.starts_with("/dev/") || path.starts_with("/proc/") {
            continue;
        }
        let path = layers::resolve(root, &path)
            .map_err(BuildError::io(format!("find the mount point {}", path.display())))?;
        out.push(Stub { path, dir });
    }
    Ok(out)
}

fn make_stubs(bottom: &Path, stubs: &[Stub]) -> std::io::Result<()> {
    fs::create_dir_all(bottom)?;
    let root = Root::open(bottom)?;
    for stub in stubs {
        if stub.dir {
            root.make_dirs(&stub.path, 0o755)?;
            continue;
        }
        let parent = root.make_dirs(stub.path.parent().unwrap_or(Path::new("/")), 0o755)?;
        if let Some(name) = stub.path.file_name() {
            // Two mounts may have one target.
            match parent.create(name, 0o644) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Where a layer hides what is below it, the runtime made the mount point in the new layer: it goes if nothing is in it.
fn remove_stubs(upper: &Path, stubs: &[Stub]) {
    let Ok(root) = Root::open(upper) else { return };
    for stub in stubs.iter().rev() {
        let Some(parent) = stub.path.parent() else { continue };
        let Ok(dir) = root.dir_without_symlinks(parent.strip_prefix("/").unwrap_or(parent)) else {
            continue;
        };
        let Some(name) = stub.path.file_name() else { continue };
        let empty = dir.lstat(name).is_ok_and(|m| m.kind == Kind::File && m.size == 0);
        if stub.dir {
            // Refused by the kernel if something is in it.
            drop(dir.remove_dir(name));
        } else if empty {
            drop(dir.unlink(name));
        }
    }
}

/// A working directory of the base image that is not there is made, as docker does.
fn make_workdir(
    root: &Root,
    scratch: &Scratch,
    store: &wharf_image::ImageStore,
    state: &State,
    cwd: &str,
) -> Result<(), BuildError> {
    if root.stat(Path::new(cwd)).is_ok() {
        return Ok(());
    }
    files::make_dirs(&scratch.mount(store, &state.layers)?, Path::new(cwd), (0, 0))
}

/// A mount of a directory, or file, of one or several layers.
fn shown(
    target: &str,
    found: Found,
    writable: bool,
    hidden: &Path,
) -> Result<HostMount, BuildError> {
    let source = match found {
        Found::File(path) => {
            let access = if writable { Access::Write } else { Access::Read };
            if writable {
                return Err(BuildError::Unsupported(format!(
                    "the file mounted at {target} cannot be written: mount its directory with rw, or copy it"
                )));
            }
            return Ok(bind(target, &path, access));
        }
        Found::Dir(parts) if !writable => match &parts[..] {
            [one] => return Ok(bind(target, one, Access::Read)),
            _ => Source::Layers(parts),
        },
        // What is written goes with the step.
        Found::Dir(parts) => {
            let (upper, work) = (hidden.join("upper"), hidden.join("work"));
            for dir in [hidden, &upper, &work] {
                fs::create_dir_all(dir)
                    .map_err(BuildError::io("make room for writes to a mount"))?;
            }
            let mut options = layer_options(&parts);
            options.push(format!("upperdir={}", upper.display()));
            options.push(format!("workdir={}", work.display()));
            Source::FileSystem { kind: "overlay".into(), device: "overlay".into(), options }
        }
    };
    let access = if writable { Access::Write } else { Access::Read };
    Ok(HostMount { destination: target.to_owned(), source, access, propagation: String::new() })
}

fn bind(target: &str, path: &Path, access: Access) -> HostMount {
    HostMount {
        destination: target.to_owned(),
        source: Source::Path { path: path.to_owned(), recursive: false },
        access,
        propagation: String::new(),
    }
}

fn own(path: &Path, mount: &Mount, mode: u32) -> std::io::Result<()> {
    std::os::unix::fs::chown(path, Some(mount.uid.unwrap_or(0)), Some(mount.gid.unwrap_or(0)))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mount.mode.unwrap_or(mode)))
}

/// As the history shows it: the arguments in effect in front of the command.
fn shown_command(state: &State, args: &[String]) -> String {
    let values: BTreeMap<String, String> = state.visible_args().into_iter().collect();
    let command = args.join(" ");
    if values.is_empty() {
        return command;
    }
    let list: Vec<String> = values.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("|{} {} {command}", list.len(), list.join(" "))
}
