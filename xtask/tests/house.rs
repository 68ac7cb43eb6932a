//! House tests: the shape of the workspace, checked by `cargo test -p xtask`.
//!
//! Each test names the rule it keeps and prints what to do about a failure.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests of the source tree; a surprise is a panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs, process::Command};

/// Every shipped crate and the floor it stands on. Normal and build
/// dependencies between crates must point to a strictly lower floor.
const FLOORS: &[(&str, u8)] = &[
    ("wharf-base", 0),
    ("wharf-spec", 1),
    ("wharf-template", 1),
    ("wharf-tls", 1),
    ("wharf-sys", 1),
    ("wharf-kube", 1),
    ("wharf-runtime", 2),
    ("wharf-client", 2),
    ("wharf-image", 2),
    ("wharf-net", 2),
    ("wharf-keeper", 3),
    ("wharf-engine", 4),
    ("wharf-registry", 4),
    ("wharf-etcd", 5),
    ("wharf-apiserver", 6),
    ("wharf-controllers", 7),
    ("wharf-build", 5),
    ("wharf-compose", 5),
    ("wharf-buildkit", 7),
    ("wharf-serve", 8),
    ("wharf-cli", 8),
    ("wharf", 9),
];

/// Crates outside the tower: they may import anything, nothing shipped may import them.
const DEV_ONLY: &[&str] = &["xtask", "wharf-test"];

/// Crates kept apart although their floors would let them meet: who, from whom, why.
const APART: &[(&[&str], &[&str], &str)] = &[
    (
        &["wharf-cli"],
        &[
            "wharf-runtime",
            "wharf-image",
            "wharf-net",
            "wharf-keeper",
            "wharf-engine",
            "wharf-serve",
        ],
        "the command line reaches an engine only through its API",
    ),
    (
        &["wharf-controllers"],
        &["wharf-etcd", "wharf-apiserver"],
        "controllers see the cluster through wharf-client",
    ),
];

/// Third-party crates that carry a capability, and the only crates that may hold it.
const OWNERS: &[(&str, &[&str])] = &[
    ("clap", &["wharf", "wharf-cli"]),
    ("anyhow", &["wharf"]),
    ("axum", &["wharf-serve"]),
    (
        "hyper",
        &[
            "wharf-apiserver",
            "wharf-buildkit",
            "wharf-cli",
            "wharf-image",
            "wharf-registry",
            "wharf-serve",
        ],
    ),
    ("libc", &["wharf-sys"]),
    ("rustix", &["wharf-sys"]),
    ("nix", &["wharf-sys"]),
    ("tracing-subscriber", &["wharf"]),
];

/// Shipped lines beyond which a file is named, so that a person asks whether it has one subject.
const SIGNAL: usize = 600;

#[test]
fn dependencies_point_down() {
    let floor: BTreeMap<&str, u8> = FLOORS.iter().copied().collect();
    let mut wrong = Vec::new();
    let packages = packages();
    let names: BTreeSet<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    for (name, _) in FLOORS {
        if !names.contains(name) {
            wrong.push(format!("{name} is in FLOORS but not in the workspace"));
        }
    }
    for p in &packages {
        if DEV_ONLY.contains(&p.name.as_str()) {
            continue;
        }
        let Some(&own) = floor.get(p.name.as_str()) else {
            wrong.push(format!("{} has no floor: add it to FLOORS", p.name));
            continue;
        };
        for dep in p.deps.iter().filter(|d| names.contains(d.name.as_str())) {
            if dep.kind == "dev" && DEV_ONLY.contains(&dep.name.as_str()) {
                continue;
            }
            match floor.get(dep.name.as_str()) {
                Some(&under) if under < own => (),
                Some(&under) => wrong
                    .push(format!("{} (floor {own}) imports {} (floor {under})", p.name, dep.name)),
                None => wrong.push(format!("{} imports dev-only {}", p.name, dep.name)),
            }
            for (who, from, why) in APART {
                if who.contains(&p.name.as_str()) && from.contains(&dep.name.as_str()) {
                    wrong.push(format!("{} imports {}: {why}", p.name, dep.name));
                }
            }
        }
    }
    report("dependency floors", wrong);
}

