//! What `develop.watch` asks for: which change of a file means what to which service.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use wharf_spec::compose::model::{Hook, Service, Trigger};
use wharf_spec::compose::{Project, Value};
use wharf_spec::dockerfile::ignore::{Ignore, clean};

use crate::failure::Failure;

/// What editors and tools write beside the files that matter.
const PASSING: [&str; 14] = [
    "**/.git",
    "**/*___jb_old___",
    "**/*___jb_tmp___",
    "**/.idea/**",
    "**/.#*",
    "**/#*#",
    "**/4913",
    "**/*~",
    "**/.*.swp",
    "**/.*.swx",
    "**/.*.swo",
    "**/.*.swn",
    "**/.*.kate-swp",
    "**/*-go-tmp-umask",
];

/// What happens to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Sync,
    Rebuild,
    Restart,
    SyncRestart,
    SyncExec,
}

/// One entry of `develop.watch`, ready to be asked.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) service: String,
    pub(super) action: Action,
    /// The watched file or directory.
    pub(super) path: PathBuf,
    /// Where it lies in the container.
    pub(super) target: String,
    pub(super) exec: Hook,
    pub(super) initial: bool,
    /// Only what matches, unless there is none.
    include: Option<Ignore>,
    ignore: Ignore,
    /// The build context and its `.dockerignore`.
    context: Option<(PathBuf, Ignore)>,
}

/// What a batch of changes comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) rebuild: BTreeSet<String>,
    /// Files by their place in the service's containers.
    pub(super) sync: BTreeMap<String, BTreeMap<String, PathBuf>>,
    pub(super) restart: BTreeSet<String>,
    /// Rules, by their place, whose command runs.
    pub(super) exec: BTreeSet<usize>,
}

/// The name that `initial_sync` had first.
const OLD_INITIAL: &str = "x-initialSync";

/// Whether any service of a project is watched at all.
pub(super) fn any(project: &Project) -> bool {
    project.services.values().any(|s| s.develop.as_ref().is_some_and(|d| !d.watch.is_empty()))
}

/// The rules of a project, and remarks about those that are left out. `read` gives a file's text.
pub(super) fn of(
    project: &Project,
    read: impl Fn(&Path) -> Option<String>,
) -> Result<(Vec<Rule>, Vec<String>), Failure> {
    let (mut rules, mut remarks) = (Vec::new(), Vec::new());
    for (name, service) in &project.services {
        for trigger in service.develop.iter().flat_map(|d| &d.watch) {
            let rule = rule(name, service, trigger, &read)?;
            if rule.copies() && is_bound(&rule.path, service) {
                remarks.push(format!(
                    "path {:?} also declared by a bind mount volume, this path won't be monitored!",
                    trigger.path
                ));
                continue;
            }
            if trigger.extensions.0.contains_key(OLD_INITIAL) {
                remarks.push(format!(
                    "{OLD_INITIAL} is DEPRECATED, please use the official `initial_sync` attribute"
                ));
            }
            rules.push(rule);
        }
    }
    Ok((rules, remarks))
}

fn rule(
    name: &str,
    service: &Service,
    trigger: &Trigger,
    read: &impl Fn(&Path) -> Option<String>,
) -> Result<Rule, Failure> {
    let action = match trigger.action.as_str() {
        "sync" => Action::Sync,
        "rebuild" => Action::Rebuild,
        "restart" => Action::Restart,
        "sync+restart" => Action::SyncRestart,
        "sync+exec" => Action::SyncExec,
        other => {
            return Err(Failure::new(format!(
                "services.{name}.develop.watch: unknown action {other:?}: use sync, rebuild, restart, sync+restart or sync+exec"
            )));
        }
    };
    if action == Action::Rebuild && service.build.is_none() {
        return Err(Failure::new(format!(
            "can't watch service {name:?} with action rebuild without a build context"
        )));
    }
    if action == Action::SyncExec && trigger.exec.command.0.as_ref().is_none_or(Vec::is_empty) {
        return Err(Failure::new(format!(
            "can't watch with action \"sync+exec\" on service {name} without a command"
        )));
    }
    let bad = |e: wharf_spec::dockerfile::ignore::PatternError| {
        Failure::new(format!("services.{name}.develop.watch: {e}"))
    };
    let patterns = |list: &[String]| Ignore::new(list.iter().map(String::as_str)).map_err(bad);
    let include = match trigger.include.is_empty() {
        true => None,
        false => Some(patterns(&trigger.include)?),
    };
    Ok(Rule {
        service: name.to_owned(),
        action,
        path: PathBuf::from(&trigger.path),
        target: trigger.target.clone(),
        exec: trigger.exec.clone(),
        initial: trigger.initial_sync
            || trigger
                .extensions
                .0
                .get(OLD_INITIAL)
                .is_some_and(|n| matches!(n.value, Value::Bool(true))),
        include,
        ignore: patterns(&trigger.ignore)?,
        context: context(service, read)?,
    })
}

