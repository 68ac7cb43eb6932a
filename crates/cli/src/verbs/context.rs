//! `context create`, `ls`, `use`, `show`, `inspect`, `rm`, `update`, `export` and `import`.

use std::io::{IsTerminal, Read, Write};

use serde_json::{Value, json};

use super::{Outcome, text};
use crate::app::{Call, say, say_line, warn};
use crate::conf::context::{self, Context, Store};
use crate::failure::Failure;
use crate::out::{Report, Row, html_safe, indent, table};
use crate::parse::quote;

const HEADERS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("DockerEndpoint", "DOCKER ENDPOINT"),
    ("Error", "ERROR"),
];

fn check_name(name: &str) -> Outcome {
    if name == "default" {
        return Err("\"default\" is a reserved context name".into());
    }
    let word = |c: char| c.is_ascii_alphanumeric();
    let good = name.len() > 1
        && name.starts_with(word)
        && name.chars().all(|c| word(c) || "_.+-".contains(c));
    match good {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "context name {} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\"",
            quote(name)
        ))),
    }
}

/// `context create CONTEXT`
pub async fn create(call: Call) -> Outcome {
    let given = &call.given;
    let name = &call.args()[0];
    check_name(name)?;
    let store = Store::open(&call.session);
    if store.has(name) {
        return Err(Failure::new(format!("context {} already exists", quote(name))));
    }
    let description = given.text("description");
    if given.changed("from") {
        if given.changed("docker") {
            return Err("cannot use --docker flag when --from is set".into());
        }
        let source = store.load(given.text("from"))?;
        let mut meta = source.meta.clone();
        meta["Name"] = name.as_str().into();
        if !description.is_empty() {
            meta["Metadata"]["Description"] = description.into();
        }
        let files = read_files(&store, &source.name)?;
        save(&store, name, meta, &files)?;
    } else {
        if !given.changed("docker") {
            return Err("docker endpoint configuration is required".into());
        }
        let (meta, files) = endpoint(&store, name, description, given.all("docker"))?;
        save(&store, name, meta, &files)?;
    }
    say_line(name)?;
    warn(format!("Successfully created context {}", quote(name)));
    Ok(())
}

type Files = Vec<(String, Vec<u8>)>;

fn save(store: &Store, name: &str, meta: Value, files: &Files) -> Outcome {
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
    store.save(&Context { name: name.to_owned(), meta }, &files)
}

fn read_files(store: &Store, name: &str) -> Result<Files, Failure> {
    let mut files = Vec::new();
    for (file, path) in store.tls_files(name) {
        files.push((file.to_owned(), std::fs::read(path)?));
    }
    Ok(files)
}

/// `host=…,ca=…,cert=…,key=…,skip-tls-verify=…,from=…`
fn endpoint(
    store: &Store,
    name: &str,
    description: &str,
    pairs: &[String],
) -> Result<(Value, Files), Failure> {
    let mut host = String::new();
    let mut skip = false;
    let mut files = Vec::new();
    for (key, value) in pairs.iter().map(|p| p.split_once('=').unwrap_or((p, ""))) {
        match key {
            "host" => value.clone_into(&mut host),
            "skip-tls-verify" => {
                skip = crate::parse::boolean(value).ok_or_else(|| {
                    Failure::new(format!(
                        "skip-tls-verify: parsing {}: invalid syntax",
                        quote(value)
                    ))
                })?;
            }
            "from" => {
                let source = store.load(value)?;
                host = text(&source.meta["Endpoints"]["docker"], "Host").to_owned();
                files = read_files(store, value)?;
            }
            "ca" | "cert" | "key" => {
                let bytes = std::fs::read(value).map_err(|e| {
                    Failure::new(format!("open {value}: {}", crate::failure::os_text(&e)))
                })?;
                files.push((format!("{key}.pem"), bytes));
            }
            other => {
                return Err(Failure::new(format!(
                    "unable to create docker endpoint config: unrecognized config key: {other}"
                )));
            }
        }
    }
    if !host.is_empty() {
        crate::api::host::Endpoint::parse(&host, None)
            .map_err(|e| Failure::new(format!("unable to create docker endpoint config: {e}")))?;
    }
    Ok((context::meta(name, description, &host, skip), files))
}