#[test]
fn capabilities_have_one_owner() {
    let mut wrong = Vec::new();
    for p in packages().iter().filter(|p| !DEV_ONLY.contains(&p.name.as_str())) {
        for (lib, owners) in OWNERS {
            let held = p.deps.iter().any(|d| d.name == *lib && d.kind != "dev");
            if held && !owners.contains(&p.name.as_str()) {
                wrong.push(format!("{} depends on {lib}; only {owners:?} may", p.name));
            }
        }
    }
    report("capability owners", wrong);
}

#[test]
fn manifests_inherit_the_workspace() {
    let mut wrong = Vec::new();
    for p in packages() {
        let text = fs::read_to_string(&p.manifest).unwrap();
        if !text.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{}: add `[lints] workspace = true`", p.name));
        }
        let mut in_deps = false;
        for line in text.lines() {
            if line.starts_with('[') {
                in_deps = line.contains("dependencies");
            } else if in_deps && line.contains('=') && !line.contains("workspace = true") {
                wrong.push(format!("{}: `{line}` must come from [workspace.dependencies]", p.name));
            }
        }
    }
    report("workspace manifests", wrong);
}

#[test]
fn unsafe_lives_in_one_crate() {
    let mut wrong = Vec::new();
    for p in packages() {
        if p.name == "wharf-sys" || DEV_ONLY.contains(&p.name.as_str()) {
            continue;
        }
        let src = p.manifest.parent().unwrap().join("src");
        let root = ["lib.rs", "main.rs"].iter().map(|f| src.join(f)).find(|f| f.exists()).unwrap();
        if !fs::read_to_string(&root).unwrap().contains("#![forbid(unsafe_code)]") {
            wrong.push(format!("{}: add `#![forbid(unsafe_code)]`", show(&root)));
        }
    }
    report("unsafe", wrong);
}

#[test]
fn files_open_with_a_purpose() {
    let mut wrong = Vec::new();
    for path in sources() {
        let (name, text) = (show(&path), fs::read_to_string(&path).unwrap());
        if !text.starts_with("//!") && !name.ends_with("tests.rs") {
            wrong.push(format!("{name}: first line must be a `//!` purpose line"));
        }
        let n = shipped_lines(&text);
        if n > SIGNAL {
            eprintln!("{name}: {n} lines; one subject still?");
        }
    }
    report("files", wrong);
}

#[test]
fn errors_say_their_part_only() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for e in error_variants(&text) {
            let at = format!("{}:{}", show(&path), e.line);
            let repeats = |s: &String| {
                ["}", ":"].iter().any(|end| e.message.contains(&format!("{{{s}{end}")))
            };
            if e.source.as_ref().is_some_and(repeats) {
                wrong.push(format!(
                    "{at}: message repeats its source; drop it, the chain prints it"
                ));
            }
            if e.message.ends_with('.') || e.message.starts_with(|c: char| c.is_ascii_uppercase()) {
                wrong.push(format!("{at}: message must be lower case with no full stop"));
            }
        }
    }
    report("errors", wrong);
}

#[test]
fn tests_give_reasons_and_do_not_sleep() {
    let mut wrong = Vec::new();
    for path in sources() {
        let (name, text) = (show(&path), fs::read_to_string(&path).unwrap());
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let line = line.trim_start();
            // An attribute may go on over several lines, up to its closing bracket.
            let reasoned = || {
                let to = lines[i..].iter().position(|l| l.contains(")]")).map_or(i, |n| i + n);
                lines[i..=to].iter().any(|l| l.contains("reason"))
            };
            let bare_allow = line.starts_with("#[allow(") && !reasoned();
            if line.starts_with("#[ignore]") || bare_allow {
                wrong.push(format!("{name}:{}: give a reason", i + 1));
            }
            // The lint that forbids it has let it pass, for a reason, just above.
            let let_pass = || {
                lines[i.saturating_sub(3)..i]
                    .iter()
                    .any(|l| l.contains("disallowed_methods, reason"))
            };
            if name.starts_with("crates/") && line.contains("thread::sleep(") && !let_pass() {
                wrong.push(format!("{name}:{}: wait on an event or a fake clock", i + 1));
            }
        }
    }
    report("reasons", wrong);
}

