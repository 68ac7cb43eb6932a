//! What a container gets: namespaces, mounts, identity, terminal, hooks, life cycle.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use serde_json::json;
use std::io::Read as _;
use wharf_runtime::{ConsoleSize, Exit, HostFacts, Io, Plan, PlanContext, Root};

use super::Case;
use super::bundle::{Bundle, bind, busybox, text, v2};

pub(crate) const CASES: &[Case] = &[
    ("runs_and_reports_the_exit_code", runs_and_reports_the_exit_code),
    ("create_waits_and_start_runs", create_waits_and_start_runs),
    ("program_faults_have_runcs_texts", program_faults_have_runcs_texts),
    ("namespaces_are_new", namespaces_are_new),
    ("namespace_is_joined_by_path", namespace_is_joined_by_path),
    ("user_namespace_maps_identities", user_namespace_maps_identities),
    ("user_namespace_with_joined_network", user_namespace_with_joined_network),
    ("time_offsets_move_the_clock", time_offsets_move_the_clock),
    ("devices_and_links_are_there", devices_and_links_are_there),
    ("binds_obey_their_options", binds_obey_their_options),
    ("recursive_read_only_covers_submounts", recursive_read_only_covers_submounts),
    ("idmapped_mount_changes_owners", idmapped_mount_changes_owners),
    ("mounts_do_not_reach_the_host", mounts_do_not_reach_the_host),
    ("shared_propagation_reaches_the_host", shared_propagation_reaches_the_host),
    ("readonly_root_refuses_writes", readonly_root_refuses_writes),
    ("tmpcopyup_keeps_what_the_image_has", tmpcopyup_keeps_what_the_image_has),
    ("identity_is_the_one_asked_for", identity_is_the_one_asked_for),
    ("capabilities_are_exact", capabilities_are_exact),
    ("sysctls_are_set", sysctls_are_set),
    ("rlimits_umask_nice_and_io", rlimits_umask_nice_and_io),
    ("limits_do_not_hinder_the_start", limits_do_not_hinder_the_start),
    ("unknown_capabilities_are_a_warning", unknown_capabilities_are_a_warning),
    ("a_process_from_a_file_has_its_defaults", a_process_from_a_file_has_its_defaults),
    ("a_cgroup_that_others_are_in_is_refused", a_cgroup_that_others_are_in_is_refused),
    (
        "a_waiting_container_holds_nothing_of_its_callers",
        a_waiting_container_holds_nothing_of_its_callers,
    ),
    ("debug_says_what_is_done", debug_says_what_is_done),
    ("a_tmpfs_looks_like_what_it_covers", a_tmpfs_looks_like_what_it_covers),
    ("dev_can_be_read_only", dev_can_be_read_only),
    ("what_is_masked_twice_is_masked_once", what_is_masked_twice_is_masked_once),
    ("exec_appears_as_the_same_machine", exec_appears_as_the_same_machine),
    ("a_socket_gets_the_process", a_socket_gets_the_process),
    ("flags_may_stand_behind_the_id", flags_may_stand_behind_the_id),
    ("processors_are_the_cgroups_not_the_callers", processors_are_the_cgroups_not_the_callers),
    ("hooks_run_in_order", hooks_run_in_order),
    ("hooks_that_fail_late_are_told_of", hooks_that_fail_late_are_told_of),
    ("failed_hook_stops_the_start", failed_hook_stops_the_start),
    ("exec_joins_the_container", exec_joins_the_container),
    ("terminal_is_the_containers_own", terminal_is_the_containers_own),
    ("kill_pause_resume_delete", kill_pause_resume_delete),
    ("no_pivot_works", no_pivot_works),
    ("overlay_root_exists_only_inside", overlay_root_exists_only_inside),
    ("overlay_root_in_a_user_namespace", overlay_root_in_a_user_namespace),
    ("library_reports_a_missing_program", library_reports_a_missing_program),
    ("library_hands_out_a_terminal", library_hands_out_a_terminal),
    ("cgroup_mount_shows_the_container", cgroup_mount_shows_the_container),
];

fn runs_and_reports_the_exit_code() {
    assert_eq!(Bundle::shell("echo hi; exit 7").run().status.code(), Some(7));
    assert_eq!(
        Bundle::shell("kill -9 $$; sleep 1; exit 3").run().status.code(),
        Some(3),
        "init is safe from itself"
    );
    assert_eq!(Bundle::new(&["true"]).output(), "");
    assert_eq!(Bundle::shell("echo out").output(), "out");
}