/// The build context with what its `.dockerignore` leaves out.
fn context(
    service: &Service,
    read: &impl Fn(&Path) -> Option<String>,
) -> Result<Option<(PathBuf, Ignore)>, Failure> {
    let Some(build) = &service.build else { return Ok(None) };
    let dir = PathBuf::from(&build.context);
    let own = dir.join(format!("{}.dockerignore", build.dockerfile));
    let shared = dir.join(".dockerignore");
    let Some((path, text)) = [own, shared].into_iter().find_map(|p| Some((p.clone(), read(&p)?)))
    else {
        return Ok(None);
    };
    let ignore =
        Ignore::parse(&text).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
    Ok(Some((dir, ignore)))
}

/// Whether a path lies in a directory of the host that the service mounts.
fn is_bound(path: &Path, service: &Service) -> bool {
    service.volumes.iter().any(|v| v.kind == "bind" && path.starts_with(&v.source))
}

fn relative(path: &Path, to: &Path) -> Option<String> {
    Some(clean(&path.strip_prefix(to).ok()?.to_string_lossy()))
}

impl Rule {
    /// Whether files are copied into containers.
    pub(super) fn copies(&self) -> bool {
        matches!(self.action, Action::Sync | Action::SyncRestart | Action::SyncExec)
    }

    /// Where a file belongs in the container; `None` when the rule is not about it. Empty where
    /// nothing is copied.
    fn place(&self, path: &Path) -> Option<String> {
        let below = relative(path, &self.path)?;
        if self.include.as_ref().is_some_and(|i| !i.ignores(&below)) || self.is_left_out(path) {
            return None;
        }
        let target = self.target.trim_end_matches('/');
        Some(match (below.as_str(), self.target.is_empty()) {
            (_, true) => String::new(),
            ("", false) => target.to_owned(),
            (below, false) => format!("{target}/{below}"),
        })
    }

    fn is_left_out(&self, path: &Path) -> bool {
        let below = relative(path, &self.path).unwrap_or_default();
        let by_context = self.context.as_ref().is_some_and(|(dir, ignore)| {
            relative(path, dir).is_some_and(|p| !p.is_empty() && ignore.ignores(&p))
        });
        by_context || self.ignore.ignores(&below) || is_passing(path)
    }

    /// Whether changes below a directory can matter to the rule.
    pub(super) fn enters(&self, dir: &Path) -> bool {
        let Some(below) = relative(dir, &self.path) else { return false };
        let returns = self.ignore.may_include_below(&below)
            || self.context.as_ref().is_some_and(|(context, ignore)| {
                relative(dir, context).is_some_and(|p| ignore.may_include_below(&p))
            });
        below.is_empty() || !is_passing(dir) && (returns || !self.is_left_out(dir))
    }
}

fn is_passing(path: &Path) -> bool {
    // The patterns are right; were one not, nothing would be left out by it.
    Ignore::new(PASSING).is_ok_and(|i| i.ignores(&clean(&path.to_string_lossy())))
}

