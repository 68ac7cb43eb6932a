//! Help in docker's layout, and the same tree for clap.

use super::{Flag, Group, Kind, Verb, tree};
use crate::app::prog;

/// The line of `--version`.
pub fn version_line() -> String {
    match prog() {
        "docker" => format!("Docker version {}, build wharf", env!("CARGO_PKG_VERSION")),
        name => format!("{name} version {}", env!("CARGO_PKG_VERSION")),
    }
}

/// The first usage line of a verb.
pub fn usage_line(verb: &Verb, path: &str) -> String {
    let usage = verb.usage.iter().map(|usage| format!("{} {path} {usage}", prog()));
    let lines: Vec<String> = usage.map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n\t")
}

/// The help of a verb.
pub fn verb(verb: &Verb, path: &str) -> String {
    let mut out = format!("Usage:  {}\n\n{}\n", usage_line(verb, path), verb.about);
    if !verb.aliases.is_empty() {
        let aliases: Vec<String> = verb.aliases.iter().map(|a| format!("{} {a}", prog())).collect();
        out.push_str(&format!("\nAliases:\n  {}\n", aliases.join(", ")));
    }
    let flags = verb.sorted_flags();
    if flags.iter().any(|f| f.is_shown()) {
        out.push_str(&format!("\nOptions:\n{}", flag_lines(&flags)));
    }
    out
}

/// The help of a group.
pub fn group(group: &Group) -> String {
    let verbs = tree::verbs_of(group.name);
    let lines: Vec<(String, String)> =
        verbs.into_iter().map(|(name, verb)| (name.to_owned(), sentence(verb.about))).collect();
    let name = prog();
    format!(
        "Usage:  {name} {0} COMMAND\n\n{1}\n\nCommands:\n{2}\nRun '{name} {0} COMMAND --help' for more information on a command.\n",
        group.name,
        group.about,
        command_lines(&lines)
    )
}

/// The help of `compose`, which has flags of its own.
pub fn compose() -> String {
    let verbs = tree::verbs_of("compose");
    let lines: Vec<(String, String)> =
        verbs.into_iter().map(|(name, verb)| (name.to_owned(), sentence(verb.about))).collect();
    let name = prog();
    format!(
        "Usage:  {name} compose [OPTIONS] COMMAND\n\nDefine and run multi-container applications\n\nOptions:\n{}\nCommands:\n{}\nRun '{name} compose COMMAND --help' for more information on a command.\n",
        flag_lines(&tree::COMPOSE.sorted_flags()),
        command_lines(&lines)
    )
}

/// The help of the whole program.
pub fn root() -> String {
    let name = prog();
    let entry = |path: &&str| {
        let about = tree::verb(path).map(|v| first_line(v.about)).unwrap_or_default();
        ((*path).to_owned(), about)
    };
    let common: Vec<_> = tree::COMMON.iter().map(entry).collect();
    let others: Vec<_> = tree::top_verbs().iter().map(entry).collect();
    let groups: Vec<_> =
        tree::GROUPS.iter().map(|g| (g.name.to_owned(), g.about.to_owned())).collect();
    let parts: Vec<_> =
        tree::PARTS.iter().map(|(n, about)| ((*n).into(), (*about).into())).collect();
    let engine = match name {
        "docker" => String::new(),
        _ => format!("Engine:\n{}\n", command_lines(&parts)),
    };
    format!(
        "Usage:  {name} [OPTIONS] COMMAND\n\nContainers in milliseconds, from one binary\n\nCommon Commands:\n{}\nManagement Commands:\n{}\nCommands:\n{}\n{engine}Global Options:\n{}\nRun '{name} COMMAND --help' for more information on a command.\n",
        command_lines(&common),
        command_lines(&groups),
        command_lines(&others),
        flag_lines(&tree::GLOBAL.sorted_flags()),
    )
}

