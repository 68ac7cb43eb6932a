//! Questions about a Dockerfile in place of a build: `--call check`, `outline` and `targets`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tonic::Status;
use wharf_build::BuildError;
use wharf_build::progress::Warning;
use wharf_spec::dockerfile::expand::Lexer;
use wharf_spec::dockerfile::instruction::Run;
use wharf_spec::dockerfile::{ArgDecl, Dockerfile, DockerfileError, Kind, MountType, Span, Stage};

use crate::fault::{self, at_lines, info, range};
use crate::options::Options;
use crate::proto::pb;

/// The version of every answer.
const VERSION: &str = "1.0.0";

/// Questions and what they are for.
const QUESTIONS: &[(&str, &str)] = &[
    ("frontend.subrequests.describe", "List available subrequest types"),
    ("frontend.outline", "List all parameters current build target supports"),
    ("frontend.targets", "List all targets current build supports"),
    (LINT, "Lint a Dockerfile"),
];

type Answer = HashMap<String, Bytes>;

/// The question for which a builder looks through the Dockerfile; `lint` makes the answer of what it found.
pub(crate) const LINT: &str = "frontend.lint";

/// Answers another one, as metadata of a result without files.
pub(crate) fn answer(
    question: &str,
    options: &Options,
    file: &pb::SourceInfo,
) -> Result<Answer, Status> {
    let text = String::from_utf8_lossy(&file.data);
    let parsed = || Dockerfile::parse(&text).map_err(|e| broken(&e, file));
    match question {
        "frontend.subrequests.describe" => Ok(describe()),
        "frontend.targets" => Ok(targets(&parsed()?, file)),
        "frontend.outline" => outline(&parsed()?, options, file),
        other => Err(Status::unimplemented(format!(
            "unsupported request {other}: use --call with check, outline or targets"
        ))),
    }
}

fn broken(error: &DockerfileError, file: &pb::SourceInfo) -> Status {
    let text = format!("dockerfile parse error on line {}: {}", error.at.line, error.message);
    at_lines(text, file, error.at.line, error.last_line)
}

fn reply(json: &Value, text: String) -> Answer {
    HashMap::from([
        ("result.json".to_owned(), Bytes::from(format!("{json:#}"))),
        ("result.txt".to_owned(), Bytes::from(text)),
        ("version".to_owned(), Bytes::from_static(VERSION.as_bytes())),
    ])
}

fn describe() -> Answer {
    let entry = |(name, description): &(&str, &str)| {
        let metadata = json!([{ "name": "result.json" }, { "name": "result.txt" }]);
        json!({
            "name": name, "version": VERSION, "type": "rpc", "description": description, "metadata": metadata
        })
    };
    let rows = QUESTIONS.iter().map(|(name, description)| {
        vec![name.trim_start_matches("frontend.").to_owned(), VERSION.into(), (*description).into()]
    });
    let text = table(&["NAME", "VERSION", "DESCRIPTION"], rows);
    reply(&QUESTIONS.iter().map(entry).collect(), text)
}

/// The answer about a Dockerfile that was looked through: warnings, and the error that ended it.
pub(crate) fn lint(
    mut found: Vec<Warning>,
    error: Option<&BuildError>,
    file: &pb::SourceInfo,
) -> Answer {
    found.sort_by_key(|w| w.lines);
    let mut warnings = Vec::new();
    let mut text = String::new();
    for Warning { rule, description, url, message, lines: (first, last) } in &found {
        warnings.push(json!({
            "ruleName": rule,
            "description": description,
            "url": url,
            "detail": message,
            "location": { "ranges": [range(*first, *last)] },
        }));
        text.push_str(&format!("\nWARNING: {rule} - {url}\n{message}\n"));
        text.push_str(&snippet(file, *first, *last));
    }
    let clean = warnings.is_empty() && error.is_none();
    let mut result = json!({ "warnings": warnings, "sources": [info(file)] });
    if let Some(error) = error {
        let message = fault::text(error);
        text.push_str(&format!("{message}\n"));
        let mut ranges = Vec::new();
        if let Some(at) = error.location() {
            ranges.push(range(at.line, at.last_line));
            text.push_str(&snippet(file, at.line, at.last_line));
        }
        result["buildError"] = json!({ "message": message, "location": { "ranges": ranges } });
    }
    let mut answer = reply(&result, text);
    let status = if clean { "0" } else { "1" };
    answer.insert("result.statuscode".to_owned(), Bytes::from_static(status.as_bytes()));
    answer
}

