//! Instructions as they are written: values keep their variables.

use super::{Mount, Span};

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// What it says.
    pub kind: Kind,
    /// Its first word, as written.
    pub keyword: String,
    /// All of it, continuation lines joined, without heredocs.
    pub text: String,
    /// Where it is.
    pub span: Span,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `ARG`
    Arg(Vec<super::ArgDecl>),
    /// `ENV`
    Env(Pairs),
    /// `LABEL`
    Label(Pairs),
    /// `MAINTAINER`
    Maintainer(String),
    /// `RUN`
    Run(Run),
    /// `COPY` and `ADD`
    Copy(Box<Copy>),
    /// `WORKDIR`
    Workdir(String),
    /// `USER`
    User(String),
    /// `VOLUME`
    Volume(Vec<String>),
    /// `EXPOSE`
    Expose(Vec<String>),
    /// `CMD`
    Cmd(Command),
    /// `ENTRYPOINT`
    Entrypoint(Command),
    /// `SHELL`
    Shell(Vec<String>),
    /// `STOPSIGNAL`
    StopSignal(String),
    /// `HEALTHCHECK`
    Healthcheck(Health),
    /// `ONBUILD`, with the instruction as text: it is read by the build that uses the image.
    Onbuild(String),
}

/// Names and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// In the order of the text.
    pub pairs: Vec<(String, String)>,
    /// The old form `NAME the rest`, without `=`.
    pub legacy: bool,
}

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `["program", "argument"]`
    Exec(Vec<String>),
    /// A line for the shell.
    Shell(String),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What runs.
    pub command: Command,
    /// Documents that the command line announces.
    pub heredocs: Vec<HereFile>,
    /// `--mount`
    pub mounts: Vec<Mount>,
    /// `--network`
    pub network: Option<String>,
    /// `--security`
    pub security: Option<String>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HereFile {
    /// Its delimiter, which names the file that is made of it.
    pub name: String,
    /// As written, tabs removed where `<<-` asks for it.
    pub content: String,
    /// Whether variables in it are expanded.
    pub expand: bool,
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path, pattern or address.
    Path(String),
    /// A here-document.
    Here(HereFile),
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copy {
    /// It is `ADD`: archives are unpacked, addresses fetched.
    pub is_add: bool,
    /// What.
    pub sources: Vec<Source>,
    /// Where to.
    pub dest: String,
    /// `--from`
    pub from: Option<String>,
    /// `--chown`
    pub chown: Option<String>,
    /// `--chmod`
    pub chmod: Option<String>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`
    pub exclude: Vec<String>,
    /// `--checksum`
    pub checksum: Option<String>,
    /// `--keep-git-dir`
    pub keep_git_dir: bool,
    /// `--unpack`; `None` leaves it to what the source is.
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`; durations in nanoseconds, 0 is the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// `NONE`
    None,
    /// A check.
    Check {
        /// What runs.
        command: Command,
        /// `--interval`
        interval: i64,
        /// `--timeout`
        timeout: i64,
        /// `--start-period`
        start_period: i64,
        /// `--start-interval`
        start_interval: i64,
        /// `--retries`
        retries: i64,
    },
}
