//! `config`: a project as it is understood.

use std::collections::BTreeSet;

use serde::Serialize as _;
use wharf_spec::compose::model::Service;
use wharf_spec::compose::{Form, Loaded, Out, Project, Resolution, Selection, Source};

use super::project::Setup;
use super::remark;
use crate::app::{Call, say, say_line};
use crate::failure::Failure;
use crate::parse::reference;
use crate::verbs::Outcome;

/// `compose config [SERVICE...]`
#[expect(clippy::disallowed_methods, reason = "whoever reads the file asked for it and waits")]
pub async fn config(call: Call) -> Outcome {
    let given = &call.given;
    let lists = ["services", "volumes", "networks", "models", "profiles", "images", "environment"];
    if let Some(what) = lists.iter().find(|l| given.on(l)) {
        return list(&call, what);
    }
    if given.on("variables") {
        return variables(&call);
    }
    if given.changed("hash") {
        return hashes(&call);
    }
    if given.on("explain") {
        return explain(&call);
    }
    let form = match given.text("format") {
        "" | "yaml" => Form::Yaml,
        "json" => Form::Json,
        other => return Err(Failure::new(format!("unsupported format {other:?}"))),
    };
    let resolution = Resolution {
        keep_variables: given.on("no-interpolate"),
        keep_paths: given.on("no-path-resolution"),
        keep_form: given.on("no-normalize"),
        unchecked: given.on("no-consistency"),
        keep_env_files: given.on("no-env-resolution"),
    };
    let mut loaded = loaded(&call, resolution)?;
    let locked = given.on("lock-image-digests");
    if locked || given.on("resolve-image-digests") {
        if resolution.keep_variables {
            return Err("--no-interpolate leaves no images whose digests could be asked for".into());
        }
        pin(&call, &mut loaded.project).await?;
    }
    if locked {
        // An override file: the images and nothing else.
        let only = |s: Service| Service { image: s.image, ..Service::default() };
        let services = std::mem::take(&mut loaded.project.services);
        let services = services.into_iter().map(|(name, s)| (name, only(s))).collect();
        loaded.project = Project { services, ..Project::default() };
    }
    let out = match resolution.keep_variables {
        true => loaded.tree.written(form),
        false => {
            if let Some(clash) = loaded.project.container_name_clash() {
                return Err(Failure::new(clash));
            }
            loaded.project.written(form)
        }
    };
    let mut text = match form {
        Form::Yaml => out.yaml(),
        Form::Json => out.pretty(),
    };
    if !resolution.keep_variables {
        // So that what is printed can be read again.
        text = text.replace('$', "$$");
    }
    match given.text("output") {
        _ if given.on("quiet") => Ok(()),
        "" => say(text),
        file => std::fs::write(file, text)
            .map_err(|e| Failure::new(format!("open {file}: {}", crate::failure::os_text(&e)))),
    }
}

/// Adds to every image the digest that its registry has under its tag.
async fn pin(call: &Call, project: &mut Project) -> Outcome {
    for service in project.services.values_mut().filter(|s| !s.image.is_empty()) {
        let name = reference::parse(&service.image)?.with_default_tag();
        if name.digest.is_some() {
            continue;
        }
        let answer = super::outdated::ask(call, &service.image).await.map_err(|f| {
            Failure::new(format!("failed to resolve digest for {}: {}", service.image, f.text))
        })?;
        let digest = crate::verbs::text(&answer["Descriptor"], "digest");
        let tag = name.tag.as_deref().unwrap_or("latest");
        service.image = format!("{}:{tag}@{digest}", name.full_name());
    }
    Ok(())
}

fn loaded(call: &Call, resolution: Resolution) -> Result<Loaded, Failure> {
    let mut setup = Setup::find(call)?;
    setup.request.resolution = resolution;
    let mut loaded = setup.load(false)?;
    restrict(call, &mut loaded)?;
    Ok(loaded)
}

/// Keeps the services that the call names and what they need.
fn restrict(call: &Call, loaded: &mut Loaded) -> Outcome {
    let names = call.args().to_vec();
    loaded.project.enable(&names);
    loaded.project.select(&names, Selection::WithDependencies)?;
    loaded.project.readable().map_err(Failure::new)?;
    if !call.group.on("all-resources") {
        loaded.project.drop_unused();
    }
    Ok(())
}

fn list(call: &Call, what: &str) -> Outcome {
    let loaded = loaded(call, Resolution { keep_env_files: true, ..Resolution::default() })?;
    let project = loaded.project;
    let lines: Vec<String> = match what {
        "services" => project.services.keys().cloned().collect(),
        "volumes" => project.volumes.keys().cloned().collect(),
        "networks" => project.networks.keys().cloned().collect(),
        "models" => project.models.values().map(|m| m.model.clone()).collect(),
        "profiles" => {
            let all = project.services.values().chain(project.disabled.values());
            let all: BTreeSet<String> = all.flat_map(|s| s.profiles.clone()).collect();
            all.into_iter().collect()
        }
        "images" => project
            .services
            .iter()
            .map(|(name, s)| s.image_or_default(&project.name, name))
            .collect(),
        _ => project.environment.iter().map(|(k, v)| format!("{k}={v}")).collect(),
    };
    lines.iter().try_for_each(say_line)
}