fn create_waits_and_start_runs() {
    let b = Bundle::shell("echo ran > /pad/ran; sleep 1000");
    b.ok(&["create", "--pid-file", "pid", &b.id]);
    assert_eq!(b.state()["status"], "created");
    let pid = fs::read_to_string(b.dir.join("pid")).unwrap();
    assert_eq!(b.state()["pid"].to_string(), pid);
    assert!(!b.rootfs().join("work/ran").exists());
    b.ok(&["start", &b.id]);
    assert_eq!(b.state()["status"], "running");
    assert!(!b.call(&["start", &b.id]).status.success(), "a second start is refused");
    assert!(!b.call(&["create", &b.id]).status.success(), "an id is used once");
    b.ok(&["delete", "--force", &b.id]);
    assert!(!b.call(&["state", &b.id]).status.success());
}

fn program_faults_have_runcs_texts() {
    let cases = [
        ("nope", r#"exec: "nope": executable file not found in $PATH"#),
        ("/nope", r#"exec: "/nope": stat /nope: no such file or directory"#),
        ("/etc/passwd", r#"exec: "/etc/passwd": permission denied"#),
        ("/etc", r#"exec: "/etc": is a directory"#),
    ];
    for (program, wanted) in cases {
        let said = Bundle::new(&[program]).refusal();
        assert!(said.contains(wanted), "{program}: {said}");
    }
    let b = Bundle::new(&["/bad"]);
    fs::write(b.rootfs().join("bad"), "\0nonsense").unwrap();
    fs::set_permissions(
        b.rootfs().join("bad"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let said = b.refusal();
    assert!(said.contains("exec /bad: exec format error"), "{said}");
}

fn namespaces_are_new() {
    let script = "for n in mnt pid ipc uts net cgroup; do readlink /proc/self/ns/$n; done; hostname; echo $$; cat /proc/net/dev | grep -c :";
    let out = Bundle::shell(script).output();
    let lines: Vec<&str> = out.lines().collect();
    for (line, kind) in lines.iter().zip(["mnt", "pid", "ipc", "uts", "net", "cgroup"]) {
        let own = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(*line, own.to_str().unwrap(), "{kind}");
    }
    assert_eq!(lines[6..], ["box", "1", "1"]);
    let mut b = Bundle::shell("readlink /proc/self/ns/uts");
    b.set("/linux/namespaces", json!([{"type": "mount"}, {"type": "pid"}]));
    b.set("/hostname", json!(""));
    assert_eq!(b.output(), fs::read_link("/proc/self/ns/uts").unwrap().to_str().unwrap());
}

fn namespace_is_joined_by_path() {
    let first = Bundle::sleeping();
    let pid = &first.state()["pid"];
    let mut b = Bundle::shell("readlink /proc/self/ns/net; readlink /proc/self/ns/pid; hostname");
    b.set("/hostname", json!(""));
    let join =
        |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")});
    b.set("/linux/namespaces", json!([{"type": "mount"}, join("network", "net"), join("pid", "pid"), join("uts", "uts"), {"type": "ipc"}]));
    let link =
        |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string();
    assert_eq!(b.output(), format!("{}\n{}\nbox", link("net"), link("pid")));
}

fn with_userns(b: &mut Bundle) {
    b.set("/linux/uidMappings", json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]));
    b.set("/linux/gidMappings", json!([{"containerID": 0, "hostID": 300_000, "size": 65536}]));
    b.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
}

fn user_namespace_maps_identities() {
    let mut b = Bundle::shell(
        "cat /proc/self/uid_map; id -u; stat -c %u /pad; echo x > /dev/null; ls /dev/null",
    );
    with_userns(&mut b);
    std::os::unix::fs::chown(b.rootfs().join("pad"), Some(200_005), Some(300_000)).unwrap();
    let out = b.output();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, ["0", "200000", "65536", "0", "5", "/dev/null"]);
}

fn user_namespace_with_joined_network() {
    let first = Bundle::sleeping();
    let path = format!("/proc/{}/ns/net", first.state()["pid"]);
    let mut b = Bundle::shell("readlink /proc/self/ns/net; id -u");
    with_userns(&mut b);
    // sysfs belongs to the network namespace, which is not the container's.
    b.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| m["destination"] != "/sys" && m["destination"] != "/sys/fs/cgroup");
    for ns in b.spec["linux"]["namespaces"].as_array_mut().unwrap() {
        if ns["type"] == "network" {
            ns["path"] = json!(path);
        }
    }
    assert_eq!(b.output(), format!("{}\n0", fs::read_link(&path).unwrap().display()));
}

fn time_offsets_move_the_clock() {
    let mut b = Bundle::shell("cat /proc/uptime");
    b.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    b.set("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 5}}));
    let uptime: f64 = b.output().split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 1_000_000.0, "{uptime}");
}

fn devices_and_links_are_there() {
    let out = Bundle::shell(
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done; for l in ptmx fd stdout; do readlink /dev/$l; done; stat -c %a /dev/shm; mount | grep -c mqueue",
    )
    .output();
    let wanted = "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n/dev/tty 5:0 666\npts/ptmx\n/proc/self/fd\n/proc/self/fd/1\n1777\n1";
    assert_eq!(out, wanted);
    let mut b = Bundle::shell(
        "stat -c '%t:%T %a %u' /dev/mine /dev/deep/fifo; dd if=/dev/mine of=/pad/x 2>&1 | grep -c permitted",
    );
    b.set(
        "/linux/devices",
        json!([
        {"path": "/dev/mine", "type": "b", "major": 7, "minor": 1, "fileMode": 0o640, "uid": 5},
        {"path": "/dev/deep/fifo", "type": "p"}]),
    );
    assert_eq!(b.output(), "7:1 640 5\n0:0 666 0\n1", "made, but not to be used");
}

fn binds_obey_their_options() {
    let mut b = Bundle::shell(
        "cat /in/file /one; touch /in/x 2>/dev/null || echo ro; touch /rw/made; cat /fresh/deep/file",
    );
    let source = b.dir.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "data\n").unwrap();
    b.mount(bind(&source, "/in", &["rbind", "ro", "rprivate"]));
    b.mount(bind(&source.join("file"), "/one", &["bind"]));
    b.mount(bind(&source, "/rw", &["rbind"]));
    b.mount(bind(&source, "/fresh/deep", &["rbind"]));
    assert_eq!(b.output(), "data\ndata\nro\ndata");
    assert!(source.join("made").exists());
    b.mount(bind(&b.dir.join("missing"), "/x", &["bind"]));
    let said = b.refusal();
    assert!(said.contains("missing") && said.contains("no such file or directory"), "{said}");
}

fn recursive_read_only_covers_submounts() {
    let outer = Bundle::shell(
        "touch /a/sub/x 2>/dev/null && echo plain; touch /b/sub/x 2>/dev/null || echo covered",
    );
    let source = outer.dir.join("src");
    fs::create_dir_all(source.join("sub")).unwrap();
    let guard = HostMount::tmpfs(&source.join("sub"));
    let mut b = outer;
    b.mount(bind(&source, "/a", &["rbind", "ro"]));
    b.mount(bind(&source, "/b", &["rbind", "rro"]));
    assert_eq!(b.output(), "plain\ncovered");
    drop(guard);
}

/// A mount of the test's own mount namespace.
struct HostMount(std::path::PathBuf);

impl HostMount {
    /// Enters a mount namespace of its own first: the machine's is not touched.
    fn tmpfs(at: &std::path::Path) -> Self {
        wharf_sys::process::unshare(wharf_sys::process::NEWNS).unwrap();
        let private = wharf_sys::mount::Attr {
            propagation: wharf_sys::mount::propagation::PRIVATE,
            ..Default::default()
        };
        wharf_sys::mount::set_attr_at(c"/", true, private).unwrap();
        let fs = wharf_sys::mount::Fs::open("tmpfs").unwrap();
        let made = fs.mount(0).unwrap();
        wharf_sys::mount::attach(&made, fs::File::open(at).unwrap()).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        wharf_sys::mount::detach(&self.0).unwrap();
    }
}

fn idmapped_mount_changes_owners() {
    let mut b = Bundle::shell("stat -c %u:%g /m/file; touch /m/new");
    let source = b.dir.join("src");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "").unwrap();
    std::os::unix::fs::chown(source.join("file"), Some(0), Some(0)).unwrap();
    let mut mount = bind(&source, "/m", &["bind"]);
    mount["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    mount["gidMappings"] = json!([{"containerID": 0, "hostID": 2000, "size": 10}]);
    b.mount(mount);
    let out = b.run();
    assert_eq!(text(&out.stdout).trim(), "1000:2000");
}

fn host_mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

fn mounts_do_not_reach_the_host() {
    let b = Bundle::sleeping();
    assert!(!host_mounts().contains(&b.id), "{}", host_mounts());
    let inside = b.call(&["exec", &b.id, "cat", "/proc/self/mountinfo"]);
    let inside = text(&inside.stdout);
    assert!(!inside.contains("/mnt/") && inside.lines().count() < 40, "{inside}");
}

fn shared_propagation_reaches_the_host() {
    let mut b = Bundle::shell("mount -t tmpfs none /shared/sub && echo mounted");
    let source = b.dir.join("src");
    fs::create_dir_all(source.join("sub")).unwrap();
    let guard = HostMount::tmpfs(&source);
    fs::create_dir(source.join("sub")).unwrap();
    let share = wharf_sys::mount::Attr {
        propagation: wharf_sys::mount::propagation::SHARED,
        ..Default::default()
    };
    let path = std::ffi::CString::new(source.to_str().unwrap()).unwrap();
    wharf_sys::mount::set_attr_at(&path, false, share).unwrap();
    b.mount(bind(&source, "/shared", &["rbind", "rshared"]));
    b.set("/linux/rootfsPropagation", json!("shared"));
    b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    let all = json!(["CAP_SYS_ADMIN"]);
    b.set("/process/capabilities", json!({"bounding": all, "effective": all, "permitted": all}));
    assert_eq!(b.output(), "mounted");
    let seen = host_mounts();
    assert!(seen.contains("src/sub"), "{seen}");
    assert!(!seen.contains("rootfs"), "the root itself does not leak: {seen}");
    wharf_sys::mount::detach(&source.join("sub")).unwrap();
    drop(guard);
}

fn readonly_root_refuses_writes() {
    let mut b =
        Bundle::shell("touch /pad/x 2>&1 | grep -c 'Read-only'; touch /dev/shm/y && echo tmpfs");
    b.set("/root/readonly", json!(true));
    assert_eq!(b.output(), "1\ntmpfs");
}

fn tmpcopyup_keeps_what_the_image_has() {
    let mut b = Bundle::shell("cat /data/sub/file; touch /data/new; stat -c %a /data/sub");
    fs::create_dir_all(b.rootfs().join("data/sub")).unwrap();
    fs::write(b.rootfs().join("data/sub/file"), "kept\n").unwrap();
    b.mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    assert_eq!(b.output(), "kept\n755");
    assert!(!b.rootfs().join("data/new").exists());
}

fn identity_is_the_one_asked_for() {
    let mut b =
        Bundle::shell("id -u; id -g; id -G; pwd; echo $HOME; touch /dev/stdout && echo owned");
    b.set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 6]}));
    b.set("/process/cwd", json!("/not/there/yet"));
    assert_eq!(b.output(), "1000\n1000\n1000 5 6\n/not/there/yet\n/home/user\nowned");
}

