//! From arguments to a verb: global flags, finding the verb, running it, reporting failure.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::OnceLock;

use crate::api::Client;
use crate::cmdline::near::near;
use crate::cmdline::parse::{self, Given};
use crate::cmdline::{Verb, help, tree};
use crate::conf::{Config, context};
use crate::failure::Failure;

/// The name that messages use: `docker` when called so, else `wharf`.
pub fn prog() -> &'static str {
    PROG.get().map_or("wharf", |name| name)
}

static PROG: OnceLock<&'static str> = OnceLock::new();

/// What all verbs share: global flags, configuration, the client.
pub struct Session {
    /// The global flags.
    pub globals: Given,
    config: OnceCell<Config>,
    client: OnceCell<Client>,
}

impl Session {
    fn new(globals: Given) -> Self {
        Self { globals, config: OnceCell::new(), client: OnceCell::new() }
    }

    /// The configuration, read when first asked for.
    pub fn config(&self) -> &Config {
        self.config.get_or_init(|| Config::load(self.globals.last("config")))
    }

    /// The client, made when first asked for. It connects with its first request.
    pub fn client(&self) -> Result<&Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = context::client(self)?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// One call of a verb.
#[derive(Clone)]
pub struct Call {
    /// The verb.
    pub verb: &'static Verb,
    /// How it was called, such as `container ls`.
    pub path: String,
    /// Its flags and arguments.
    pub given: Given,
    /// The flags between a group's name and the verb, where the group has any.
    pub group: Given,
    /// What it shares with others.
    pub session: Rc<Session>,
}

impl Call {
    /// The client.
    pub fn client(&self) -> Result<&Client, Failure> {
        self.session.client()
    }

    /// The arguments.
    pub fn args(&self) -> &[String] {
        &self.given.args
    }
}

/// Prints to standard output. A reader that has gone away ends the program quietly.
pub fn say(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_ref()).and_then(|()| out.flush());
    written.map_err(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::silent(141),
        _ => Failure::new(format!("cannot write to standard output: {e}")),
    })
}

/// Prints a line to standard output.
pub fn say_line(text: impl AsRef<str>) -> Result<(), Failure> {
    say(format!("{}\n", text.as_ref()))
}

/// Prints to standard error; nothing can be done when that fails.
pub fn warn(text: impl AsRef<str>) {
    drop(writeln!(std::io::stderr().lock(), "{}", text.as_ref()));
}

pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    let words: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let called = words.first().and_then(|w| w.rsplit('/').next()).unwrap_or_default();
    PROG.get_or_init(|| if called == "docker" { "docker" } else { "wharf" });
    let result = match start(words.get(1..).unwrap_or_default()) {
        Ok(Some(call)) => run(call),
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    let Err(failure) = result else { return ExitCode::SUCCESS };
    if !failure.text.is_empty() {
        warn(&failure.text);
    }
    ExitCode::from(failure.status)
}

fn run(call: Call) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format!("cannot start: {e}")))?;
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, (call.verb.run)(call));
    // A thread may still wait for standard input; it ends with the process.
    runtime.shutdown_background();
    result
}

/// Finds the verb; `None` when only help or the version was asked for.
fn start(words: &[String]) -> Result<Option<Call>, Failure> {
    let globals = parse::parse(&tree::GLOBAL, words).map_err(|why| {
        let name = prog();
        Failure::new(format!(
            "{why}\n\nUsage:  {name} [OPTIONS] COMMAND [ARG...]\n\nRun '{name} --help' for more information"
        ))
        .with_status(125)
    })?;
    check_level(&globals)?;
    if globals.on("version") {
        say_line(help::version_line())?;
        return Ok(None);
    }
    let rest = globals.args.clone();
    if globals.help || rest.is_empty() {
        say(help::root())?;
        return Ok(None);
    }
    match rest[0].as_str() {
        "help" => return help_for(&rest[1..]).map(|()| None),
        "__complete" | "__completeNoDesc" => {
            let session = Rc::new(Session::new(globals));
            return crate::complete::run(session, &rest[1..]).map(|()| None);
        }
        _ => (),
    }
    let session = Session::new(globals);
    find(&rest, session)
}

fn check_level(globals: &Given) -> Result<(), Failure> {
    const LEVELS: [&str; 8] =
        ["panic", "fatal", "error", "warn", "warning", "info", "debug", "trace"];
    let level = globals.last("log-level").unwrap_or("info").to_lowercase();
    match level.is_empty() || LEVELS.contains(&level.as_str()) {
        true => Ok(()),
        false => Err(Failure::new(format!("Unable to parse logging level: {level}"))),
    }
}