/// Lines of a file with some around them, the ones that are meant marked.
fn snippet(file: &pb::SourceInfo, first: usize, last: usize) -> String {
    let text = String::from_utf8_lossy(&file.data);
    let lines: Vec<&str> = text.lines().collect();
    let around = if first == last { 2 } else { 1 };
    let from = first.saturating_sub(around).max(1);
    let mut out = format!("{}:{first}\n--------------------\n", file.filename);
    for (n, line) in lines.iter().enumerate().skip(from - 1).take(last + around + 1 - from) {
        let mark = if (first..=last).contains(&(n + 1)) { ">>>" } else { "   " };
        out.push_str(format!(" {:3} | {mark} {line}", n + 1).trim_end());
        out.push('\n');
    }
    out + "--------------------\n"
}

fn targets(parsed: &Dockerfile, file: &pb::SourceInfo) -> Answer {
    let last = parsed.stages.len().saturating_sub(1);
    let mut rows = Vec::new();
    let mut targets = Vec::new();
    for (n, stage) in parsed.stages.iter().enumerate() {
        let name = stage.name.clone().unwrap_or_default();
        let description = description(&stage.comments, &name);
        let mut target = Map::new();
        put(&mut target, "name", &name);
        if n == last {
            target.insert("default".into(), true.into());
        }
        put(&mut target, "description", &description);
        put(&mut target, "base", &stage.base);
        put(&mut target, "platform", stage.platform.as_deref().unwrap_or_default());
        target.insert("location".into(), location(stage.span));
        targets.push(Value::Object(target));
        let shown = match (name.as_str(), n == last) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        rows.push(vec![shown, description]);
    }
    let json = json!({ "targets": targets, "sources": [STANDARD.encode(&file.data)] });
    reply(&json, table(&["TARGET", "DESCRIPTION"], rows.into_iter()))
}

fn outline(
    parsed: &Dockerfile,
    options: &Options,
    file: &pb::SourceInfo,
) -> Result<Answer, Status> {
    let wanted = match &options.request.target {
        None => parsed.stages.len() - 1,
        Some(name) => parsed
            .stage_before(name, parsed.stages.len())
            .ok_or_else(|| Status::unknown(format!("target stage {name:?} could not be found")))?,
    };
    let found = Found::collect(parsed, wanted, options);
    let stage = &parsed.stages[wanted];
    let name = stage.name.clone().unwrap_or_default();
    let mut outline = Map::new();
    put(&mut outline, "name", &name);
    put(&mut outline, "description", &description(&stage.comments, &name));
    for (key, list) in [("args", &found.args), ("secrets", &found.secrets), ("ssh", &found.ssh)] {
        if !list.is_empty() {
            outline.insert(key.into(), list.iter().map(|f| f.json.clone()).collect());
        }
    }
    outline.insert("sources".into(), json!([STANDARD.encode(&file.data)]));
    let mut text = String::new();
    if !name.is_empty() {
        text.push_str(&format!("TARGET: {name}\n\n"));
    }
    for (head, list) in [
        (&["BUILD ARG", "VALUE", "DESCRIPTION"][..], &found.args),
        (&["SECRET", "REQUIRED"], &found.secrets),
        (&["SSH", "REQUIRED"], &found.ssh),
    ] {
        if !list.is_empty() {
            text.push_str(&table(head, list.iter().map(|f| f.row.clone())));
            text.push('\n');
        }
    }
    Ok(reply(&Value::Object(outline), text))
}

/// The value of an argument: the client's, its own default with the variables that it names, the global one's.
fn value(
    arg: &ArgDecl,
    globals: &BTreeMap<String, String>,
    known: &BTreeMap<String, String>,
    lexer: &Lexer,
    options: &Options,
) -> String {
    match (options.request.args.get(&arg.name), &arg.default) {
        (Some(given), _) => given.clone(),
        // What cannot be expanded is shown as it is written.
        (None, Some(default)) => {
            let word = lexer.word(default, &|name: &str| known.get(name).cloned());
            word.map_or_else(|_| default.clone(), |word| word.text)
        }
        (None, None) => globals.get(&arg.name).cloned().unwrap_or_default(),
    }
}