fn hashes(call: &Call) -> Outcome {
    let loaded = loaded(call, Resolution { keep_env_files: true, ..Resolution::default() })?;
    let wanted = call.given.text("hash");
    let mut names: Vec<&str> = match wanted {
        "*" => loaded.project.services.keys().map(String::as_str).collect(),
        list => list.split(',').collect(),
    };
    names.sort_unstable();
    for name in names {
        let service = loaded.project.services.get(name);
        let service = service.ok_or_else(|| Failure::new(format!("no such service: {name}")))?;
        say_line(format!("{name} {}", service.hash()))?;
    }
    Ok(())
}

/// Every value with the place that it comes from.
fn explain(call: &Call) -> Outcome {
    let mut setup = Setup::find(call)?;
    let from = std::mem::take(&mut setup.env_files);
    let mut loaded = setup.load(false)?;
    restrict(call, &mut loaded)?;
    let env = &loaded.project.environment;
    let variable = |name: &String| match (from.get(name), env.contains_key(name)) {
        (Some(file), _) => format!("{name} from {file}"),
        (None, true) if name == "COMPOSE_PROJECT_NAME" => format!("{name}, the project's name"),
        (None, true) => format!("{name} from the environment"),
        (None, false) => format!("{name} is not set"),
    };
    let origins = loaded.origins().into_iter().map(|o| {
        let source = match &o.source {
            Source::Place { file, line, column } => format!("{file}:{line}:{column}"),
            Source::Default => "default".to_owned(),
            Source::EnvFile(file) => format!("env_file {file}"),
        };
        let used: Vec<String> = o.variables.iter().map(variable).collect();
        (o, source, used)
    });
    match call.given.text("format") {
        "json" => {
            let all: Vec<serde_json::Value> = origins
                .map(|(o, source, used)| {
                    serde_json::json!({"Path": o.path, "Value": o.value, "Source": source,
                        "Variables": used})
                })
                .collect();
            say_line(serde_json::Value::from(all).to_string())
        }
        "" | "table" => {
            let mut table = "PATH\tVALUE\tSOURCE\n".to_owned();
            for (o, source, used) in origins {
                let used =
                    if used.is_empty() { used.join("") } else { format!(" ({})", used.join(", ")) };
                table.push_str(&format!("{}\t{}\t{source}{used}\n", o.path, o.value));
            }
            say(crate::out::table::align(&table, 20, 4))
        }
        other => Err(Failure::new(format!("unsupported format {other:?}"))),
    }
}

/// The variables that the files ask for.
fn variables(call: &Call) -> Outcome {
    let resolution = Resolution { keep_variables: true, unchecked: true, ..Resolution::default() };
    let mut setup = Setup::find(call)?;
    setup.request.resolution = resolution;
    let loaded = setup.load(true)?;
    let mut found = BTreeSet::new();
    collect(&loaded.tree.written(Form::Json), &mut found);
    loaded.warnings.iter().for_each(|w| remark(w));
    match call.given.text("format") {
        "json" => {
            let one = |(name, required, default, alternate): &Variable| {
                let fields = serde_json::json!({"Name": name, "DefaultValue": default,
                    "PresenceValue": alternate, "Required": required});
                (name.clone(), fields)
            };
            let all: serde_json::Map<_, _> = found.iter().map(one).collect();
            let mut text = Vec::new();
            let style = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            all.serialize(&mut serde_json::Serializer::with_formatter(&mut text, style))
                .map_err(|e| Failure::new(e.to_string()))?;
            text.push(b'\n');
            say(text)
        }
        "yaml" => {
            let quoted = |text: &str| Out::Text(text.to_owned()).yaml().trim_end().to_owned();
            found.iter().try_for_each(|(name, required, default, alternate)| {
                say_line(format!("{name}:\n    name: {}", quoted(name)))?;
                say_line(format!("    defaultvalue: {}", quoted(default)))?;
                say_line(format!("    presencevalue: {}", quoted(alternate)))?;
                say_line(format!("    required: {required}"))
            })
        }
        _ => {
            let mut table = String::from("NAME\tREQUIRED\tDEFAULT VALUE\tALTERNATE VALUE\n");
            for (name, required, default, alternate) in &found {
                table.push_str(&format!("{name}\t{required}\t{default}\t{alternate}\n"));
            }
            say(crate::out::table::align(&table, 10, 3))
        }
    }
}

type Variable = (String, bool, String, String);

fn collect(out: &Out, found: &mut BTreeSet<Variable>) {
    match out {
        Out::Text(text) => scan(text, found),
        Out::List(list) => list.iter().for_each(|o| collect(o, found)),
        Out::Map(map) => map.iter().for_each(|(_, o)| collect(o, found)),
        _ => (),
    }
}

fn scan(text: &str, found: &mut BTreeSet<Variable>) {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
            continue;
        }
        let braced = rest.starts_with('{');
        let inner = rest.trim_start_matches('{');
        let length = inner.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
        let (name, after) = inner.split_at(length.unwrap_or(inner.len()));
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let word = after.split('}').next().unwrap_or_default();
        let word = if braced { word.trim_start_matches(':') } else { "" };
        let value = word.get(1..).unwrap_or_default().to_owned();
        let (required, default, alternate) = match word.chars().next() {
            Some('-') => (false, value, String::new()),
            Some('+') => (false, String::new(), value),
            Some('?') => (true, String::new(), String::new()),
            _ => (false, String::new(), String::new()),
        };
        found.insert((name.to_owned(), required, default, alternate));
        rest = after;
    }
}