fn capabilities_are_exact() {
    let mut b = Bundle::shell(
        "grep Cap /proc/self/status; grep NoNewPrivs /proc/self/status; grep Seccomp: /proc/self/status",
    );
    let out = b.output();
    let line = |name: &str, out: &str| {
        out.lines()
            .find(|l| l.starts_with(name))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .to_owned()
    };
    assert_eq!(line("CapInh", &out), "0000000000000000");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(line(set, &out), "00000000a80425fb", "{set}");
    }
    assert_eq!((line("NoNewPrivs", &out), line("Seccomp:", &out)), ("0".into(), "2".into()));
    let some = json!(["CAP_NET_RAW"]);
    b.set("/process/capabilities", json!({"bounding": some, "effective": some, "permitted": some, "inheritable": some, "ambient": some}));
    b.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    b.set("/process/noNewPrivileges", json!(true));
    let out = b.output();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(line(set, &out), "0000000000002000", "{set}");
    }
    assert_eq!(line("NoNewPrivs", &out), "1");
}

fn sysctls_are_set() {
    let mut b =
        Bundle::shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax");
    b.set(
        "/linux/sysctl",
        json!({"net.ipv4.ip_unprivileged_port_start": "0", "kernel.msgmax": "4096"}),
    );
    assert_eq!(b.output(), "0\n4096");
    b.set("/linux/sysctl", json!({"kernel.core_pattern": "x"}));
    assert!(b.refusal().contains("kernel.core_pattern"));
}

