//! `wharf oci`: the command line of runc.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

mod args;
mod document;
mod features;
mod foreground;
mod inspect;
mod lifecycle;
mod processes;
mod resources;
mod state;

use args::Args;

/// The version of the OCI runtime specification that is implemented.
pub const OCI_VERSION: &str = "1.2.1";

/// A command refused or failed, in the words that its user reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OciError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The container's state does not allow it.
    #[error("{0}")]
    State(String),
    /// A file could not be used.
    #[error("{doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    /// JSON of the wrong form.
    #[error("parse {}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Host(#[from] crate::host::HostError),
    #[error(transparent)]
    Plan(#[from] crate::plan::PlanError),
    #[error("unable to start container process")]
    Create(#[from] crate::create::CreateError),
    #[error("exec failed")]
    Start(#[from] crate::create::StartError),
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    /// `exec` failed, which has an exit code of its own.
    #[error(transparent)]
    Exec(Box<OciError>),
    #[error("{doing}")]
    Sys { doing: &'static str, source: std::io::Error },
}

pub(crate) fn file(
    doing: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(std::io::Error) -> OciError {
    move |source| OciError::File { doing, path: path.into(), source }
}

/// What a command that succeeded leaves to say.
pub(crate) type Outcome = Result<u8, OciError>;

/// Global flags, resolved.
#[derive(Debug, Default)]
pub(crate) struct Global {
    pub(crate) root: PathBuf,
    log: Option<PathBuf>,
    log_json: bool,
    debug: bool,
    /// Whether the root is the caller's choice.
    own_root: bool,
}

impl Global {
    /// A root that was named must be there; the usual one is made with the first container.
    pub(crate) fn check_root(&self) -> Result<(), OciError> {
        let there = std::fs::metadata(&self.root).map(drop);
        if self.own_root { there.map_err(file("open", &self.root)) } else { Ok(()) }
    }

    /// For who asks for `--debug`.
    pub(crate) fn debug(&self, text: &str) {
        if self.debug {
            self.log("debug", text);
        }
    }

    pub(crate) fn warn(&self, text: &str) {
        self.log("warning", text);
    }

    /// A line in runc's form, to the log file or else to standard error.
    fn log(&self, level: &str, text: &str) {
        match &self.log {
            Some(_) => self.append(level, text),
            None => drop(std::io::stderr().write_all(self.line(level, text).as_bytes())),
        }
    }

    fn append(&self, level: &str, text: &str) {
        let Some(path) = &self.log else { return };
        let opened = OpenOptions::new().create(true).append(true).open(path);
        // There is nobody else to tell.
        drop(opened.and_then(|mut log| log.write_all(self.line(level, text).as_bytes())));
    }

    fn line(&self, level: &str, text: &str) -> String {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        if self.log_json {
            let line = serde_json::json!({"level": level, "msg": text, "time": time.to_string()});
            format!("{line}\n")
        } else {
            format!("time=\"{time}\" level={level} msg={text:?}\n")
        }
    }
}

/// Runs one command of the OCI runtime; `args` begins after `wharf oci`.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let mut args = Args::new(args);
    let (global, outcome) = match global(&mut args) {
        Ok(global) => {
            let outcome = dispatch(&global, &mut args);
            (global, outcome)
        }
        Err(error) => (Global::default(), Err(error)),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let text = wharf_base::error::chain(&error).to_string();
            report(&global, &text);
            ExitCode::from(exit_code(&error))
        }
    }
}

/// `exec` and `run` report a program that cannot be run as a shell does; all else is 1, and 255
/// for `exec`, as runc has it.
fn exit_code(error: &OciError) -> u8 {
    use crate::create::StartError;
    match error {
        OciError::Start(StartError::Init(failure)) => match failure.exit_code() {
            125 => 255,
            code => code,
        },
        OciError::Exec(inner) => match exit_code(inner) {
            1 => 255,
            code => code,
        },
        _ => 1,
    }
}

fn global(args: &mut Args) -> Result<Global, OciError> {
    let mut out = Global { root: PathBuf::from("/run/wharf/oci"), ..Global::default() };
    while let Some(flag) = args.flag() {
        match flag.as_str() {
            "root" => {
                out.root = args.value(&flag)?.into();
                out.own_root = true;
            }
            "log" => out.log = Some(args.value(&flag)?.into()),
            "log-format" => match args.value(&flag)?.as_str() {
                "json" => out.log_json = true,
                "text" => out.log_json = false,
                other => return Err(OciError::Usage(format!("invalid log-format: {other}"))),
            },
            "debug" => out.debug = args.switch(&flag)?,
            "rootless" => drop(args.value(&flag)?),
            "systemd-cgroup" => {
                if args.switch(&flag)? {
                    let problem =
                        "--systemd-cgroup: wharf has no systemd cgroup driver: use cgroupfs";
                    return Err(OciError::Usage(problem.into()));
                }
            }
            "version" | "v" => {
                args.version = true;
                break;
            }
            "help" | "h" => {
                args.help = true;
                break;
            }
            other => {
                return Err(OciError::Usage(format!("flag provided but not defined: -{other}")));
            }
        }
    }
    Ok(out)
}

const HELP: &str = "wharf oci [global flags] COMMAND [flags] [arguments]

commands: create start run state kill delete exec ps pause resume update events list features spec
global flags: --root DIR --log FILE --log-format text|json --debug --systemd-cgroup=false
";

fn dispatch(global: &Global, args: &mut Args) -> Outcome {
    if args.version {
        let version = env!("CARGO_PKG_VERSION");
        return print(&format!("wharf oci version {version}\nspec: {OCI_VERSION}\n"));
    }
    let command = if args.help { None } else { args.word() };
    let Some(command) = command.filter(|_| !args.asks_for_help()) else { return print(HELP) };
    // What follows the id of these is no flag of ours.
    args.mixed = !matches!(command.as_str(), "exec" | "ps" | "kill");
    match command.as_str() {
        "create" => lifecycle::create(global, args),
        "start" => lifecycle::start(global, args),
        "run" => lifecycle::run(global, args),
        "kill" => lifecycle::kill(global, args),
        "delete" => lifecycle::delete(global, args),
        "exec" => processes::exec(global, args).map_err(|e| OciError::Exec(Box::new(e))),
        "ps" => processes::ps(global, args),
        "state" => inspect::state(global, args),
        "list" => inspect::list(global, args),
        "events" => inspect::events(global, args),
        "pause" => lifecycle::pause(global, args),
        "resume" => lifecycle::resume(global, args),
        "update" => resources::update(global, args),
        "features" => features::features(),
        "spec" => features::spec(args),
        "help" => print(HELP),
        "checkpoint" | "restore" => {
            Err(OciError::Usage(format!("{command}: not supported by wharf")))
        }
        other => Err(OciError::Usage(format!("No help topic for '{other}'"))),
    }
}

/// Prints what a command was asked for.
pub(crate) fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| OciError::Sys { doing: "write to standard output", source })?;
    Ok(0)
}

/// To the log file, where podman and containerd look for the last error, and to standard error.
fn report(global: &Global, text: &str) {
    global.append("error", text);
    drop(writeln!(std::io::stderr(), "wharf oci: {text}"));
}
