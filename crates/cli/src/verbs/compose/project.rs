//! Finding a project: its files, its directory, its variables, its name.

use std::path::Path;

use wharf_spec::compose::{Env, Files, Loaded, Request, Resolution, Text, load, parse_env_file};

use super::remark;
use crate::app::Call;
use crate::failure::{Failure, os_text};
use crate::parse::{absolute, boolean};

const FILES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

const OVERRIDES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// fig's file, of before Compose had its name.
const FIG: &str = "fig.yml";

/// The files of this machine.
pub(crate) struct Disk;

impl Files for Disk {
    fn read(&self, path: &str) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn is_file(&self, path: &str) -> bool {
        Path::new(path).is_file()
    }
}

/// What a project is loaded from.
pub(crate) struct Setup {
    /// The request to the loader.
    pub(crate) request: Request,
    /// The env file of each variable that does not come from the shell.
    pub(crate) env_files: Env,
}

impl Setup {
    /// Looks for the files as the flags, variables and the directory say.
    pub(crate) fn find(call: &Call) -> Result<Self, Failure> {
        let given = &call.group;
        let mut env: Env = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        env.entry("PWD".to_owned()).or_insert_with(|| absolute("."));
        let own_dir = match (given.text("project-directory"), given.text("workdir")) {
            ("", "") => None,
            ("", dir) | (dir, _) => Some(absolute(dir)),
        };
        let mut paths: Vec<String> = given.all("file").to_vec();
        let mut named: Vec<String> = given.all("env-file").to_vec();
        if named.is_empty() {
            let listed = env.get("COMPOSE_ENV_FILES").cloned().unwrap_or_default();
            named = listed.split(',').filter(|f| !f.is_empty()).map(str::to_owned).collect();
        }
        let mut from = Env::new();
        add_env(&mut env, &named, &directory(own_dir.as_deref(), &paths), &mut from)?;
        if paths.is_empty() {
            paths = search(&env, &directory(own_dir.as_deref(), &paths))?;
        }
        let dir = directory(own_dir.as_deref(), &paths);
        add_env(&mut env, &named, &dir, &mut from)?;
        let profiles = match given.all("profile") {
            [] => {
                let listed = env.get("COMPOSE_PROFILES").cloned().unwrap_or_default();
                listed.split(',').map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect()
            }
            profiles => profiles.to_vec(),
        };
        if given.on("compatibility") {
            env.insert("COMPOSE_COMPATIBILITY".to_owned(), "true".to_owned());
        }
        let name = match given.text("project-name") {
            "" => env.get("COMPOSE_PROJECT_NAME").cloned(),
            name => Some(name.to_owned()),
        };
        let files = paths.iter().map(|path| read(path)).collect::<Result<Vec<Text>, Failure>>()?;
        if files.is_empty() {
            return Err("no configuration file provided: not found".into());
        }
        let resolution = Resolution::default();
        let request = Request { files, dir, env, name, profiles, resolution };
        Ok(Self { request, env_files: from })
    }

    /// Loads the project and tells what was noticed, unless that is of no interest.
    pub(crate) fn load(&self, quiet: bool) -> Result<Loaded, Failure> {
        let loaded = load(&self.request, &Disk).map_err(|e| Failure::new(e.to_string()))?;
        if !quiet {
            loaded.warnings.iter().for_each(|w| remark(w));
        }
        Ok(loaded)
    }
}

/// The directory that paths are relative to.
fn directory(own: Option<&str>, paths: &[String]) -> String {
    if let Some(own) = own {
        return own.to_owned();
    }
    match paths.iter().find(|p| *p != "-") {
        Some(path) => {
            let path = absolute(path);
            path.rsplit_once('/')
                .map_or("/", |(dir, _)| if dir.is_empty() { "/" } else { dir })
                .to_owned()
        }
        None => absolute("."),
    }
}

/// Adds what env files say and nothing else has said yet; `from` learns which file said it.
fn add_env(env: &mut Env, named: &[String], dir: &str, from: &mut Env) -> Result<(), Failure> {
    let mut files = named.to_vec();
    if files.is_empty() {
        let off = env.get("COMPOSE_DISABLE_ENV_FILE").and_then(|v| boolean(v)).unwrap_or(false);
        let usual = format!("{dir}/.env");
        files.extend(Some(usual).filter(|f| !off && Path::new(f).is_file()));
    }
    let mut found = Env::new();
    for file in files {
        let path = absolute(&file);
        let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Failure::new(format!("couldn't find env file: {path}")),
            _ => Failure::new(format!("cannot read env file {path}: {}", os_text(&e))),
        })?;
        let before = found.clone();
        parse_env_file(&text, env, &mut found)
            .map_err(|why| Failure::new(format!("failed to read {path}: {why}")))?;
        let new = found.iter().filter(|(name, value)| before.get(*name) != Some(value));
        let new = new.filter(|(name, _)| !env.contains_key(*name) || from.contains_key(*name));
        let new: Vec<String> = new.map(|(name, _)| name.clone()).collect();
        from.extend(new.into_iter().map(|name| (name, path.clone())));
    }
    for (name, value) in found {
        env.entry(name).or_insert(value);
    }
    Ok(())
}

/// The files of COMPOSE_FILE, or the usual ones here or in a directory above.
fn search(env: &Env, dir: &str) -> Result<Vec<String>, Failure> {
    if let Some(listed) = env.get("COMPOSE_FILE") {
        let separator = env.get("COMPOSE_PATH_SEPARATOR").filter(|s| !s.is_empty());
        let separator = separator.map_or(":", String::as_str);
        return Ok(listed.split(separator).map(str::to_owned).collect());
    }
    let there = |dir: &Path, names: &[&str]| -> Vec<String> {
        let paths = names.iter().map(|n| dir.join(n)).filter(|p| p.is_file());
        paths.map(|p| p.to_string_lossy().into_owned()).collect()
    };
    for dir in Path::new(dir).ancestors() {
        let mut found = there(dir, &FILES);
        if found.is_empty() {
            found = there(dir, &[FIG]);
        }
        let Some(winner) = found.first().cloned() else { continue };
        if found.len() > 1 {
            remark(&format!(
                "Found multiple config files with supported names: {}",
                found.join(", ")
            ));
            remark(&format!("Using {winner}"));
        }
        let overrides = there(dir, &OVERRIDES);
        return Ok(std::iter::once(winner).chain(overrides.into_iter().take(1)).collect());
    }
    Ok(Vec::new())
}

fn read(path: &str) -> Result<Text, Failure> {
    if path == "-" {
        let text = std::io::read_to_string(std::io::stdin())?;
        return Ok(Text { name: "-".to_owned(), text });
    }
    if path.starts_with("oci://") || path.contains("://") || path.ends_with(".git") {
        return Err(Failure::new(format!(
            "{path}: Compose files of registries and git repositories are not supported"
        )));
    }
    let name = absolute(path);
    match std::fs::read_to_string(&name) {
        Ok(text) => Ok(Text { name, text }),
        Err(e) => Err(Failure::new(format!("open {name}: {}", os_text(&e)))),
    }
}
