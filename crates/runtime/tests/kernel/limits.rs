//! Control groups: what is limited, accounted and controlled.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use wharf_runtime::{Exit, HostFacts, Io, Plan, PlanContext, Root};

use super::Case;
use super::bundle::{Bundle, text, v2};

pub(crate) const CASES: &[Case] = &[
    ("limits_are_written_and_updated", limits_are_written_and_updated),
    ("memory_limit_kills_and_is_counted", memory_limit_kills_and_is_counted),
    ("exec_enters_a_cgroup_below", exec_enters_a_cgroup_below),
    ("pids_limit_holds", pids_limit_holds),
    ("devices_are_limited", devices_are_limited),
    ("account_is_reported", account_is_reported),
    ("bad_limit_leaves_nothing", bad_limit_leaves_nothing),
];

/// A control file's content on either version of control groups: `file` of the container's directory, which version 1
/// has below each controller.
fn seen(b: &Bundle, controller: &str, file: &str) -> String {
    let top = PathBuf::from("/sys/fs/cgroup");
    let top = if v2() { top } else { top.join(controller) };
    let text = fs::read_to_string(top.join("wharf-test").join(&b.id).join(file));
    text.unwrap_or_default().trim().to_owned()
}

/// Insists on what control files hold: (controller, file, content) of version 1 and of version 2.
#[track_caller]
fn holds(b: &Bundle, one: &[(&str, &str, &str)], two: &[(&str, &str)]) {
    if v2() {
        two.iter().for_each(|(file, text)| assert_eq!(seen(b, "", file), *text, "{file}"));
    } else {
        one.iter().for_each(|(dir, file, text)| assert_eq!(seen(b, dir, file), *text, "{file}"));
    }
}

fn limits_are_written_and_updated() {
    let mut b = Bundle::new(&["sleep", "1000"]);
    b.set("/linux/resources/memory", json!({"limit": 67_108_864, "swap": 134_217_728}));
    b.set(
        "/linux/resources/cpu",
        json!({"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"}),
    );
    b.set("/linux/resources/pids", json!({"limit": 50}));
    b.ok(&["create", &b.id]);
    holds(
        &b,
        &[
            ("memory", "memory.limit_in_bytes", "67108864"),
            ("cpu", "cpu.shares", "512"),
            ("cpu", "cpu.cfs_quota_us", "50000"),
            ("cpuset", "cpuset.cpus", "0"),
            ("pids", "pids.max", "50"),
        ],
        &[
            ("memory.max", "67108864"),
            ("memory.swap.max", "67108864"),
            ("cpu.weight", "20"),
            ("cpu.max", "50000 100000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "50"),
        ],
    );
    b.ok(&["start", &b.id]);
    b.ok(&[
        "update",
        "--memory",
        "256m",
        "--memory-swap",
        "512m",
        "--cpu-share",
        "700",
        "--pids-limit",
        "60",
        &b.id,
    ]);
    holds(
        &b,
        &[
            ("memory", "memory.limit_in_bytes", "268435456"),
            ("cpu", "cpu.shares", "700"),
            ("pids", "pids.max", "60"),
        ],
        &[
            ("memory.max", "268435456"),
            ("memory.swap.max", "268435456"),
            ("cpu.weight", "27"),
            ("pids.max", "60"),
        ],
    );
    b.ok(&["update", "--memory", "64m", "--memory-swap", "128m", &b.id]);
    let limit = [("memory", "memory.limit_in_bytes", "67108864")];
    holds(&b, &limit, &[("memory.max", "67108864"), ("memory.swap.max", "67108864")]);
    assert!(!b.call(&["update", "--nonsense", "1", &b.id]).status.success());
}

fn memory_limit_kills_and_is_counted() {
    let mut b = Bundle::shell("exec tail < /dev/zero");
    b.set("/linux/resources/memory", json!({"limit": 20_000_000}));
    let host = HostFacts::probe().unwrap();
    let spec = serde_json::from_value(b.spec.clone()).unwrap();
    let root = Root::Dir("rootfs".into());
    let plan = Plan::compile(&spec, &PlanContext::new(&b.id, &b.dir, root, &host)).unwrap();
    let init = wharf_runtime::create(&plan, Io::default()).unwrap().start().unwrap();
    assert_eq!(init.wait().unwrap(), Exit::Signal(9));
    assert!(plan.cgroup.oom_kills().unwrap() > 0);
    plan.cgroup.delete().unwrap();
}

fn exec_enters_a_cgroup_below() {
    let b = Bundle::sleeping();
    let top = PathBuf::from("/sys/fs/cgroup");
    let top = if v2() { top } else { top.join("pids") };
    let sub = top.join("wharf-test").join(&b.id).join("sub");
    fs::create_dir(&sub).unwrap();
    let exec =
        |cgroup: &str| b.call(&["exec", "--cgroup", cgroup, &b.id, "cat", "/proc/self/cgroup"]);
    let out = exec(if v2() { "sub" } else { "pids:/sub" });
    let (said, wrong) = (text(&out.stdout), text(&out.stderr));
    assert!(said.lines().any(|line| line.ends_with("/sub")), "{said}{wrong}");
    assert!(exec("/").status.success());
    for (bad, why) in [
        ("..", "bad sub cgroup path"),
        ("none", "no such file or directory"),
        (":x", "empty controller"),
    ] {
        assert!(text(&exec(bad).stderr).contains(why), "{bad}: {}", text(&exec(bad).stderr));
    }
    let unknown = if v2() { "has one tree" } else { "unknown controller whaaat" };
    assert!(text(&exec("whaaat:/").stderr).contains(unknown));
    fs::remove_dir(&sub).unwrap();
}

fn pids_limit_holds() {
    let mut b = Bundle::shell("for i in $(seq 20); do sleep 5 & done 2>&1; echo never");
    b.set("/linux/resources/pids", json!({"limit": 5}));
    let said = text(&b.run().stdout);
    assert!(said.contains("fork"), "{said}");
}

fn devices_are_limited() {
    let out = Bundle::shell(
        "mknod /pad/kmsg c 1 11; cat /pad/kmsg 2>&1 | head -1; echo x > /dev/null && echo null",
    )
    .output();
    assert!(out.contains("not permitted") && out.ends_with("null"), "{out}");
}

fn account_is_reported() {
    let b = Bundle::sleeping();
    b.call(&["exec", &b.id, "sh", "-c", "head -c 10000000 /dev/zero > /pad/big"]);
    let event: Value = serde_json::from_str(&b.ok(&["events", "--stats", &b.id])).unwrap();
    let data = &event["data"];
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{data}");
    assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{data}");
    assert_eq!(data["pids"]["current"], 1);
}

fn bad_limit_leaves_nothing() {
    let mut b = Bundle::new(&["true"]);
    b.set("/linux/resources/cpu", json!({"cpus": "4000"}));
    let said = b.refusal();
    assert!(said.contains("cpuset.cpus"), "{said}");
    let file = if v2() { "memory.max" } else { "memory.limit_in_bytes" };
    assert_eq!(seen(&b, "memory", file), "");
    assert!(!b.call(&["state", &b.id]).status.success());
}
