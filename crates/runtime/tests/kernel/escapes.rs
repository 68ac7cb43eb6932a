//! The security record of other runtimes: each case is an attack that once worked somewhere.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use super::Case;
use super::bundle::{Bundle, bind, text};

pub(crate) const CASES: &[Case] = &[
    ("cve_2019_5736_own_binary_is_not_writable", own_binary_is_not_writable),
    ("cve_2024_21626_no_descriptor_leaks", no_descriptor_leaks),
    ("cve_2024_21626_cwd_through_proc_fails", cwd_through_proc_fails),
    ("cve_2021_30465_target_links_stay_inside", target_links_stay_inside),
    ("cve_2025_31133_null_link_does_not_redirect_masks", null_link_does_not_redirect_masks),
    ("cve_2025_52565_console_link_does_not_redirect", console_link_does_not_redirect),
    ("cve_2025_52881_proc_cannot_be_replaced", proc_cannot_be_replaced),
    ("cve_2026_41579_dev_link_makes_no_nodes_outside", dev_link_makes_no_nodes_outside),
    ("cve_2023_27561_proc_and_sys_links_are_refused", proc_and_sys_links_are_refused),
    ("cve_2026_31431_filter_blocks_what_it_should", filter_blocks_what_it_should),
    ("masks_hide_and_read_only_paths_refuse", masks_hide_and_read_only_paths_refuse),
];

fn own_binary_is_not_writable() {
    let before = fs::read(std::env::current_exe().unwrap()).unwrap().len();
    let b = Bundle::new(&["/evil"]);
    // The interpreter is the runtime that executes the script.
    fs::write(b.rootfs().join("evil"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(
        b.rootfs().join("evil"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    drop(b.run());
    // While a container is at its gate, its process is still the runtime's program.
    let c = Bundle::new(&["true"]);
    c.ok(&["create", &c.id]);
    let exe = format!("/proc/{}/exe", c.state()["pid"]);
    // Writing fails now because the program runs; it has to fail when it does not as well.
    let program = fs::File::open(exe).unwrap();
    let flags = wharf_sys::fs::fstatvfs(&program).unwrap().f_flag;
    assert!(flags.contains(wharf_sys::fs::StatVfsMountFlags::RDONLY), "{flags:?}");
    assert_eq!(fs::read(std::env::current_exe().unwrap()).unwrap().len(), before);
}

fn no_descriptor_leaks() {
    let b = Bundle::new(&["ls", "/proc/self/fd"]);
    // 3 is the directory that ls reads.
    assert_eq!(b.output().split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    let c = Bundle::sleeping();
    let out = c.call(&["exec", &c.id, "ls", "/proc/self/fd"]);
    assert_eq!(text(&out.stdout).split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    let fds = fs::read_dir(format!("/proc/{}/fd", c.state()["pid"])).unwrap().count();
    assert_eq!(fds, 3);
}

fn cwd_through_proc_fails() {
    for n in 3..30 {
        let mut b = Bundle::new(&["cat", "../../../../etc/hostname"]);
        b.set("/process/cwd", json!(format!("/proc/self/fd/{n}")));
        b.refusal();
    }
    let c = Bundle::sleeping();
    for n in 3..30 {
        assert!(
            !c.call(&["exec", "--cwd", &format!("/proc/self/fd/{n}"), &c.id, "pwd"])
                .status
                .success()
        );
    }
}

fn target_links_stay_inside() {
    let mut b = Bundle::shell("cat /link/file; cat /tmp/outside/file");
    let outside = b.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, b.rootfs().join("link")).unwrap();
    symlink("../../../../../../tmp/outside", b.rootfs().join("up")).unwrap();
    let source = b.dir.join("src");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "x\n").unwrap();
    b.mount(bind(&source, "/link", &["bind"]));
    b.mount(bind(&source, "/up", &["bind"]));
    // Both are resolved inside the root: the directories are made there.
    assert_eq!(b.output(), "x\nx");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(b.rootfs().join("tmp/outside").is_dir());
}

fn null_link_does_not_redirect_masks() {
    let mut b = Bundle::shell("cat /proc/keys | wc -c; ls /sys/firmware | wc -l");
    // With the image's own /dev, where null is a link to something writable.
    b.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    fs::remove_dir(b.rootfs().join("dev")).unwrap();
    fs::create_dir(b.rootfs().join("dev")).unwrap();
    symlink("/proc/sys/kernel/core_pattern", b.rootfs().join("dev/null")).unwrap();
    let out = b.run();
    let said = format!("{}{}", text(&out.stdout), text(&out.stderr));
    // Refused outright, or masked by the host's own null device.
    assert!(said.contains("create device node /dev/null") || said == "0\n0\n", "{said}");
}

fn console_link_does_not_redirect() {
    let mut b = Bundle::shell("echo x");
    b.set("/process/terminal", json!(true));
    b.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev");
    fs::create_dir_all(b.rootfs().join("dev/pts")).unwrap();
    let victim = b.dir.join("victim");
    fs::write(&victim, "").unwrap();
    symlink("/proc/sysrq-trigger", b.rootfs().join("dev/console")).unwrap();
    assert!(b.refusal().contains("/dev/console"));
}

fn proc_cannot_be_replaced() {
    let mut b = Bundle::new(&["true"]);
    let fake = b.dir.join("fake");
    fs::create_dir_all(fake.join("self/attr")).unwrap();
    b.mount(bind(&fake, "/proc", &["rbind"]));
    assert!(b.refusal().contains("inside /proc"));
    let mut c = Bundle::new(&["true"]);
    // A link in the image that leads into procfs.
    symlink("/proc/self/attr", c.rootfs().join("attr")).unwrap();
    let source = c.dir.join("s");
    fs::create_dir(&source).unwrap();
    c.mount(bind(&source, "/attr", &["rbind"]));
    let said = c.refusal();
    assert!(said.contains("/proc"), "{said}");
}

fn dev_link_makes_no_nodes_outside() {
    for target in ["/tmp/hostish", "../../../../../../../../tmp/hostish"] {
        let b = Bundle::new(&["true"]);
        let outside = std::env::temp_dir().join("hostish");
        drop(fs::create_dir(&outside));
        fs::remove_dir(b.rootfs().join("dev")).unwrap();
        symlink(target, b.rootfs().join("dev")).unwrap();
        let said = b.refusal();
        assert!(said.contains("must be mounted on ordinary directory"), "{said}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        fs::remove_dir(&outside).unwrap();
    }
}

fn proc_and_sys_links_are_refused() {
    for name in ["proc", "sys"] {
        let b = Bundle::new(&["true"]);
        fs::remove_dir(b.rootfs().join(name)).unwrap();
        symlink("/tmp", b.rootfs().join(name)).unwrap();
        let said = b.refusal();
        assert!(said.contains("must be mounted on ordinary directory"), "{said}");
    }
}

fn filter_blocks_what_it_should() {
    let out = Bundle::shell(
        "unshare -U true 2>&1; mount -t tmpfs x /tmp 2>&1; chroot / true && echo chrooted",
    )
    .run();
    let said = text(&out.stdout);
    assert_eq!(said.matches("ermi").count(), 2, "{said}");
}

fn masks_hide_and_read_only_paths_refuse() {
    let out = Bundle::shell(
        "cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; echo 1 2>/dev/null > /proc/sys/kernel/hostname || echo ro; echo 1 2>/dev/null > /proc/sysrq-trigger || echo ro; touch /sys/x 2>/dev/null || echo ro",
    )
    .output();
    assert_eq!(out, "0\n0\nro\nro\nro");
}