fn unknown_capabilities_are_a_warning() {
    let mut b = Bundle::shell("grep Cap /proc/self/status");
    let caps = json!({"bounding": ["CAP_KILL", "CAP_NEW"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
        "effective": [], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL", "CAP_CHOWN"]});
    b.set("/process/capabilities", caps);
    let out = b.run();
    let (said, warned) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{warned}");
    assert!(
        warned.contains(
            "level=warning msg=\"ignoring unknown or unavailable capabilities: [CAP_NEW]\""
        ),
        "{warned}"
    );
    assert!(
        warned.contains("can't raise ambient capability CAP_CHOWN: operation not permitted"),
        "{warned}"
    );
    assert!(said.contains("CapBnd:\t0000000000000020"), "{said}");
    assert!(said.contains("CapAmb:\t0000000000000020"), "{said}");
    // With inheritable ones, what `exec` adds is ambient.
    b.set("/process/args", json!(["sleep", "1000"]));
    b.ok(&["create", &b.id]);
    b.ok(&["start", &b.id]);
    let said = b.call(&["exec", "--cap", "CAP_KILL", &b.id, "grep", "CapAmb", "/proc/self/status"]);
    assert!(text(&said.stdout).contains("20\n"), "{}{}", text(&said.stdout), text(&said.stderr));
}

fn a_process_from_a_file_has_its_defaults() {
    let b = Bundle::sleeping();
    let process = json!({"args": ["sh", "-c", "id -u; echo $HOME"], "cwd": "/", "env": ["PATH=/bin", "HOME=/x", "HOME="]});
    fs::write(b.dir.join("process.json"), process.to_string()).unwrap();
    let out = b.call(&["exec", "--process", "process.json", &b.id]);
    assert_eq!(text(&out.stdout), "0\n/root\n", "{}", text(&out.stderr));
}

fn a_cgroup_that_others_are_in_is_refused() {
    let first = Bundle::sleeping();
    let mut second = Bundle::shell("true");
    second.set("/linux/cgroupsPath", first.spec["linux"]["cgroupsPath"].clone());
    assert!(second.refusal().contains("container's cgroup is not empty"));
    assert_eq!(first.state()["status"], "running");
}

fn a_waiting_container_holds_nothing_of_its_callers() {
    let b = Bundle::new(&["true"]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    // A shell passes the pipe on as descriptor 9.
    let mut create = std::process::Command::new("sh");
    create.args(["-c", "exec \"$@\" 9>&0 </dev/null", "sh"]);
    let oci = b.oci(&["create", &b.id]);
    create.arg(oci.get_program()).args(oci.get_args()).current_dir(&b.dir);
    assert!(create.stdin(writer).status().unwrap().success());
    drop(create);
    assert_eq!(b.state()["status"], "created");
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "nobody has it open");
}

fn processors_are_the_cgroups_not_the_callers() {
    let all = "grep Cpus_allowed_list /proc/self/status";
    let usual = Bundle::shell(all).output();
    // Only this process: each case has its own.
    wharf_sys::tuning::set_affinity(&[1]).unwrap();
    assert_eq!(Bundle::shell(all).output(), usual);
}

fn a_tmpfs_looks_like_what_it_covers() {
    let mut b = Bundle::shell("stat -c %a /pad /new /own /copied /copied/wide");
    let mode = |path: &str, bits| {
        let path = b.rootfs().join(path);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    };
    mode("pad", 0o710);
    mode("own", 0o700);
    mode("copied", 0o755);
    mode("copied/wide", 0o777);
    for (path, options) in
        [("/pad", &[][..]), ("/new", &[]), ("/own", &["mode=0410"]), ("/copied", &["tmpcopyup"])]
    {
        b.mount(
            json!({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options}),
        );
    }
    assert_eq!(b.output(), "710\n1777\n410\n755\n777");
}

fn dev_can_be_read_only() {
    let mut b = Bundle::shell("echo x > /dev/null && echo null; touch /dev/new 2>&1");
    let mounts = b.spec["mounts"].as_array_mut().unwrap();
    let dev = mounts.iter_mut().find(|m| m["destination"] == "/dev").unwrap();
    dev["options"].as_array_mut().unwrap().push(json!("ro"));
    let out = b.run();
    let said = text(&out.stdout);
    assert!(
        said.starts_with("null\n") && said.contains("Read-only file system"),
        "{said}{}",
        text(&out.stderr)
    );
}

fn what_is_masked_twice_is_masked_once() {
    let mut b = Bundle::shell("grep -c ' /pad ' /proc/mounts");
    b.set("/linux/maskedPaths", json!(["/pad", "/etc/passwd", "/pad"]));
    assert_eq!(b.output(), "1");
}

fn exec_appears_as_the_same_machine() {
    let mut b = Bundle::new(&["sleep", "1000"]);
    b.set("/linux/personality", json!({"domain": "LINUX32"}));
    b.ok(&["create", &b.id]);
    b.ok(&["start", &b.id]);
    let out = b.call(&["exec", &b.id, "uname", "-m"]);
    assert_eq!(text(&out.stdout), "i686\n", "{}", text(&out.stderr));
}

fn a_socket_gets_the_process() {
    let b = Bundle::new(&["sleep", "1000"]);
    let socket = std::os::unix::net::UnixListener::bind(b.dir.join("s")).unwrap();
    b.ok(&["create", "--pidfd-socket", "s", &b.id]);
    let (mut stream, _) = socket.accept().unwrap();
    let mut kind = String::new();
    stream.read_to_string(&mut kind).unwrap();
    assert_eq!(kind, "standard");
    b.ok(&["start", &b.id]);
    b.ok(&["exec", "--pidfd-socket", "s", &b.id, "true"]);
    let (mut stream, _) = socket.accept().unwrap();
    kind.clear();
    stream.read_to_string(&mut kind).unwrap();
    assert_eq!(kind, "setns");
}

fn flags_may_stand_behind_the_id() {
    let b = Bundle::sleeping();
    b.ok(&["update", &b.id, "--pids-limit", "33"]);
    assert!(!b.call(&["update", &b.id, "--nonsense", "1"]).status.success());
    assert_eq!(text(&b.call(&["exec", &b.id, "echo", "-n", "--x"]).stdout), "--x");
    b.ok(&["delete", &b.id, "--force"]);
    let none = b.call(&["--root", "/none/there", "list"]);
    assert!(!none.status.success(), "a root that was named must be there");
}

fn debug_says_what_is_done() {
    let b = Bundle::shell("true");
    let loud = b.call(&["--debug", "run", &b.id]);
    assert!(text(&loud.stderr).contains("level=debug msg=\"container "), "{}", text(&loud.stderr));
    let quiet = b.call(&["--debug", "--log", "log", "--log-format", "json", "run", &b.id]);
    assert_eq!(text(&quiet.stderr), "");
    let log = fs::read_to_string(b.dir.join("log")).unwrap();
    assert!(log.lines().all(|l| l.contains("\"level\":\"debug\"")) && log.contains(&b.id), "{log}");
}

fn limits_do_not_hinder_the_start() {
    let mut b = Bundle::shell("ulimit -n; ulimit -Hn");
    b.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 6, "hard": 7}, {"type": "RLIMIT_FSIZE", "soft": 0, "hard": 0}]));
    assert_eq!(b.output(), "6\n7");
}