/// `context update CONTEXT`
pub async fn update(call: Call) -> Outcome {
    let given = &call.given;
    let name = &call.args()[0];
    check_name(name)?;
    let store = Store::open(&call.session);
    let mut meta = store.load(name)?.meta;
    let mut files = Vec::new();
    if given.changed("description") {
        meta["Metadata"]["Description"] = given.text("description").into();
    }
    if given.changed("docker") {
        let (new, own) = endpoint(&store, name, "", given.all("docker"))?;
        meta["Endpoints"] = new["Endpoints"].clone();
        files = own;
    }
    save(&store, name, meta, &files)?;
    say_line(name)?;
    warn(format!("Successfully updated context {}", quote(name)));
    Ok(())
}

fn default_context() -> Value {
    let mut meta = context::meta("default", "Current DOCKER_HOST based configuration", "", false);
    meta["Endpoints"]["docker"]["Host"] = context::default_host().into();
    meta
}

/// `context ls`
pub async fn ls(call: Call) -> Outcome {
    let given = &call.given;
    let current = context::current(&call.session);
    let mut all = vec![default_context()];
    all.extend(Store::open(&call.session).list().into_iter().map(|c| c.meta));
    all.sort_by(|a, b| text(a, "Name").cmp(text(b, "Name")));
    let rows: Vec<Row> = all
        .iter()
        .map(|meta| {
            let description = text(&meta["Metadata"], "Description");
            let shown = match given.on("no-trunc") {
                true => description.to_owned(),
                false => crate::out::ellipsis(description, 25),
            };
            let full = given.changed("format") || text(meta, "Name") == "default";
            Row::new(vec![
                ("Name", text(meta, "Name").into()),
                ("Current", (text(meta, "Name") == current).into()),
                ("Description", if full { description.to_owned() } else { shown }.into()),
                ("DockerEndpoint", text(&meta["Endpoints"]["docker"], "Host").into()),
                ("Error", "".into()),
            ])
        })
        .collect();
    let format = match given.text("format") {
        _ if given.on("quiet") => "{{.Name}}",
        "" | "table" => {
            "table {{.Name}}{{if .Current}} *{{end}}\\t{{.Description}}\\t{{.DockerEndpoint}}\\t{{.Error}}"
        }
        format => format,
    };
    let report = Report {
        format: format.to_owned(),
        headers: HEADERS,
        kind: "*formatter.clientContextContext",
    };
    report.print(&rows)?;
    if std::env::var("DOCKER_HOST").is_ok_and(|h| !h.is_empty()) && !given.on("quiet") {
        warn(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use a context, either set the global --context flag, or unset DOCKER_HOST environment variable.",
        );
    }
    Ok(())
}

/// `context use CONTEXT`
pub async fn select(call: Call) -> Outcome {
    let name = call.args().first().map_or("", String::as_str);
    if name != "default" {
        check_name(name)?;
        Store::open(&call.session).load(name)?;
    }
    call.session.config().save(|map| match name {
        "default" => drop(map.remove("currentContext")),
        name => drop(map.insert("currentContext".into(), name.into())),
    })?;
    say_line(name)?;
    warn(format!("Current context is now {}", quote(name)));
    if name != "default" && std::env::var("DOCKER_HOST").is_ok_and(|h| !h.is_empty()) {
        warn(format!(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use {}, either set the global --context flag, or unset DOCKER_HOST environment variable.",
            quote(name)
        ));
    }
    Ok(())
}

/// `context show`
pub async fn show(call: Call) -> Outcome {
    say_line(context::current(&call.session))
}

/// `context inspect [CONTEXT...]`
pub async fn inspect(call: Call) -> Outcome {
    let store = Store::open(&call.session);
    let names = match call.args() {
        [] => vec![context::current(&call.session)],
        names => names.to_vec(),
    };
    let template = match call.given.text("format") {
        "" | "json" => None,
        text => Some(table::parse(text)?),
    };
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in names {
        let meta = match name.as_str() {
            "default" => {
                let mut meta = default_context();
                // The list describes it; it has no description of its own.
                meta["Metadata"] = json!({});
                Ok(meta)
            }
            name => store.load(name).map(|c| c.meta),
        };
        match meta {
            Ok(mut meta) => {
                let files: Vec<&str> = store.tls_files(&name).iter().map(|(f, _)| *f).collect();
                meta["TLSMaterial"] =
                    if files.is_empty() { json!({}) } else { json!({"docker": files}) };
                let in_memory = || "<IN MEMORY>".to_owned();
                let path = |dir: std::path::PathBuf| {
                    if name == "default" { in_memory() } else { dir.display().to_string() }
                };
                meta["Storage"] = json!({
                    "MetadataPath": path(store.meta_dir(&name)), "TLSPath": path(store.tls_dir(&name)),
                });
                found.push(meta);
            }
            Err(failure) => failures.push(failure),
        }
    }
    match (&template, call.given.text("format")) {
        (Some(template), _) => {
            for meta in &found {
                say_line(template.execute(meta).map_err(table::parsing)?)?;
            }
        }
        (None, "json") => say_line(html_safe(&Value::from(found).to_string()))?,
        (None, _) => say_line(html_safe(&indent(&found.into(), "    ")))?,
    }
    Failure::join(failures)
}