/// What the changed files ask for.
pub(super) fn decide(rules: &[Rule], changed: &BTreeSet<PathBuf>) -> Work {
    let mut work = Work::default();
    for path in changed {
        for (at, rule) in rules.iter().enumerate() {
            let Some(place) = rule.place(path) else { continue };
            let service = rule.service.clone();
            match rule.action {
                Action::Rebuild => work.rebuild.insert(service.clone()),
                Action::Restart | Action::SyncRestart => work.restart.insert(service.clone()),
                Action::SyncExec => work.exec.insert(at),
                Action::Sync => false,
            };
            if rule.copies() {
                work.sync.entry(service).or_default().insert(place, path.clone());
            }
        }
    }
    // A new container has the new files and has just been started.
    for service in &work.rebuild {
        work.restart.remove(service);
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_spec::compose::model::Develop;

    fn project(triggers: Vec<Trigger>, dockerignore: &str) -> Vec<Rule> {
        let build =
            wharf_spec::compose::model::Build { context: "/app".to_owned(), ..Default::default() };
        let develop = Develop { watch: triggers, ..Develop::default() };
        let service = Service { build: Some(build), develop: Some(develop), ..Service::default() };
        let project = Project {
            services: BTreeMap::from([("web".to_owned(), service)]),
            ..Project::default()
        };
        let read = |path: &Path| {
            (path == Path::new("/app/.dockerignore")).then(|| dockerignore.to_owned())
        };
        of(&project, read).unwrap().0
    }

    fn trigger(action: &str, path: &str, target: &str) -> Trigger {
        Trigger {
            action: action.to_owned(),
            path: path.to_owned(),
            target: target.to_owned(),
            ..Trigger::default()
        }
    }

    fn changed(paths: &[&str]) -> BTreeSet<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_changed_file_goes_to_its_place_and_a_changed_manifest_rebuilds() {
        let rules = project(
            vec![trigger("sync", "/app/src", "/srv"), trigger("rebuild", "/app/package.json", "")],
            "",
        );
        let work = decide(&rules, &changed(&["/app/src/a/b.js", "/app/other"]));
        assert_eq!(work.sync["web"]["/srv/a/b.js"], PathBuf::from("/app/src/a/b.js"));
        assert!(work.rebuild.is_empty() && work.restart.is_empty());
        let work = decide(&rules, &changed(&["/app/package.json"]));
        assert!(work.rebuild.contains("web") && work.sync.is_empty());
    }

    #[test]
    fn what_is_ignored_means_nothing() {
        let mut sync = trigger("sync+restart", "/app", "/srv");
        sync.ignore = wharf_spec::compose::value::Texts(vec!["node_modules/".to_owned()]);
        let rules = project(vec![sync], "*.log\n");
        for path in ["/app/node_modules/x", "/app/a.log", "/app/.git/HEAD", "/app/.x.swp"] {
            assert_eq!(decide(&rules, &changed(&[path])), Work::default(), "{path}");
        }
        assert!(!rules[0].enters(Path::new("/app/node_modules")));
        assert!(rules[0].enters(Path::new("/app")) && rules[0].enters(Path::new("/app/src")));
        assert!(!rules[0].enters(Path::new("/elsewhere")));
        let work = decide(&rules, &changed(&["/app/src/x"]));
        assert!(work.restart.contains("web") && work.sync["web"].contains_key("/srv/src/x"));
    }

    #[test]
    fn include_keeps_the_rest_out() {
        let mut sync = trigger("sync", "/app", "/srv");
        sync.include = wharf_spec::compose::value::Texts(vec!["*.js".to_owned()]);
        let rules = project(vec![sync], "");
        let work = decide(&rules, &changed(&["/app/a.js", "/app/a.css"]));
        assert_eq!(work.sync["web"].len(), 1);
    }

    #[test]
    fn a_command_runs_once_for_many_files() {
        let mut sync = trigger("sync+exec", "/app", "/srv");
        sync.exec.command.0 = Some(vec!["reload".to_owned()]);
        let rules = project(vec![sync], "");
        let work = decide(&rules, &changed(&["/app/a", "/app/b"]));
        assert_eq!((work.exec.len(), work.sync["web"].len()), (1, 2));
    }
}
