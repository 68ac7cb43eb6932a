//! Programs a spec asks to be run at points of a container's life.

use std::ffi::CString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::{Hook, Spec};
use serde::{Deserialize, Serialize};
use wharf_sys::process::{self as sys_process, Ended, Fork};

use crate::failure::Failure;
use crate::plan::{PlanContext, PlanError, process};

/// The hooks of a container, and what they are told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HookPlan {
    pub(crate) prestart: Vec<Program>,
    pub(crate) create_runtime: Vec<Program>,
    pub(crate) create_container: Vec<Program>,
    pub(crate) start_container: Vec<Program>,
    pub(crate) poststart: Vec<Program>,
    pub(crate) poststop: Vec<Program>,
    version: String,
    id: String,
    bundle: PathBuf,
    annotations: Vec<(String, String)>,
}

/// One hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// `createRuntime hook #1`.
    name: String,
    path: CString,
    args: Vec<CString>,
    /// Without one it inherits the runtime's, as with runc.
    env: Option<Vec<CString>>,
    /// Seconds.
    timeout: Option<u32>,
}

impl HookPlan {
    pub(crate) fn compile(spec: &Spec, ctx: &PlanContext<'_>) -> Result<Option<Self>, PlanError> {
        let Some(hooks) = spec.hooks() else { return Ok(None) };
        let list = |kind: &str, hooks: &Option<Vec<Hook>>| -> Result<Vec<Program>, PlanError> {
            let named = (1..).zip(hooks.iter().flatten());
            named.map(|(n, hook)| Program::compile(format!("{kind} hook #{n}"), hook)).collect()
        };
        #[allow(deprecated, reason = "prestart is deprecated and still what old tools write")]
        let prestart = list("prestart", hooks.prestart())?;
        let mut start_container = list("startContainer", hooks.start_container())?;
        // These run where the program will, and have its environment where they have none.
        let env = spec.process().as_ref().map(process::environment).transpose()?;
        for hook in start_container.iter_mut().filter(|hook| hook.env.is_none()) {
            hook.env.clone_from(&env);
        }
        let mut annotations: Vec<(String, String)> =
            spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        annotations.sort();
        Ok(Some(Self {
            prestart,
            create_runtime: list("createRuntime", hooks.create_runtime())?,
            create_container: list("createContainer", hooks.create_container())?,
            start_container,
            poststart: list("poststart", hooks.poststart())?,
            poststop: list("poststop", hooks.poststop())?,
            version: spec.version().clone(),
            id: ctx.id.to_owned(),
            bundle: ctx.bundle.to_owned(),
            annotations,
        }))
    }

    /// Whether the container has to wait for hooks of the runtime before `pivot_root`.
    pub(crate) fn before_pivot(&self) -> bool {
        !(self.prestart.is_empty() && self.create_runtime.is_empty())
    }

    /// The state a hook reads from its input.
    pub(crate) fn state(&self, status: &str, pid: i32) -> String {
        let mut state = serde_json::json!({
            "ociVersion": self.version,
            "id": self.id,
            "status": status,
            "bundle": self.bundle,
        });
        if pid > 0 {
            state["pid"] = pid.into();
        }
        if !self.annotations.is_empty() {
            let map = self.annotations.iter().map(|(k, v)| (k.clone(), v.clone().into()));
            state["annotations"] = serde_json::Value::Object(map.collect());
        }
        state.to_string()
    }
}

impl Program {
    fn compile(name: String, hook: &Hook) -> Result<Self, PlanError> {
        let null = |_| PlanError::field("hooks", "holds a null byte");
        let text = |s: &String| CString::new(s.as_str()).map_err(null);
        if !hook.path().is_absolute() {
            let problem = format!("{} must be an absolute path", hook.path().display());
            return Err(PlanError::field("hooks.path", problem));
        }
        let path = CString::new(hook.path().as_os_str().as_encoded_bytes()).map_err(null)?;
        let mut args: Vec<CString> =
            hook.args().iter().flatten().map(text).collect::<Result<_, _>>()?;
        if args.is_empty() {
            args.push(path.clone());
        }
        let timeout = match hook.timeout() {
            None => None,
            Some(seconds) => {
                Some(u32::try_from(seconds).ok().filter(|&s| s > 0).ok_or_else(|| {
                    PlanError::field("hooks.timeout", "must be more than zero seconds")
                })?)
            }
        };
        Ok(Self {
            name,
            path,
            args,
            env: hook.env().as_ref().map(|env| env.iter().map(text).collect()).transpose()?,
            timeout,
        })
    }

    /// Runs the hook with the state on its input, and waits for it.
    pub(crate) fn run(&self, state: &str) -> Result<(), Failure> {
        let name = format!("{}: {}", self.name, self.path.to_string_lossy());
        let failed =
            |what: &str| Failure::Refused { what: format!("error running {name}: {what}") };
        let pidfd = self.spawn(state).map_err(|e| Failure::step(format!("run {name}"), &e))?;
        let limit =
            self.timeout.map_or(-1, |s| i32::try_from(s.saturating_mul(1000)).unwrap_or(i32::MAX));
        let ended = sys_process::poll_readable(&[pidfd.as_fd()], limit)
            .map_err(|e| Failure::step(format!("wait for {name}"), &e))?;
        if ended != [true] {
            // A kill that fails means the hook has just ended: the wait below sees it.
            drop(sys_process::pidfd_signal(pidfd.as_fd(), 9));
            drop(sys_process::wait(pidfd.as_fd()));
            return Err(failed(&format!("hook ran past specified timeout of {}s", limit / 1000)));
        }
        match sys_process::wait(pidfd.as_fd()) {
            Ok(Ended::Code(0)) => Ok(()),
            Ok(Ended::Code(code)) => Err(failed(&format!("exit status {code}"))),
            Ok(Ended::Signal(signal)) => Err(failed(&format!("signal {signal}"))),
            Err(e) => Err(Failure::step(format!("wait for {name}"), &e)),
        }
    }

    fn spawn(&self, state: &str) -> io::Result<OwnedFd> {
        let (reader, mut writer) = io::pipe()?;
        match sys_process::clone3(0, None)? {
            Fork::Child => {
                drop(writer);
                self.become_program(reader.into());
            }
            Fork::Parent { pidfd, .. } => {
                drop(reader);
                // A hook need not read its input: a broken pipe is its choice.
                match writer.write_all(state.as_bytes()) {
                    Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
                    _ => (),
                }
                Ok(pidfd)
            }
        }
    }

    fn become_program(&self, stdin: OwnedFd) -> ! {
        let attempt = || -> io::Result<()> {
            sys_process::become_stdio(&stdin, io::stdout().as_fd(), io::stderr().as_fd())?;
            sys_process::cloexec_from(3)?;
            sys_process::reset_signals();
            let inherited;
            let env = match &self.env {
                Some(env) => env,
                None => {
                    inherited = own_environment();
                    &inherited
                }
            };
            Err(sys_process::execve(&self.path, &self.args, env))
        };
        // The exit code is all a hook's parent looks at.
        drop(attempt());
        sys_process::exit_now(127)
    }
}

fn own_environment() -> Vec<CString> {
    let entry = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let text = [name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat();
        CString::new(text).ok()
    };
    std::env::vars_os().filter_map(entry).collect()
}

/// Runs hooks in order; the first failure stops.
pub(crate) fn run_all(hooks: &[Program], state: &str) -> Result<(), Failure> {
    hooks.iter().try_for_each(|hook| hook.run(state))
}