/// `context rm CONTEXT...`
pub async fn rm(call: Call) -> Outcome {
    let store = Store::open(&call.session);
    let current = context::current(&call.session);
    let force = call.given.on("force");
    let mut failures = Vec::new();
    for name in call.args() {
        let refused = match name.as_str() {
            "default" => Some("context \"default\" cannot be removed".to_owned()),
            name if !store.has(name) && !force => {
                Some(format!("context {} does not exist", quote(name)))
            }
            name if name == current && !force => {
                Some(format!("context {} is in use, set -f flag to force remove", quote(name)))
            }
            _ => None,
        };
        if let Some(why) = refused {
            failures.push(why.into());
            continue;
        }
        store.remove(name)?;
        if *name == current {
            call.session.config().save(|map| drop(map.remove("currentContext")))?;
        }
        say_line(name)?;
    }
    Failure::join(failures)
}

/// `context export CONTEXT [FILE|-]`
pub async fn export(call: Call) -> Outcome {
    let name = &call.args()[0];
    check_name(name)?;
    let store = Store::open(&call.session);
    let context = store.load(name)?;
    let default = format!("{name}.dockercontext");
    let target = call.args().get(1).unwrap_or(&default);
    let bytes = archive(&context.meta, &read_files(&store, name)?)?;
    if target == "-" {
        if std::io::stdout().is_terminal() {
            return Err("cowardly refusing to export to a terminal, specify a file path".into());
        }
        return say(bytes);
    }
    let made = std::fs::File::options().write(true).create_new(true).open(target);
    made.and_then(|mut file| file.write_all(&bytes))
        .map_err(|e| Failure::new(format!("open {target}: {}", crate::failure::os_text(&e))))?;
    warn(format!("Written file {}", quote(target)));
    Ok(())
}

fn archive(meta: &Value, files: &Files) -> Result<Vec<u8>, Failure> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |name: &str, bytes: &[u8], mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        builder.append_data(&mut header, name, bytes)
    };
    put("meta.json", meta.to_string().as_bytes(), 0o644)?;
    for (name, bytes) in files {
        put(&format!("tls/docker/{name}"), bytes, 0o600)?;
    }
    Ok(builder.into_inner()?)
}

/// No context is larger than this.
const MAX_CONTEXT: u64 = 10 << 20;

/// `context import CONTEXT FILE|-`
pub async fn import(call: Call) -> Outcome {
    let (name, source) = (&call.args()[0], &call.args()[1]);
    check_name(name)?;
    let store = Store::open(&call.session);
    if store.has(name) {
        return Err(Failure::new(format!("context {} already exists", quote(name))));
    }
    let reader: Box<dyn Read> =
        match source.as_str() {
            "-" => Box::new(std::io::stdin()),
            path => Box::new(std::fs::File::open(path).map_err(|e| {
                Failure::new(format!("open {path}: {}", crate::failure::os_text(&e)))
            })?),
        };
    let mut archive = tar::Archive::new(reader.take(MAX_CONTEXT));
    let (mut meta, mut files) = (None, Vec::new());
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        match path.as_str() {
            "meta.json" => meta = serde_json::from_slice::<Value>(&bytes).ok(),
            "tls/docker/ca.pem" | "tls/docker/cert.pem" | "tls/docker/key.pem" => {
                files.push((path["tls/docker/".len()..].to_owned(), bytes));
            }
            // Directories, and endpoints of other orchestrators.
            _ => (),
        }
    }
    let Some(mut meta) = meta else { return Err("invalid context: no metadata found".into()) };
    meta["Name"] = name.as_str().into();
    save(&store, name, meta, &files)?;
    say_line(name)?;
    warn(format!("Successfully imported context {}", quote(name)));
    Ok(())
}