fn find(rest: &[String], session: Session) -> Result<Option<Call>, Failure> {
    let first = rest[0].as_str();
    if first == "compose" {
        return find_in_compose(&rest[1..], session);
    }
    if let Some(group) = tree::group(first) {
        let name = prog();
        let second = rest.get(1).map_or("", String::as_str);
        if second.is_empty() {
            warn(help::group(group).trim_end());
            return Ok(None);
        }
        if matches!(second, "--help" | "-h" | "help") {
            say(help::group(group))?;
            return Ok(None);
        }
        let usage = format!(
            "Usage:  {name} {first} COMMAND\n\nRun '{name} {first} --help' for more information"
        );
        if second.starts_with('-') {
            return Err(Failure::new(format!("unknown flag: {second}\n\n{usage}")).with_status(125));
        }
        if let Some(why) = tree::later(&format!("{first} {second}")) {
            return Err(not_yet(&format!("{first} {second}"), why));
        }
        return match tree::verb(&format!("{first} {second}")) {
            Some(verb) => {
                let path = format!("{first} {second}");
                prepare(verb, path, (Given::default(), &rest[2..]), session)
            }
            None => {
                let meant = meant(&format!("{first} "), second);
                Err(Failure::new(format!(
                    "{name}: unknown command: {name} {first} {second}{meant}\n\n{}",
                    usage.replace(" COMMAND\n", "\n")
                )))
            }
        };
    }
    if let Some(why) = tree::later(first) {
        return Err(not_yet(first, why));
    }
    match tree::verb(first) {
        Some(verb) => prepare(verb, first.to_owned(), (Given::default(), &rest[1..]), session),
        None => Err(Failure::new(format!(
            "{0}: unknown command: {0} {first}{1}\n\nRun '{0} --help' for more information",
            prog(),
            meant("", first)
        ))),
    }
}

/// A line that names the verb behind `group` which was probably meant.
fn meant(group: &str, word: &str) -> String {
    let known: Vec<&str> = match group {
        "" => tree::top_verbs().into_iter().chain(tree::COMMON.iter().copied()).collect(),
        _ => tree::verbs_of(group.trim_end()).into_iter().map(|(name, _)| name).collect(),
    };
    match near(word, known) {
        Some(verb) => format!("\n\nDid you mean: {} {group}{verb}", prog()),
        None => String::new(),
    }
}

/// `compose` has flags of its own before its verb.
fn find_in_compose(words: &[String], session: Session) -> Result<Option<Call>, Failure> {
    let name = prog();
    let usage = format!(
        "Usage:  {name} compose [OPTIONS] COMMAND\n\nRun '{name} compose --help' for more information on a command"
    );
    let group = parse::parse(&tree::COMPOSE, words)
        .map_err(|why| Failure::new(format!("{why}\n\n{usage}")).with_status(16))?;
    let rest = group.args.clone();
    let second = rest.first().cloned().unwrap_or_default();
    let second = second.as_str();
    if group.on("version") {
        let Some(verb) = tree::verb("compose version") else { return Ok(None) };
        return prepare(verb, "compose version".to_owned(), (group, &[]), session);
    }
    if group.help || matches!(second, "" | "help") {
        say(help::compose())?;
        return Ok(None);
    }
    // Stock Compose keeps some of its verbs below `alpha`.
    let (path, taken) = match (second, rest.get(1)) {
        ("alpha", Some(third)) => (format!("compose alpha {third}"), 2),
        _ => (format!("compose {second}"), 1),
    };
    if let Some(why) = tree::later(&path) {
        return Err(not_yet(&path, why));
    }
    let mut rest = rest;
    let mut group = group;
    // The one flag of the group that may also stand behind the verb.
    let before = rest.iter().take_while(|w| *w != "--").position(|w| w == "--dry-run");
    if let (Some(at), true) = (before, tree::verb(&path).is_some_and(|v| v.interspersed)) {
        rest.remove(at);
        group.switch_on("dry-run");
    }
    if group.on("dry-run") && !tree::can_be_tried(&path) {
        return Err(Failure::new(format!(
            "--dry-run: {path} cannot be tried without doing it; it works for {}",
            tree::TRIED.join(", ")
        )));
    }
    match tree::verb(&path) {
        Some(verb) => {
            let shown = verb.paths.first().map_or(path.clone(), |p| (*p).to_owned());
            prepare(verb, shown, (group, &rest[taken..]), session)
        }
        None => {
            let meant = meant("compose ", second);
            Err(Failure::new(format!("unknown {name} command: \"{path}\"{meant}\n\n{usage}"))
                .with_status(16))
        }
    }
}

fn not_yet(path: &str, why: &str) -> Failure {
    let name = prog();
    Failure::new(format!("{name}: '{name} {path}' is not part of this version of wharf: {why}"))
}

fn prepare(
    verb: &'static Verb,
    path: String,
    (group, words): (Given, &[String]),
    session: Session,
) -> Result<Option<Call>, Failure> {
    let given = parse::parse(verb, words).map_err(|why| {
        let usage = help::usage_line(verb, &path);
        let name = prog();
        let text =
            format!("{why}\n\nUsage:  {usage}\n\nRun '{name} {path} --help' for more information");
        Failure::new(text).with_status(125)
    })?;
    if given.help {
        say(help::verb(verb, &path))?;
        return Ok(None);
    }
    if let Err((wrong, see)) = parse::check_count(verb.args, given.args.len()) {
        let (name, usage) = (prog(), help::usage_line(verb, &path));
        return Err(Failure::new(format!(
            "{name}: '{name} {path}' {wrong}\n\nUsage:  {usage}\n\n{see} '{name} {path} --help' for more information"
        )));
    }
    Ok(Some(Call { verb, path, given, group, session: Rc::new(session) }))
}

fn help_for(words: &[String]) -> Result<(), Failure> {
    let path = words.join(" ");
    if path.is_empty() {
        return say(help::root());
    }
    if let Some(group) = tree::group(&path) {
        return say(help::group(group));
    }
    match tree::verb(&path) {
        Some(verb) => say(help::verb(verb, &path)),
        None => Err(Failure::new(format!("unknown help topic: {path}"))),
    }
}