fn rlimits_umask_nice_and_io() {
    let mut b = Bundle::shell(
        "ulimit -n; umask; grep -c . /proc/self/sched >/dev/null 2>&1; cat /proc/self/stat | { read l; set -- $l; echo ${19}; }; cat /proc/self/oom_score_adj",
    );
    b.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]));
    b.spec["process"]["user"]["umask"] = json!(0o077);
    b.set("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 7}));
    b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}));
    b.set("/process/oomScoreAdj", json!(500));
    assert_eq!(b.output(), "100\n0077\n7\n500");
}

fn hooks_that_fail_late_are_told_of() {
    let mut b = Bundle::shell("echo ran");
    let busybox = busybox();
    let failing = json!({"path": busybox, "args": ["false"]});
    // Without an environment of its own a hook has the runtime's.
    let script = "test -n \"$PATH\" || exit 7; exit 8";
    let inherits = json!({"path": busybox, "args": ["sh", "-c", script]});
    b.set("/process/env", json!(["PATH=/bin", "WHO=program"]));
    let inside = json!({"path": "/bin/sh", "args": ["sh", "-c", "test $WHO = program"]});
    b.spec["hooks"] = json!({"startContainer": [inside], "poststart": [failing], "poststop": [failing, inherits]});
    let out = b.run();
    assert_eq!(text(&out.stdout), "ran\n");
    let warned = text(&out.stderr);
    let lines: Vec<&str> = warned.lines().filter(|l| l.contains("level=warning")).collect();
    assert_eq!(lines.len(), 3, "{warned}");
    assert!(
        lines[0].contains("poststart hook failed") && lines[2].contains("exit status 8"),
        "{warned}"
    );
}

