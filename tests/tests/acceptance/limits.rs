//! Resource limits: set, seen, enforced, changed.

use wharf_test::{Host, eventually};

#[test]
fn memory_beyond_the_limit_is_an_oom_kill() {
    let host = Host::with_busybox();
    let script = "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo survived";
    host.docker([
        "run",
        "--name",
        "box",
        "--memory",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .exits(137);
    assert_eq!(host.inspect("box", "{{.State.OOMKilled}}"), "true");
    // The kernel may need more than one victim before memory suffices.
    let told = host.events("event=oom", "{{.Action}}");
    assert!(
        !told.is_empty(),
        "no oom event; all: {:?}",
        host.events("container=box", "{{.Action}}")
    );
}

#[test]
fn processes_are_bounded() {
    let host = Host::with_busybox();
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait";
    let out = host.docker(["run", "--rm", "--pids-limit", "4", "busybox", "sh", "-c", script]);
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("can't fork"), "{out}");
}

#[test]
fn limits_show_in_inspect_and_change_live() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "--stop-timeout",
        "0",
        "--memory",
        "64m",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--cpuset-cpus",
        "0",
        "--pids-limit",
        "50",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let of = |f: &str| host.inspect("box", &format!("{{{{.HostConfig.{f}}}}}"));
    assert_eq!(of("Memory"), (64 << 20).to_string());
    assert_eq!(of("NanoCpus"), "500000000");
    assert_eq!(of("CpuShares"), "512");
    assert_eq!(of("CpusetCpus"), "0");
    host.docker([
        "update",
        "--memory",
        "128m",
        "--memory-swap",
        "256m",
        "--pids-limit",
        "99",
        "--restart",
        "always",
        "box",
    ])
    .ok();
    assert_eq!(of("Memory"), (128 << 20).to_string());
    assert_eq!(of("RestartPolicy.Name"), "always");
    let used = host.docker(["stats", "--no-stream", "--format", "{{.MemUsage}}", "box"]).ok();
    assert!(used.ends_with("/ 128MiB"), "{used}");
}

#[test]
fn cpuset_is_what_the_process_sees() {
    let host = Host::with_busybox();
    let out = host.docker([
        "run",
        "--rm",
        "--cpuset-cpus",
        "0",
        "busybox",
        "grep",
        "Cpus_allowed_list",
        "/proc/self/status",
    ]);
    assert!(out.ok().ends_with("\t0"), "{out}");
}

#[test]
fn impossible_values_are_refused_by_name() {
    let host = Host::with_busybox();
    let refuse = |flags: &[&str], text: &str| {
        let args = ["run", "--rm"].iter().chain(flags).copied().chain(["busybox", "true"]);
        host.docker(args).exits(125).fails(text);
    };
    refuse(&["--memory", "4m"], "Minimum memory limit allowed is 6MB");
    refuse(&["--cpus", "9999"], "ange of CPUs is from 0.01 to");
    refuse(
        &["--memory", "64m", "--memory-swap", "32m"],
        "Minimum memoryswap limit should be larger than memory limit",
    );
    refuse(
        &["--cpus", "1", "--cpu-period", "50000"],
        "Nano CPUs and CPU Period cannot both be set",
    );
    refuse(&["--cpu-quota", "500"], "CPU cfs quota can not be less than 1ms");
}

#[test]
fn ulimits_shm_size_and_sysctls() {
    let host = Host::with_busybox();
    let script =
        "ulimit -n; df -k /dev/shm | tail -1 | awk '{print $2}'; cat /proc/sys/net/core/somaxconn";
    let lines = host
        .docker([
            "run",
            "--rm",
            "--ulimit",
            "nofile=777:777",
            "--shm-size",
            "8m",
            "--sysctl",
            "net.core.somaxconn=321",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .lines();
    assert_eq!(lines, ["777", "8192", "321"]);
}

#[test]
fn a_fork_bomb_dies_with_its_container() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "--stop-timeout",
        "0",
        "--pids-limit",
        "60",
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7 8 9; do (while :; do sleep 0.01; done) & done; echo up; wait",
    ])
    .ok();
    host.talk(&["logs", "-f", "box"]).expect("up");
    host.docker(["kill", "box"]).ok();
    eventually("the cgroup is empty", || {
        (host.inspect("box", "{{.State.Status}}") == "exited").then_some(())
    });
}

#[test]
fn a_limit_of_processes_can_be_lifted_again() {
    let host = Host::with_busybox();
    let run = ["run", "-d", "--name", "box", "--stop-timeout", "0", "--pids-limit", "32"];
    host.docker(run.iter().chain(&["busybox", "sleep", "1000"])).ok();
    let max = || {
        let script =
            "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null | head -1";
        host.docker(["exec", "box", "sh", "-c", script]).ok()
    };
    assert_eq!(max(), "32");
    let update = br#"{"PidsLimit":0}"#;
    assert_eq!(host.api("POST", "/containers/box/update", update).unwrap().status, 200);
    assert_eq!(max(), "max");
    host.docker([
        "run",
        "-d",
        "--rm",
        "--name",
        "gone",
        "--stop-timeout",
        "0",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let policy = br#"{"RestartPolicy":{"Name":"always"}}"#;
    assert_eq!(host.api("POST", "/containers/gone/update", policy).unwrap().status, 409);
    host.docker(["rm", "-f", "gone"]).ok();
}
