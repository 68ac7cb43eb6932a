//! `cargo xtask test`: every suite with its counts and its time.

use crate::sh::{cargo, root, seconds};
use crate::{machine, tools, vm};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A part of the whole, selectable by `--only`.
struct Suite {
    name: &'static str,
    /// Needs the release binary and the test clients.
    engine: bool,
    run: fn(&Selection) -> Result<Tally>,
}

const SUITES: &[Suite] = &[
    Suite { name: "fmt", engine: false, run: fmt },
    Suite { name: "clippy", engine: false, run: clippy },
    Suite { name: "house", engine: false, run: |s| test(s, &["-p", "xtask"], &[]) },
    Suite { name: "unit", engine: false, run: unit },
    Suite { name: "acceptance", engine: true, run: |s| suite(s, &["acceptance"]) },
    Suite { name: "cli", engine: true, run: |s| suite(s, &["cli"]) },
    Suite { name: "applications", engine: true, run: applications },
    Suite { name: "reliability", engine: true, run: |s| suite(s, &["crash", "disk"]) },
    Suite { name: "clients", engine: true, run: |s| suite(s, &["clients", "bollard"]) },
    Suite { name: "etcd", engine: true, run: |s| suite(s, &["etcd"]) },
    Suite { name: "ship", engine: true, run: |s| suite(s, &["ship"]) },
    Suite { name: "buildkit", engine: true, run: |s| suite(s, &["buildkit"]) },
    Suite { name: "everyday", engine: true, run: |s| suite(s, &["everyday"]) },
    Suite {
        name: "kube",
        engine: true,
        run: |s| suite(s, &["kubectl", "access", "verbs", "loops", "nodes", "metrics", "helm"]),
    },
    Suite { name: "kube-rs", engine: true, run: |s| test(s, KUBE_RS, &["--test-threads", "4"]) },
    Suite { name: "oci", engine: true, run: |s| suite(s, &["oci"]) },
    Suite { name: "vm", engine: true, run: |s| vm::suite(s.filter.as_deref()) },
];

/// Programs on kube-rs: a workspace of their own in the same folder of what is built, so that a second run
/// compiles nothing.
const KUBE_RS: &[&str] = &["--manifest-path", "tests/kube-rs/Cargo.toml", "--target-dir", "target"];

/// What the command line asks for.
struct Selection {
    only: Vec<String>,
    filter: Option<String>,
}

/// How a suite went.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
}

/// `cargo xtask test [--only SUITE]... [FILTER]`; says whether all is well.
pub(crate) fn run(args: &[&str]) -> Result<bool> {
    let selection = Selection::parse(args)?;
    let chosen: Vec<&Suite> = SUITES.iter().filter(|s| selection.wants(s.name)).collect();
    machine::check()?;
    let start = Instant::now();
    let mut rows = Vec::new();
    if chosen.iter().any(|s| s.engine) {
        rows.push(timed("prepare", || prepare().map(|()| Tally::default())));
    }
    for suite in chosen {
        rows.push(run_suite(suite, &selection));
    }
    Ok(report(&rows, start.elapsed()))
}

/// The release binary of wharf, built from this tree; `WHARF_BIN` names another.
pub(crate) fn build() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("WHARF_BIN") {
        return Ok(given.into());
    }
    crate::sh::run(cargo().args(["build", "--release", "--quiet", "-p", "wharf"]))?;
    let binary = root()
        .join("target")
        .join(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .join("release/wharf");
    if !binary.exists() {
        bail!("cargo left no {}", binary.display());
    }
    Ok(binary)
}

/// Runs a suite as it is. Tests that fail are run again by [`test`], one at a time.
fn run_suite(suite: &Suite, selection: &Selection) -> Row {
    timed(suite.name, || (suite.run)(selection))
}

struct Row {
    name: String,
    tally: Tally,
    took: Duration,
}

fn timed(name: &str, work: impl FnOnce() -> Result<Tally>) -> Row {
    println!("\n=== {name}");
    let start = Instant::now();
    let tally = work().unwrap_or_else(|e| {
        println!("error: {e:#}");
        Tally { passed: 0, failed: 1 }
    });
    let took = start.elapsed();
    println!("=== {name}: {} passed, {} failed, {}", tally.passed, tally.failed, seconds(took));
    Row { name: name.to_owned(), tally, took }
}

