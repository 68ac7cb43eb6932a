//! What may follow on the command line, for the shells' completion scripts.

use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use crate::api::url;
use crate::app::{Session, say_line};
use crate::cmdline::{Kind, Verb, tree};
use crate::conf::context::Store;
use crate::failure::Failure;
use crate::verbs::{items, text};

/// Prints candidates one a line with their description, then cobra's directive.
pub(crate) fn run(session: Rc<Session>, words: &[String]) -> Result<(), Failure> {
    let (current, before) = words.split_last().map_or(("", words), |(c, b)| (c.as_str(), b));
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    let found = candidates(&session, &before, current);
    for (name, about) in found.iter().filter(|(name, _)| name.starts_with(current)) {
        match about.is_empty() {
            true => say_line(name)?,
            false => say_line(format!("{name}\t{about}"))?,
        }
    }
    // 4: do not complete files; 0: the shell may.
    say_line(if found.is_empty() { ":0" } else { ":4" })
}

fn candidates(session: &Session, before: &[&str], current: &str) -> Vec<(String, String)> {
    let about = |verb: &Verb| verb.about.lines().next().unwrap_or_default().to_owned();
    let Some((first, rest)) = before.split_first() else {
        let verbs = tree::COMMON.iter().copied().chain(tree::top_verbs());
        let verbs = verbs.filter_map(|p| Some((p.to_owned(), about(tree::verb(p)?))));
        let groups = tree::GROUPS.iter().map(|g| (g.name.to_owned(), g.about.to_owned()));
        return verbs.chain(groups).collect();
    };
    let (verb, rest) = match (tree::group(first), rest.split_first()) {
        (Some(group), None) => {
            return tree::verbs_of(group.name)
                .into_iter()
                .map(|(n, v)| (n.to_owned(), about(v)))
                .collect();
        }
        (Some(group), Some((second, rest))) => {
            (tree::verb(&format!("{} {second}", group.name)), rest)
        }
        (None, _) => (tree::verb(first), rest),
    };
    let Some(verb) = verb else { return Vec::new() };
    if current.starts_with('-') {
        let flags = verb.sorted_flags().into_iter().filter(|f| f.is_shown());
        let line = |s: &str| s.lines().next().unwrap_or_default().to_owned();
        return flags.map(|f| (format!("--{}", f.long), line(f.help))).collect();
    }
    if let Some(flag) = rest.last().and_then(|w| w.strip_prefix("--")).and_then(|w| verb.long(w))
        && flag.kind != Kind::Bool
    {
        return flag_values(session, flag.long);
    }
    let arguments = rest.iter().filter(|w| !w.starts_with('-')).count();
    arguments_of(session, verb, arguments)
}

fn flag_values(session: &Session, flag: &str) -> Vec<(String, String)> {
    let fixed = |list: &[&str]| list.iter().map(|s| ((*s).to_owned(), String::new())).collect();
    match flag {
        "network" => names(session, What::Networks),
        "volumes-from" => names(session, What::Containers(true)),
        "restart" => fixed(&["always", "no", "on-failure", "unless-stopped"]),
        "pull" => fixed(&["always", "missing", "never"]),
        "log-driver" => fixed(&["json-file", "local", "none"]),
        "signal" | "stop-signal" => fixed(&["SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGTERM"]),
        "format" => fixed(&["table", "json"]),
        _ => Vec::new(),
    }
}

fn arguments_of(session: &Session, verb: &Verb, given: usize) -> Vec<(String, String)> {
    match verb.paths[0] {
        "run" | "create" | "rmi" | "save" | "push" | "history" | "tag" | "image inspect"
        | "images"
            if given == 0 =>
        {
            names(session, What::Images)
        }
        "rmi" | "save" | "image inspect" => names(session, What::Images),
        "exec" | "attach" | "top" | "port" if given == 0 => names(session, What::Containers(false)),
        "stop" | "kill" | "pause" | "unpause" | "stats" => names(session, What::Containers(false)),
        "start" | "restart" | "rm" | "wait" | "update" | "container inspect" => {
            names(session, What::Containers(true))
        }
        "logs" | "commit" | "diff" | "export" | "rename" if given == 0 => {
            names(session, What::Containers(true))
        }
        "volume rm" | "volume inspect" => names(session, What::Volumes),
        "network rm" | "network inspect" => names(session, What::Networks),
        "network connect" | "network disconnect" if given == 0 => names(session, What::Networks),
        "network connect" | "network disconnect" => names(session, What::Containers(true)),
        "context use" | "context rm" | "context inspect" | "context export" | "context update" => {
            let stored = Store::open(session).list().into_iter().map(|c| c.name);
            stored.map(|n| (n, String::new())).collect()
        }
        "inspect" => {
            let mut all = names(session, What::Containers(true));
            all.extend(names(session, What::Images));
            all
        }
        _ => Vec::new(),
    }
}

enum What {
    Containers(bool),
    Images,
    Networks,
    Volumes,
}

/// Nobody waits longer than this for a completion.
const PATIENCE: Duration = Duration::from_millis(800);

/// Names from the engine; none when it cannot be asked.
fn names(session: &Session, what: What) -> Vec<(String, String)> {
    let path = match what {
        What::Containers(true) => url("/containers/json", &[("all", "1")]),
        What::Containers(false) => "/containers/json".to_owned(),
        What::Images => "/images/json".to_owned(),
        What::Networks => "/networks".to_owned(),
        What::Volumes => "/volumes".to_owned(),
    };
    let Ok(client) = session.client() else { return Vec::new() };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let local = tokio::task::LocalSet::new();
    let asked =
        local.block_on(&runtime, async { tokio::time::timeout(PATIENCE, client.get(&path)).await });
    let Ok(Ok(list)) = asked else { return Vec::new() };
    let list = if list.is_object() { &list["Volumes"] } else { &list };
    let of = |item: &Value| -> Vec<String> {
        let strings = |name: &str| {
            items(&item[name])
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        match what {
            What::Containers(_) => {
                strings("Names").iter().map(|n| n.trim_start_matches('/').to_owned()).collect()
            }
            What::Images => strings("RepoTags"),
            What::Networks | What::Volumes => vec![text(item, "Name").to_owned()],
        }
    };
    items(list).iter().flat_map(of).map(|n| (n, String::new())).collect()
}
