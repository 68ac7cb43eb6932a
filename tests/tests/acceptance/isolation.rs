//! What a container may see and do: namespaces, capabilities, seccomp, masks, devices.

use wharf_test::Host;

#[test]
fn process_one_sees_only_itself() {
    let host = Host::with_busybox();
    let out = host
        .docker(["run", "--rm", "busybox", "sh", "-c", "echo $$; ls -d /proc/[0-9]* | wc -l"])
        .lines();
    assert_eq!(out[0], "1");
    assert!(out[1].parse::<u32>().unwrap() <= 3, "{out:?}");
}

#[test]
fn capabilities_are_dockers_fourteen() {
    let host = Host::with_busybox();
    let caps = |flags: &[&str]| {
        let args = ["run", "--rm"].iter().chain(flags).copied();
        let out = host.docker(args.chain(["busybox", "grep", "^Cap", "/proc/self/status"])).ok();
        out.lines().map(|l| l.split('\t').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let [inherited, permitted, effective, bounding, ambient] = caps(&[]).try_into().unwrap();
    assert_eq!(inherited, "0000000000000000");
    assert_eq!((permitted.as_str(), effective.as_str()), ("00000000a80425fb", "00000000a80425fb"));
    assert_eq!((bounding.as_str(), ambient.as_str()), ("00000000a80425fb", "0000000000000000"));
    assert_eq!(caps(&["--cap-drop", "ALL"])[2], "0000000000000000");
    assert_eq!(caps(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"])[2], "0000000000001000");
    assert_eq!(caps(&["-u", "1000"])[2], "0000000000000000");
}

#[test]
fn paths_of_the_kernel_are_masked_or_read_only() {
    let host = Host::with_busybox();
    let read = |path: &str| {
        host.docker(["run", "--rm", "busybox", "sh", "-c", &format!("cat {path} | wc -c")]).ok()
    };
    assert_eq!(read("/proc/kcore"), "0");
    assert_eq!(read("/proc/timer_list"), "0");
    let write = "echo 1 > /proc/sys/kernel/panic";
    host.docker(["run", "--rm", "busybox", "sh", "-c", write]).fails("Read-only file system");
    host.docker(["run", "--rm", "busybox", "sh", "-c", "echo x > /proc/sys/kernel/hostname"])
        .exits(1);
    let ls = host.docker(["run", "--rm", "busybox", "ls", "/sys/firmware"]).ok();
    assert_eq!(ls, "");
}

#[test]
fn seccomp_filters_and_no_new_privileges() {
    let host = Host::with_busybox();
    let mode = |flags: &[&str], field: &str| {
        let args = ["run", "--rm"].iter().chain(flags).copied();
        let out = host.docker(args.chain(["busybox", "grep", field, "/proc/self/status"])).ok();
        out.lines().next().unwrap().split('\t').nth(1).unwrap().to_owned()
    };
    assert_eq!(mode(&[], "^Seccomp:"), "2");
    assert_eq!(mode(&["--security-opt", "seccomp=unconfined"], "^Seccomp:"), "0");
    assert_eq!(mode(&["--privileged"], "^Seccomp:"), "0");
    assert_eq!(mode(&[], "^NoNewPrivs:"), "0");
    assert_eq!(mode(&["--security-opt", "no-new-privileges"], "^NoNewPrivs:"), "1");
    let unshare = ["unshare", "-U", "true"];
    assert_ne!(host.docker(["run", "--rm", "busybox"].into_iter().chain(unshare)).code, 0);
}

#[test]
fn devices_are_the_usual_few() {
    let host = Host::with_busybox();
    let out = host.docker(["run", "--rm", "busybox", "ls", "/dev"]).ok();
    for dev in [
        "null", "zero", "full", "random", "urandom", "tty", "pts", "shm", "mqueue", "stdin", "ptmx",
    ] {
        assert!(out.lines().any(|l| l == dev), "{dev} in {out}");
    }
    assert!(!out.contains("vda") && !out.contains("kmsg"), "{out}");
    let node = "mknod /x b 259 7 && cat /x";
    host.docker(["run", "--rm", "busybox", "sh", "-c", node])
        .exits(1)
        .fails("Operation not permitted");
    host.docker([
        "run",
        "--rm",
        "--device",
        "/dev/null:/dev/hole",
        "busybox",
        "test",
        "-c",
        "/dev/hole",
    ])
    .ok();
}

#[test]
fn namespaces_of_host_and_of_other_containers() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "--stop-timeout",
        "0",
        "--ipc",
        "shareable",
        "busybox",
        "sleep",
        "4321",
    ])
    .ok();
    let shared =
        host.docker(["run", "--rm", "--pid", "container:box", "busybox", "ps", "-o", "args"]);
    shared.says("sleep 4321");
    let uts = host.docker(["run", "--rm", "--uts", "host", "busybox", "hostname"]).ok();
    assert_eq!(uts, std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    let ns = |c: &str| host.docker(["exec", c, "readlink", "/proc/self/ns/ipc"]).ok();
    host.docker([
        "run",
        "-d",
        "--name",
        "dee",
        "--stop-timeout",
        "0",
        "--ipc",
        "container:box",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    assert_eq!(ns("box"), ns("dee"));
    host.docker(["run", "--rm", "--pid", "host", "busybox", "ps", "-o", "args"]).says("sleep 4321");
}

#[test]
fn no_descriptor_leaks_into_containers() {
    let host = Host::with_busybox();
    let list = "ls -l /proc/self/fd | awk 'NR>1 {print $NF}'";
    let check = |text: String| {
        for target in text.lines() {
            let ours = ["pipe:", "/dev/null", "/proc/", "/dev/pts/", "socket:"];
            assert!(
                ours.iter().any(|o| target.starts_with(o)) || target.parse::<u32>().is_ok(),
                "{target} in {text}"
            );
        }
        assert!(text.lines().count() <= 4, "{text}");
    };
    check(host.docker(["run", "--rm", "busybox", "sh", "-c", list]).ok());
    host.sleeper("box");
    check(host.docker(["exec", "box", "sh", "-c", list]).ok());
    for n in 3..12 {
        let dir = format!("/proc/self/fd/{n}");
        assert_ne!(host.docker(["run", "--rm", "-w", &dir, "busybox", "pwd"]).code, 0, "{dir}");
    }
}

#[test]
fn images_cannot_redirect_mounts_by_links() {
    use wharf_test::image::{Image, Tar};
    let host = Host::start();
    let busybox = std::fs::read(wharf_test::tools::path("busybox")).unwrap();
    let outside = host.dir().join("outside");
    std::fs::create_dir(&outside).unwrap();
    for (n, link) in ["dev", "proc", "sys", "etc"].into_iter().enumerate() {
        let mut tar = Tar::default();
        tar.dir("bin", 0o755);
        tar.file("bin/busybox", 0o755, &busybox);
        tar.symlink(link, outside.to_str().unwrap());
        let name = format!("linked:{n}");
        host.load(&Image::new(
            &name,
            tar.finish(),
            &serde_json::json!({ "Cmd": ["/bin/busybox", "true"] }),
        ));
        host.docker(["run", "--rm", &name]);
        let left: Vec<_> = std::fs::read_dir(&outside).unwrap().flatten().collect();
        assert!(left.is_empty(), "/{link}: {left:?}");
    }
}

#[test]
fn the_engines_binary_is_out_of_reach() {
    let host = Host::with_busybox();
    // CVE-2019-5736: /proc/self/exe of the entering process must not be the host's binary.
    let exe = host.docker(["run", "--rm", "busybox", "readlink", "/proc/1/exe"]).ok();
    assert_eq!(exe, "/bin/busybox");
    let out = host.docker(["run", "--rm", "--entrypoint", "/proc/self/exe", "busybox", "version"]);
    assert_ne!(out.code, 0, "{out}");
}

#[test]
fn privileged_lifts_the_masks() {
    let host = Host::with_busybox();
    let out = host.docker(["run", "--rm", "--privileged", "busybox", "sh", "-c", "mount -t tmpfs x /mnt 2>/dev/null || { mkdir /mnt && mount -t tmpfs x /mnt; }; grep -c ' /mnt ' /proc/mounts"]);
    assert_eq!(out.ok(), "1");
}