fn hooks_run_in_order() {
    let mut b = Bundle::shell("cat /pad/inside");
    let log = b.dir.join("log");
    let rootfs = b.rootfs();
    let busybox = busybox();
    let program = busybox.display();
    let note = |name: &str| {
        let script = format!(
            "{program} grep -o '\"status\":\"[a-z]*\"' | {program} sed 's/^/{name} /' >> {}",
            log.display()
        );
        json!({"path": busybox, "args": ["sh", "-c", script]})
    };
    let inside = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo fromhook > /pad/inside"], "env": ["PATH=/bin"]});
    let script = format!(
        "{program} test -e {}/dev/null && echo mounts visible >> {}",
        rootfs.display(),
        log.display()
    );
    let visible = json!({"path": busybox, "args": ["sh", "-c", script]});
    b.spec["hooks"] = json!({"prestart": [note("prestart")], "createRuntime": [note("createRuntime")],
        "createContainer": [note("createContainer"), visible], "startContainer": [inside],
        "poststart": [note("poststart")], "poststop": [note("poststop")]});
    assert_eq!(b.output(), "fromhook");
    let said = fs::read_to_string(&log).unwrap();
    let names: Vec<&str> = said.lines().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(
        names,
        ["prestart", "createRuntime", "createContainer", "mounts", "poststart", "poststop"],
        "{said}"
    );
    assert!(said.contains("poststop \"status\":\"stopped\""), "{said}");
}