fn report(rows: &[Row], took: Duration) -> bool {
    println!("\n{:<12} {:>7} {:>7} {:>9}", "suite", "passed", "failed", "time");
    let mut total = Tally::default();
    for Row { name, tally, took } in rows {
        println!("{name:<12} {:>7} {:>7} {:>9}", tally.passed, tally.failed, seconds(*took));
        total = total.and(*tally);
    }
    println!("{:<12} {:>25}\n", "all", seconds(took));
    println!("{} passed, {} failed", total.passed, total.failed);
    // Nothing run is nothing proved.
    total.failed == 0 && total.passed > 0
}

/// Fetches the test clients and builds wharf.
pub(crate) fn prepare() -> Result<()> {
    tools::clients()?;
    tools::testcontainers()?;
    tools::buildx()?;
    tools::git()?;
    tools::nginx()?;
    tools::everyday()?;
    tools::etcd()?;
    tools::peers()?;
    tools::ship()?;
    tools::kubectl()?;
    tools::helm()?;
    tools::kernel()?;
    build().map(|_| ())
}

fn fmt(_: &Selection) -> Result<Tally> {
    let all = check(cargo().args(["fmt", "--all", "--check"]))?;
    Ok(all.and(check(cargo().args(["fmt", "--check"]).args(&KUBE_RS[..2]))?))
}

/// The fuzz targets are a workspace of their own, which nothing else builds: they are compiled here.
fn clippy(_: &Selection) -> Result<Tally> {
    let lints = ["--all-targets", "--quiet", "--", "-D", "warnings"];
    let all = check(cargo().args(["clippy", "--workspace"]).args(lints))?;
    let mut fuzz = cargo();
    fuzz.args(["check", "--quiet", "--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target"]);
    // A path that is not followed keeps libFuzzer, which is C++, from being compiled.
    fuzz.env("CUSTOM_LIBFUZZER_PATH", "unused/libfuzzer.a");
    Ok(all.and(check(&mut fuzz)?))
}

/// Unit and kernel tests of every crate that ships.
fn unit(s: &Selection) -> Result<Tally> {
    tools::clients()?;
    test(s, &["--workspace", "--exclude", "xtask", "--exclude", "wharf-test"], &[])
}

/// Whole applications from Debian's packages. Their images are large, so few of them at a time.
fn applications(s: &Selection) -> Result<Tally> {
    tools::stacks()?;
    test(s, &["-p", "wharf-test", "--test", "applications"], &["--test-threads", "2"])
}

/// Tests that drive an engine. They mostly wait, so more of them run than there are processors.
fn suite(s: &Selection, targets: &[&str]) -> Result<Tally> {
    let mut package = vec!["-p", "wharf-test"];
    for target in targets {
        package.extend(["--test", target]);
    }
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    test(s, &package, &["--test-threads", &(cores * 2).to_string()])
}

fn test(s: &Selection, packages: &[&str], harness: &[&str]) -> Result<Tally> {
    steadily(|failing| {
        let mut c = cargo();
        c.args(["test", "--quiet", "--no-fail-fast"]).args(packages).arg("--");
        match failing {
            [] => c.args(harness).args(&s.filter),
            names => c.args(["--exact", "--test-threads=1"]).args(names),
        };
        count(&mut c)
    })
}

/// Runs tests (asked for none by name, all of them), and those that failed up to twice more, alone: tests that drive a
/// kernel meet other loads than they were written under. What passes only then is named, so that somebody looks.
pub(crate) fn steadily(run: impl Fn(&[String]) -> Result<Counted>) -> Result<Tally> {
    let Counted { mut tally, mut failing } = run(&[])?;
    for _ in 0..2 {
        // Without a name for each failure something else is wrong; many failures are no accident.
        if tally.failed == 0 || failing.len() != tally.failed as usize || failing.len() > 10 {
            break;
        }
        println!("again, alone: {}", failing.join(" "));
        let again = run(&failing)?;
        if again.tally.passed == 0 {
            break;
        }
        for name in failing.iter().filter(|n| !again.failing.contains(n)) {
            println!("UNSTEADY: {name} failed at first");
        }
        tally = Tally {
            passed: tally.passed + tally.failed.saturating_sub(again.tally.failed),
            failed: again.tally.failed,
        };
        failing = again.failing;
    }
    Ok(tally)
}