struct Package {
    name: String,
    manifest: PathBuf,
    deps: Vec<Dep>,
}

struct Dep {
    name: String,
    kind: String,
}

fn packages() -> Vec<Package> {
    let out = Command::new(env::var("CARGO").unwrap_or("cargo".into()))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let meta: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap_or("normal").to_owned();
    meta["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| Package {
            name: text(&p["name"]),
            manifest: text(&p["manifest_path"]).into(),
            deps: p["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .map(|d| Dep { name: text(&d["name"]), kind: text(&d["kind"]) })
                .collect(),
        })
        .collect()
}

struct ErrorVariant {
    line: usize,
    message: String,
    source: Option<String>,
}

/// Finds `#[error("…")]` attributes with the field list that follows each.
/// The source is named by field name, or by position in a tuple variant.
fn error_variants(text: &str) -> Vec<ErrorVariant> {
    const OPEN: &str = "#[error(";
    let mut found = Vec::new();
    for (at, _) in text.match_indices(OPEN) {
        let attr = &text[at + OPEN.len()..];
        let Some(rest) = attr.trim_start().strip_prefix('"') else { continue };
        let Some(end) = rest.find("\",").into_iter().chain(rest.find("\")")).min() else {
            continue;
        };
        let after = &rest[end..];
        let fields = after.find(")]").map_or("", |i| &after[i + 2..]);
        // A unit variant ends at the comma before any bracket opens.
        let open =
            fields.find(['(', '{', ',', '}']).filter(|&i| matches!(&fields[i..=i], "(" | "{"));
        let source = open.and_then(|i| source_field(&fields[i + 1..]));
        let line = text[..at].matches('\n').count() + 1;
        found.push(ErrorVariant { line, message: rest[..end].to_owned(), source });
    }
    found
}

fn source_field(fields: &str) -> Option<String> {
    let (mut depth, mut start, mut index) = (0i32, 0, 0usize);
    for (i, c) in fields.char_indices() {
        match c {
            '(' | '{' | '<' | '[' => depth += 1,
            ')' | '}' | '>' | ']' if depth > 0 => depth -= 1,
            ',' | ')' | '}' if depth == 0 => {
                let field = fields[start..i].trim();
                let name = field_name(field);
                let marked = field.contains("#[source]") || field.contains("#[from]");
                if marked || name == Some("source") {
                    return Some(name.map_or_else(|| index.to_string(), str::to_owned));
                }
                if c != ',' {
                    return None;
                }
                (start, index) = (i + 1, index + 1);
            }
            _ => (),
        }
    }
    None
}

/// The name before a single colon, so `io::Error` has none.
fn field_name(field: &str) -> Option<&str> {
    let bare = field.rsplit(']').next()?.trim().trim_start_matches("pub ");
    let (name, ty) = bare.split_once(':')?;
    (!ty.starts_with(':')).then_some(name.trim())
}

/// Lines before the test module, which the house puts last.
fn shipped_lines(text: &str) -> usize {
    let end = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().count()
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = ["crates", "tests", "xtask/src"].map(|d| root().join(d)).to_vec();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !generated(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Code that `cargo xtask protos` wrote: its style is its generator's.
fn generated(path: &Path) -> bool {
    fs::read_to_string(path).unwrap().starts_with("// This file is @generated")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn show(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

#[track_caller]
fn report(rule: &str, wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{rule}: {} to fix\n  {}\n", wrong.len(), wrong.join("\n  "));
}