fn failed_hook_stops_the_start() {
    let mut b = Bundle::new(&["true"]);
    b.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    assert!(b.refusal().contains("error running createRuntime hook #1: /bin/false: exit status 1"));
    b.spec["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]});
    assert!(b.refusal().contains("hook ran past specified timeout"));
}

fn exec_joins_the_container() {
    let b = Bundle::sleeping();
    let run = |args: &[&str]| {
        let all: Vec<&str> = [&["exec"], args].concat();
        b.call(&all)
    };
    let pid = b.state()["pid"].to_string();
    let link =
        |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string();
    for kind in ["mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let out = run(&[&b.id, "readlink", &format!("/proc/self/ns/{kind}")]);
        assert_eq!(text(&out.stdout).trim(), link(kind), "{}", text(&out.stderr));
    }
    let out = run(&[
        "-u",
        "1000:7",
        "-e",
        "A=b",
        "--cwd",
        "/pad",
        &b.id,
        "sh",
        "-c",
        "id -u; id -g; echo $A; pwd; grep CapInh /proc/self/status",
    ]);
    assert_eq!(
        text(&out.stdout),
        "1000\n7\nb\n/pad\nCapInh:\t0000000000000000\n",
        "{}",
        text(&out.stderr)
    );
    assert_eq!(run(&[&b.id, "sh", "-c", "exit 9"]).status.code(), Some(9));
    let out = run(&[&b.id, "nope"]);
    assert!(text(&out.stderr).contains(r#"exec: "nope": executable file not found in $PATH"#));
    assert_eq!(out.status.code(), Some(127));
    for bad in ["name", "+1", "1:", "-1"] {
        assert!(!run(&["-u", bad, &b.id, "true"]).status.success(), "{bad}");
    }
    let ps = b.ok(&["ps", "--format", "json", &b.id]);
    assert_eq!(ps.trim(), format!("[{pid}]"));
}

fn terminal_is_the_containers_own() {
    let mut b = Bundle::shell("tty; stat -c %t /dev/console; echo size $(stty size 2>/dev/null)");
    b.set("/process/terminal", json!(true));
    let out = b.run();
    let said = text(&out.stdout);
    assert!(said.contains("/dev/pts/0\n88\n"), "{said:?} {}", text(&out.stderr));
    let detached = b.call(&["create", &b.id]);
    assert!(!detached.status.success(), "a terminal needs somewhere to go");
}

fn kill_pause_resume_delete() {
    let b = Bundle::sleeping();
    assert!(!b.call(&["delete", &b.id]).status.success(), "a running one is not deleted");
    b.ok(&["pause", &b.id]);
    assert_eq!(b.state()["status"], "paused");
    assert!(!b.call(&["exec", &b.id, "true"]).status.success());
    b.ok(&["resume", &b.id]);
    assert_eq!(b.state()["status"], "running");
    assert!(b.ok(&["list"]).contains("running"));
    b.ok(&["kill", &b.id, "KILL"]);
    let pid: i32 = b.state()["pid"].as_i64().unwrap().try_into().unwrap();
    if pid > 0
        && let Ok(pidfd) = wharf_sys::process::pidfd_open(pid)
    {
        use std::os::fd::AsFd as _;
        wharf_sys::process::poll_readable(&[pidfd.as_fd()], 5000).unwrap();
    }
    assert_eq!(b.state()["status"], "stopped");
    assert!(!b.call(&["kill", &b.id, "TERM"]).status.success());
    b.ok(&["delete", &b.id]);
}

fn no_pivot_works() {
    let b = Bundle::shell("ls /pad; pwd");
    let out = b.call(&["run", "--no-pivot", &b.id]);
    assert_eq!(text(&out.stdout), "/\n", "{}", text(&out.stderr));
}

fn cgroup_mount_shows_the_container() {
    let (dir, own) = match v2() {
        true => ("/sys/fs/cgroup", "0::/\n"),
        false => ("/sys/fs/cgroup/pids", ":pids:/\n"),
    };
    let mut b = Bundle::shell(&format!(
        "cat /proc/self/cgroup; ls /sys/fs/cgroup; cat {dir}/pids.max; mkdir {dir}/x 2>/dev/null || echo ro"
    ));
    b.set("/linux/resources/pids", json!({"limit": 33}));
    let out = b.output();
    assert!(out.contains(own), "{out}");
    assert!(out.ends_with("33\nro"), "{out}");
    assert_eq!(fs::metadata("/").unwrap().uid(), 0);
}

/// The layers of an overlay around the bundle's root.
fn overlay(b: &Bundle) -> Root {
    let (upper, work, low) = (b.dir.join("upper"), b.dir.join("workdir"), b.dir.join("low"));
    for dir in [&upper, &work, &low] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(low.join("lowest"), "low\n").unwrap();
    Root::Overlay { lowers: vec![b.rootfs(), low], upper, work, volatile: false }
}

/// Creates, starts and waits through the library; the exit and the output.
fn by_library(b: &Bundle, root: Root) -> (Exit, String) {
    let host = HostFacts::probe().unwrap();
    let spec = serde_json::from_value(b.spec.clone()).unwrap();
    let plan = Plan::compile(&spec, &PlanContext::new(&b.id, &b.dir, root, &host)).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let io = Io { stdout: Some(writer.into()), ..Io::default() };
    let created = wharf_runtime::create(&plan, io).unwrap();
    let init = created.start().unwrap();
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    let exit = init.wait().unwrap();
    plan.cgroup.delete().unwrap();
    (exit, said)
}

fn overlay_root_exists_only_inside() {
    let b = Bundle::shell("cat /lowest; echo new > /pad/new; rm /etc/passwd; exit 3");
    let (exit, said) = by_library(&b, overlay(&b));
    assert_eq!((exit, said.as_str()), (Exit::Code(3), "low\n"));
    assert!(b.dir.join("upper/pad/new").exists() && !b.rootfs().join("pad/new").exists());
    assert!(b.rootfs().join("etc/passwd").exists(), "layers are not written to");
    assert!(!host_mounts().contains(&b.id));
}

fn overlay_root_in_a_user_namespace() {
    let mut b = Bundle::shell("cat /lowest; id -u; echo x > /dev/null && echo null");
    with_userns(&mut b);
    let (exit, said) = by_library(&b, overlay(&b));
    assert_eq!((exit, said.as_str()), (Exit::Code(0), "low\n0\nnull\n"));
}

fn library_reports_a_missing_program() {
    let b = Bundle::new(&["nope"]);
    let host = HostFacts::probe().unwrap();
    let spec = serde_json::from_value(b.spec.clone()).unwrap();
    let root = Root::Dir("rootfs".into());
    let plan = Plan::compile(&spec, &PlanContext::new(&b.id, &b.dir, root, &host)).unwrap();
    let error = wharf_runtime::create(&plan, Io::default()).unwrap_err();
    assert_eq!(error.to_string(), r#"exec: "nope": executable file not found in $PATH"#);
    assert!(!plan.cgroup.exists());
}

fn library_hands_out_a_terminal() {
    let mut b = Bundle::shell("tty; exit 0");
    b.set("/process/terminal", json!(true));
    let host = HostFacts::probe().unwrap();
    let spec = serde_json::from_value(b.spec.clone()).unwrap();
    let root = Root::Dir("rootfs".into());
    let plan = Plan::compile(&spec, &PlanContext::new(&b.id, &b.dir, root, &host)).unwrap();
    let io = Io { console: Some(ConsoleSize { rows: 30, cols: 100 }), ..Io::default() };
    let mut created = wharf_runtime::create(&plan, io).unwrap();
    let mut master = fs::File::from(created.take_console().unwrap());
    let init = created.start().unwrap();
    let mut said = Vec::new();
    // A master whose other end nobody has open any more says EIO; what was written comes first.
    master.read_to_end(&mut said).unwrap_err();
    assert_eq!(said, b"/dev/pts/0\r\n");
    assert_eq!(init.wait().unwrap(), Exit::Code(0));
    plan.cgroup.delete().unwrap();
}