/// What the stages of a target take from outside.
#[derive(Default)]
struct Found {
    args: Vec<Input>,
    secrets: Vec<Input>,
    ssh: Vec<Input>,
    seen: BTreeSet<(&'static str, String)>,
    /// The arguments' values up to here.
    values: BTreeMap<String, String>,
}

struct Input {
    line: usize,
    json: Value,
    row: Vec<String>,
}

impl Found {
    fn collect(parsed: &Dockerfile, wanted: usize, options: &Options) -> Found {
        let lexer = Lexer::new(parsed.escape);
        let mut globals = BTreeMap::new();
        for (arg, _) in &parsed.globals {
            let value = value(arg, &BTreeMap::new(), &globals, &lexer, options);
            globals.insert(arg.name.clone(), value);
        }
        let mut found = Found::default();
        for n in reachable(parsed, wanted) {
            let stage = &parsed.stages[n];
            for (arg, span) in &parsed.globals {
                let used = [format!("${}", arg.name), format!("${{{}", arg.name)];
                if used.iter().any(|u| stage.base.contains(u.as_str())) {
                    found.arg(arg, globals[&arg.name].clone(), *span);
                }
            }
            for instruction in &stage.instructions {
                match &instruction.kind {
                    Kind::Arg(args) => args.iter().for_each(|arg| {
                        let value = value(arg, &globals, &found.values, &lexer, options);
                        found.values.insert(arg.name.clone(), value.clone());
                        found.arg(arg, value, instruction.span);
                    }),
                    Kind::Run(run) => found.mounts(run, instruction.span),
                    _ => (),
                }
            }
        }
        for list in [&mut found.args, &mut found.secrets, &mut found.ssh] {
            list.sort_by_key(|i| i.line);
        }
        found
    }

    fn arg(&mut self, arg: &ArgDecl, value: String, span: Span) {
        if !self.seen.insert(("arg", arg.name.clone())) {
            return;
        }
        let mut json = Map::from_iter([("name".to_owned(), Value::from(arg.name.clone()))]);
        put(&mut json, "value", &value);
        json.insert("location".into(), location(span));
        let row = vec![arg.name.clone(), value, String::new()];
        self.args.push(Input { line: span.start.line, json: Value::Object(json), row });
    }