/// A check counts as one test.
fn check(c: &mut Command) -> Result<Tally> {
    crate::sh::run(c).map(|()| Tally { passed: 1, failed: 0 })
}

/// Results of a test command, and the names of the tests that failed.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) tally: Tally,
    pub(crate) failing: Vec<String>,
}

/// Runs a test command, shows its output and adds up its results.
pub(crate) fn count(c: &mut Command) -> Result<Counted> {
    let mut child = c.stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let mut counted = Counted::default();
    let mut names = Names::default();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        println!("{line}");
        counted.tally = counted.tally.and(result(&line).unwrap_or_default());
        counted.failing.extend(names.read(&line));
    }
    let ok = child.wait()?.success();
    if !ok && counted.tally.failed == 0 {
        // It did not compile, or a test brought the whole program down.
        counted.tally.failed = 1;
    }
    Ok(counted)
}

/// Reads the names that follow `failures:` at the end of a harness's output. The heading stands
/// above the failed tests' output as well; there no line is indented by four spaces and one word.
#[derive(Default)]
struct Names {
    listing: bool,
}

impl Names {
    fn read(&mut self, line: &str) -> Option<String> {
        if line == "failures:" {
            self.listing = true;
            return None;
        }
        if !self.listing || line.is_empty() {
            return None;
        }
        match line.strip_prefix("    ").filter(|name| !name.contains(char::is_whitespace)) {
            Some(name) => Some(name.to_owned()),
            None => {
                self.listing = false;
                None
            }
        }
    }
}

impl Tally {
    pub(crate) fn and(self, other: Tally) -> Tally {
        Tally { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

/// Reads `test result: ok. 12 passed; 0 failed; …`.
fn result(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let part = counts.split("; ").find_map(|p| p.strip_suffix(word))?;
        part.trim().parse().ok()
    };
    Some(Tally { passed: number("passed")?, failed: number("failed")? })
}

impl Selection {
    fn parse(args: &[&str]) -> Result<Selection> {
        let mut selection = Selection { only: Vec::new(), filter: None };
        let mut words = args.iter();
        while let Some(&word) = words.next() {
            match word {
                "--only" => {
                    let name = *words.next().context("--only needs a suite")?;
                    if !SUITES.iter().any(|s| s.name == name) {
                        let names: Vec<_> = SUITES.iter().map(|s| s.name).collect();
                        bail!("no suite {name:?}; there are: {}", names.join(" "));
                    }
                    selection.only.push(name.to_owned());
                }
                flag if flag.starts_with('-') => bail!("unknown flag {flag}"),
                filter if selection.filter.is_none() => selection.filter = Some(filter.to_owned()),
                more => bail!("one filter is enough: {more}"),
            }
        }
        Ok(selection)
    }

    /// Checks have no tests to choose from, so a filter alone leaves them out.
    fn wants(&self, name: &str) -> bool {
        match self.only.is_empty() {
            false => self.only.iter().any(|o| o == name),
            true => self.filter.is_none() || !["fmt", "clippy"].contains(&name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_the_harness() {
        let line =
            "test result: FAILED. 87 passed; 4 failed; 1 ignored; 0 measured; 0 filtered out";
        let tally = result(line).unwrap();
        assert_eq!((tally.passed, tally.failed), (87, 4));
        assert!(result("test attach::it ... ok").is_none());
    }

    #[test]
    fn failed_tests_are_named() {
        let output = "running 3 tests\n\nfailures:\n\n---- a::b stdout ----\n    left: 1\n\n\n\
                      failures:\n    a::b\n    c\n\ntest result: FAILED. 1 passed; 2 failed\n    d";
        let mut names = Names::default();
        let named: Vec<_> = output.lines().filter_map(|l| names.read(l)).collect();
        assert_eq!(named, ["a::b", "c"]);
    }

    #[test]
    fn selections_name_known_suites_only() {
        let s = Selection::parse(&["--only", "unit", "ports"]).unwrap();
        assert!(s.wants("unit") && !s.wants("vm"));
        assert!(Selection::parse(&["--only", "everything"]).is_err());
        assert!(Selection::parse(&["--fast"]).is_err());
        assert!(!Selection::parse(&["ports"]).unwrap().wants("clippy"));
    }
}