/// The first sentence without its full stop.
fn sentence(text: &str) -> String {
    let line = first_line(text);
    line.split_once(". ").map_or(line.clone(), |(first, _)| first.to_owned())
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn command_lines(lines: &[(String, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(11);
    lines.iter().map(|(name, about)| format!("  {name:width$} {about}\n")).collect()
}

/// How wide the terminal is; 80 when there is none.
fn columns() -> usize {
    wharf_sys::terminal::size(std::io::stdin())
        .or_else(|| wharf_sys::terminal::size(std::io::stdout()))
        .map_or(80, |(_, columns)| usize::from(columns).max(40))
}

const HELP: Flag = super::flag(Kind::Bool, "", "help", "Print usage");

/// The flags, one a line, the text wrapped beside them.
fn flag_lines(flags: &[&'static Flag]) -> String {
    // Where `-h` means something else, the help's own flag has to be told.
    let own = flags.iter().any(|f| f.short == "h").then_some(&HELP);
    let mut flags: Vec<&Flag> = flags.iter().copied().filter(|f| f.is_shown()).chain(own).collect();
    flags.sort_by_key(|f| f.long);
    let lefts: Vec<(String, &Flag)> = flags
        .into_iter()
        .map(|f| {
            let short =
                if f.short.is_empty() { "    ".to_owned() } else { format!("-{}, ", f.short) };
            let value = match f.kind.value_name() {
                "" => String::new(),
                value => format!(" {value}"),
            };
            (format!("  {short}--{}{value}", f.long), f)
        })
        .collect();
    let column = lefts.iter().map(|(left, _)| left.len()).max().unwrap_or(0) + 3;
    let width = columns() - 1;
    let line = |(left, flag): &(String, &Flag)| {
        let text = wrap(flag.help, width.saturating_sub(column), column);
        format!("{left:column$}{text}\n")
    };
    lefts.iter().map(line).collect()
}

/// pflag's wrapping: break before the last word that fits, with five columns of slack.
fn wrap(text: &str, width: usize, indent: usize) -> String {
    let pad = format!("\n{}", " ".repeat(indent));
    let (width, pad) = match width < 24 {
        // Too narrow beside the flags: below them.
        true => (columns().saturating_sub(17), format!("\n{}", " ".repeat(16))),
        false => (width, pad),
    };
    const SLOP: usize = 5;
    if width < 24 {
        return text.replace('\n', &pad);
    }
    let limit = width - SLOP;
    let mut out = String::new();
    let mut rest = text;
    let mut first = true;
    while !rest.is_empty() || first {
        let (line, after) = cut(rest, limit, SLOP);
        if !first {
            out.push_str(&pad);
        }
        out.push_str(&line.replace('\n', &pad));
        rest = after;
        first = false;
    }
    out
}

fn cut(text: &str, limit: usize, slop: usize) -> (&str, &str) {
    if limit + slop > text.len() {
        return (text, "");
    }
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let blank: &[char] = &[' ', '\t', '\n'];
    let Some(at) = text[..end].rfind(blank).filter(|at| *at > 0) else { return (text, "") };
    match text[..at].find('\n') {
        Some(newline) => (&text[..newline], &text[newline + 1..]),
        None => (&text[..at], &text[at + 1..]),
    }
}

/// The tree as clap commands, for man pages and static completion.
pub fn clap_command() -> clap::Command {
    let mut root = clap::Command::new("wharf")
        .about("Containers in milliseconds, from one binary")
        .version(env!("CARGO_PKG_VERSION"))
        .args(tree::GLOBAL.sorted_flags().into_iter().map(clap_arg))
        .disable_help_subcommand(true)
        .disable_version_flag(true);
    for path in tree::COMMON.iter().copied().chain(tree::top_verbs()) {
        if let Some(verb) = tree::verb(path) {
            root = root.subcommand(clap_verb(path, verb));
        }
    }
    for group in tree::GROUPS {
        let verbs =
            tree::verbs_of(group.name).into_iter().map(|(name, verb)| clap_verb(name, verb));
        root =
            root.subcommand(clap::Command::new(group.name).about(group.about).subcommands(verbs));
    }
    root
}

fn clap_verb(name: &'static str, verb: &'static Verb) -> clap::Command {
    clap::Command::new(name)
        .about(first_line(verb.about))
        .long_about(verb.about)
        .disable_help_flag(true)
        .args(verb.sorted_flags().into_iter().filter(|f| f.same_as.is_none()).map(clap_arg))
        .arg(clap::Arg::new("args").num_args(0..).trailing_var_arg(true))
}

fn clap_arg(flag: &'static Flag) -> clap::Arg {
    let arg = clap::Arg::new(flag.long).long(flag.long).help(flag.help);
    let arg = match flag.short.chars().next() {
        Some(short) => arg.short(short),
        None => arg,
    };
    match flag.kind {
        Kind::Bool => arg.action(clap::ArgAction::SetTrue),
        kind => arg.value_name(kind.value_name()).action(clap::ArgAction::Append),
    }
}
