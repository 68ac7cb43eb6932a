//! One container by an OCI runtime, and by wharf's own inside one process.

use super::lab::Lab;
use super::table::{Aim, Row};
use super::timing::{Contender, median, of, race};
use crate::sh::{cargo, root, run};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wharf_test::{Host, Output, image, tools};

/// `run` of `true` with the configuration that dockerd gives its containers.
pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let bundle = bundle(lab)?;
    let dir = lab.peers.dir();
    let wharf = dir.join("wharf-oci");
    fs::copy(&lab.binary, dir.join("wharf")).context("copy wharf")?;
    symlink("wharf", &wharf).context("link wharf-oci")?;
    let own = dir.join("xtask");
    fs::copy(std::env::current_exe()?, &own).context("copy this program")?;
    let command = |program: &Path| -> Vec<String> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let state = dir.join(format!("state-{name}")).display().to_string();
        let words = [
            &program.display().to_string(),
            "--root",
            &state,
            "run",
            "--bundle",
            bundle.to_str().unwrap_or_default(),
            "bench",
        ];
        words.map(str::to_owned).to_vec()
    };
    let commands = json!([
        ["wharf", command(&wharf)],
        ["crun", command("/usr/bin/crun".as_ref())],
        ["runc", command("/usr/sbin/runc".as_ref())],
    ]);
    let rounds = lab.rounds(60).to_string();
    let mut driver = lab.peers.enter(&own);
    driver.args(["bench-race", &rounds, &commands.to_string()]);
    let results = Output::of(&mut driver, b"").json();
    let figure = |who: &str| results[who].as_f64();
    let row = Row::new(
        "OCI run of `true`, Docker's default spec",
        "ms",
        figure("wharf").unwrap_or(f64::NAN),
    )
    .peer("crun", figure("crun"))
    .peer("runc", figure("runc"))
    .aim(Aim::AtMost(0.7, "crun"));
    let mut rows = vec![row];
    rows.extend(in_process(lab, &bundle)?);
    Ok(rows)
}

/// `cargo xtask bench-race ROUNDS COMMANDS`: times programs where it is started. For the bench.
pub(crate) fn race_programs(rounds: &str, commands: &str) -> Result<bool> {
    let commands: Vec<(String, Vec<String>)> = serde_json::from_str(commands)?;
    let contenders: Vec<Contender<'_>> = commands
        .iter()
        .map(|(who, words)| Contender::new(leak(who), move || start(words)))
        .collect();
    let results = race(rounds.parse()?, &contenders);
    let figures: Value = commands
        .iter()
        .map(|(who, _)| (who.clone(), json!(of(&results, who))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    println!("{figures}");
    Ok(true)
}

/// Names of contenders are constants everywhere else; this process lives for one race.
fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn start(words: &[String]) {
    let mut c = Command::new(&words[0]);
    c.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    let status = c.status().unwrap_or_else(|e| panic!("start {}: {e}", words[0]));
    assert!(status.success(), "{words:?}: {status}");
}

/// The runtime as the engine uses it, where no program has to start but the container's own;
/// and what the kernel alone takes.
fn in_process(lab: &Lab, bundle: &Path) -> Result<Vec<Row>> {
    let mut build = cargo();
    build.args(["build", "--release", "--quiet", "-p", "wharf-runtime"]);
    run(build.args(["--example", "start", "--example", "floor"]))?;
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    // In turn, so that both meet the same machine.
    for _ in 0..3 {
        ours.push(example(lab, "start", bundle, "all")?);
        floor.push(example(lab, "floor", &bundle.join("rootfs"), "floor")?);
    }
    let (ours, floor) = (median(ours), median(floor));
    let work = "create + start + wait + delete in one process";
    let row = |aim| Row::new(work, "ms", ours).peer("kernel floor", Some(floor)).aim(aim);
    Ok(vec![row(Aim::Below(5.0)), row(Aim::AtMost(2.0, "kernel floor"))])
}

/// Runs one of the runtime's examples on the peers' host; gives the median it prints for `what`.
fn example(lab: &Lab, name: &str, subject: &Path, what: &str) -> Result<f64> {
    let built = root().join("target").join(tools::triple()).join("release/examples").join(name);
    let program = lab.peers.dir().join(name);
    fs::copy(&built, &program).with_context(|| format!("copy {}", built.display()))?;
    let rounds = lab.rounds(100).to_string();
    let text = Output::of(lab.peers.enter(&program).arg(subject).arg(rounds), b"").ok();
    // A line reads: all     median 3.1ms least 2.6ms
    let line = text.lines().find(|l| l.starts_with(what)).context("the example says nothing")?;
    let word = line.split_whitespace().nth(2).context("no median")?;
    milliseconds(word).with_context(|| format!("not a duration: {word}"))
}

/// Milliseconds of a duration as `{:?}` prints it.
fn milliseconds(text: &str) -> Option<f64> {
    let units = [("ms", 1.0), ("µs", 1e-3), ("ns", 1e-6), ("s", 1e3)];
    units
        .iter()
        .find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

/// A bundle on the peers' host, with busybox and the specification that dockerd wrote.
fn bundle(lab: &Lab) -> Result<PathBuf> {
    let bundle = lab.peers.dir().join("bundle");
    let rootfs = bundle.join("rootfs");
    fs::create_dir_all(&rootfs)?;
    let layer = lab.peers.write("layer.tar", &image::busybox_layer());
    run(Command::new("tar").arg("-xf").arg(layer).arg("-C").arg(&rootfs))?;
    let mut spec = docker_spec(&lab.docker)?;
    // The oldest of the runtimes knows no later version.
    spec["ociVersion"] = json!("1.0.2");
    spec["process"]["args"] = json!(["true"]);
    spec["process"]["terminal"] = json!(false);
    spec["root"] = json!({ "path": "rootfs" });
    spec["linux"]["cgroupsPath"] = json!(format!("{}/bench", lab.peers.cgroup()));
    if let Some(top) = spec.as_object_mut() {
        top.remove("hooks");
    }
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.retain(|m| m["type"] != "bind");
    }
    fs::write(bundle.join("config.json"), spec.to_string())?;
    Ok(bundle)
}

/// What dockerd hands to its runtime, taken from a container that runs.
fn docker_spec(host: &Host) -> Result<Value> {
    host.sleeper("model");
    let id = host.inspect("model", "{{.Id}}");
    let mut todo = vec![host.dir().join("exec")];
    let mut found = None;
    while let Some(dir) = todo.pop() {
        let file = dir.join("config.json");
        if dir.ends_with(&id) && file.exists() {
            found = Some(fs::read(file)?);
            break;
        }
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        todo.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    host.docker(["rm", "-f", "model"]).ok();
    match found {
        Some(bytes) => Ok(serde_json::from_slice(&bytes)?),
        None => bail!("dockerd keeps no specification below its exec root"),
    }
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn durations_are_read_back() {
        let cases = [("3.1ms", 3.1), ("900µs", 0.9), ("1.5s", 1500.0)];
        for (text, value) in cases {
            assert!((milliseconds(text).unwrap() - value).abs() < 1e-9, "{text}");
        }
        assert_eq!(milliseconds("soon"), None);
    }
}