    fn mounts(&mut self, run: &Run, span: Span) {
        for mount in &run.mounts {
            let (kind, default) = match mount.kind {
                MountType::Secret => ("secret", mount.target.as_deref().unwrap_or_default()),
                MountType::Ssh => ("ssh", "default"),
                MountType::Bind | MountType::Cache | MountType::Tmpfs => continue,
            };
            let base = default.rsplit('/').next().unwrap_or_default().to_owned();
            let name = mount.id.clone().unwrap_or(base);
            if !self.seen.insert((kind, name.clone())) {
                continue;
            }
            let mut json = Map::from_iter([("name".to_owned(), Value::from(name.clone()))]);
            if mount.required {
                json.insert("required".into(), true.into());
            }
            json.insert("location".into(), location(span));
            let required = if mount.required { "true" } else { "" };
            let row = vec![name, required.to_owned()];
            let input = Input { line: span.start.line, json: Value::Object(json), row };
            let list = if kind == "ssh" { &mut self.ssh } else { &mut self.secrets };
            list.push(input);
        }
    }
}

/// The stages that a target is made of.
fn reachable(parsed: &Dockerfile, wanted: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut todo = vec![wanted];
    while let Some(n) = todo.pop() {
        if found.insert(n) {
            let names = sources(&parsed.stages[n]);
            todo.extend(names.iter().filter_map(|name| parsed.stage_before(name, n)));
        }
    }
    found
}

/// Everything that a stage takes files from.
fn sources(stage: &Stage) -> Vec<String> {
    let mut names = vec![stage.base.clone()];
    for instruction in &stage.instructions {
        match &instruction.kind {
            Kind::Copy(copy) => names.extend(copy.from.clone()),
            Kind::Run(run) => names.extend(run.mounts.iter().filter_map(|m| m.from.clone())),
            _ => (),
        }
    }
    names
}

/// A comment that begins with the name of what it describes.
fn description(comments: &[String], name: &str) -> String {
    let about = comments.iter().find_map(|c| {
        let (first, rest) = c.trim().trim_start_matches('#').trim().split_once(' ')?;
        (!name.is_empty() && first.eq_ignore_ascii_case(name)).then(|| rest.trim().to_owned())
    });
    about.unwrap_or_default()
}

fn location(span: Span) -> Value {
    json!({ "ranges": [range(span.start.line, span.last_line)] })
}

/// Empty texts are left out.
fn put(object: &mut Map<String, Value>, key: &str, value: &str) {
    if !value.is_empty() {
        object.insert(key.to_owned(), value.into());
    }
}

/// Columns with three blanks between them.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let mut out = String::new();
    for row in &rows {
        for (n, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|r| r[n].chars().count()).max().unwrap_or_default() + 3;
            let last = n + 1 == row.len();
            out.push_str(&if last { cell.clone() } else { format!("{cell:width$}") });
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
ARG BASE=alpine
FROM $BASE AS Build
ARG VERSION=1
RUN --mount=type=secret,id=token,required=true --mount=type=ssh make
# final the one to ship
FROM scratch AS final
COPY --from=build /x /x
";

    fn source(text: &'static str) -> pb::SourceInfo {
        pb::SourceInfo {
            filename: "Dockerfile".into(),
            data: Bytes::from_static(text.as_bytes()),
            ..pb::SourceInfo::default()
        }
    }

    fn ask(question: &str, text: &'static str) -> (Value, String) {
        let mut answer = answer(question, &Options::default(), &source(text)).unwrap();
        let json = serde_json::from_slice(&answer["result.json"]).unwrap();
        (json, String::from_utf8(answer.remove("result.txt").unwrap().to_vec()).unwrap())
    }

    #[test]
    fn targets_are_listed_with_their_comments() {
        let (json, text) = ask("frontend.targets", FILE);
        assert_eq!(json["targets"][0]["name"], "Build");
        assert_eq!(json["targets"][1]["default"], true);
        assert_eq!(json["targets"][1]["base"], "scratch");
        assert!(text.contains("final (default)"), "{text}");
    }

    #[test]
    fn the_outline_names_what_a_target_takes() {
        let (json, text) = ask("frontend.outline", FILE);
        let names: Vec<_> = json["args"].as_array().unwrap().iter().map(|a| &a["name"]).collect();
        assert_eq!(names, ["BASE", "VERSION"]);
        assert_eq!(json["secrets"][0]["name"], "token");
        assert_eq!(json["secrets"][0]["required"], true);
        assert_eq!(json["ssh"][0]["name"], "default");
        assert!(text.contains("VERSION     1\n"), "{text}");
        let named = "ARG A=6\nFROM scratch\nARG A\nARG B=x${A}7\n";
        assert_eq!(ask("frontend.outline", named).0["args"][1]["value"], "x67");
    }

    #[test]
    fn checks_point_at_lines() {
        let file = source(FILE);
        let warning = |rule: &str, line| Warning {
            rule: rule.into(),
            description: String::new(),
            url: "https://example.org/".into(),
            message: "odd".into(),
            lines: (line, line),
        };
        let read = |mut answer: Answer| {
            let json: Value = serde_json::from_slice(&answer["result.json"]).unwrap();
            let text = answer.remove("result.txt").unwrap();
            let status = answer.remove("result.statuscode").unwrap();
            (json, String::from_utf8(text.to_vec()).unwrap(), status)
        };
        let found = vec![warning("Second", 4), warning("First", 2)];
        let (json, text, status) = read(lint(found, None, &file));
        let first = &json["warnings"][0];
        assert_eq!(first["ruleName"], "First");
        assert_eq!(first["location"]["ranges"][0]["start"]["line"], 2);
        assert!(text.contains("   2 | >>> FROM $BASE AS Build\n"), "{text}");
        assert_eq!((json.get("buildError"), &status[..]), (None, &b"1"[..]));
        let at = Box::new(wharf_build::Location {
            file: "Dockerfile".into(),
            line: 3,
            column: 1,
            last_line: 3,
            text: "ARG VERSION=1".into(),
        });
        let error = BuildError::Dockerfile { at, message: "unknown instruction: ARGH".into() };
        let (json, text, _) = read(lint(Vec::new(), Some(&error), &file));
        let message = json["buildError"]["message"].as_str().unwrap();
        assert_eq!(message, "dockerfile parse error on line 3: unknown instruction: ARGH");
        assert!(text.contains(">>> ARG VERSION=1"), "{text}");
        assert_eq!(read(lint(Vec::new(), None, &file)).2, "0");
    }

    #[test]
    fn unknown_questions_are_refused_by_name() {
        let file = pb::SourceInfo::default();
        let refused = answer("frontend.new", &Options::default(), &file).unwrap_err();
        assert!(refused.message().contains("frontend.new"));
    }
}
