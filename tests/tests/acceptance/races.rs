//! Names that are swapped for links while a container starts (CVE-2021-30465, CVE-2024-45310) or files are copied
//! (CVE-2018-15664, CVE-2026-42306).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;
use wharf_test::Host;

/// Starts of a container while its mount points are being swapped.
const STARTS: usize = 60;

/// Exchanges two names as fast as the kernel can, as another container with the same volume could.
fn swap(one: &Path, other: &Path, until: &AtomicBool) {
    while !until.load(Ordering::Relaxed) {
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
    }
}

/// Does `work` while two names are being exchanged.
fn while_swapping<T>(one: &Path, other: &Path, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| swap(one, other, &over));
        // Also stops the other thread when an expectation is not met.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Creates, starts and removes a container; whether its program ran.
fn attempt(host: &Host, body: &serde_json::Value) -> bool {
    let made = host.api("POST", "/containers/create", body.to_string().as_bytes()).unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["Id"].as_str().unwrap().to_owned();
    let started = host.api("POST", &format!("/containers/{id}/start"), b"").unwrap();
    host.api("POST", &format!("/containers/{id}/wait"), b"").unwrap();
    let state = host.api("GET", &format!("/containers/{id}/json"), b"").unwrap().json();
    assert_eq!(host.api("DELETE", &format!("/containers/{id}?v=1"), b"").unwrap().status, 204);
    // Whoever loses the race may be refused, but only by name.
    assert!(started.status == 204 || started.text().contains("/v/a"), "{}", started.text());
    if started.status == 204 {
        assert_eq!(state["State"]["ExitCode"], 0, "the canary was seen inside");
    }
    started.status == 204
}

#[test]
fn swapped_mount_points_never_lead_out_of_the_container() {
    let host = Host::with_busybox();
    for name in ["swapped", "extra"] {
        host.docker(["volume", "create", name]).ok();
    }
    let volume = host.docker(["volume", "inspect", "-f", "{{.Mountpoint}}", "swapped"]).ok();
    let volume = Path::new(&volume);
    fs::create_dir(volume.join("a")).unwrap();
    // From where the volume lies on the host, the link leads to the canary; from inside, nowhere.
    let canary = host.dir().join("canary");
    fs::create_dir(&canary).unwrap();
    let up = volume.strip_prefix(host.dir()).unwrap().components().count();
    symlink(Path::new(&"../".repeat(up)).join("canary"), volume.join("b")).unwrap();
    let file = host.write("file", b"bound");
    let body = json!({
        "Image": "busybox",
        // It sees what was mounted, or what took its place; the host's canary it never does.
        "Cmd": ["sh", "-c", "[ ! -e /v/a/secret ] && [ ! -e /v/b/secret ]"],
        "WorkingDir": "/v/a/work",
        "HostConfig": {
            "NetworkMode": "none",
            "Binds": ["swapped:/v", "extra:/v/a/dir", format!("{}:/v/a/file", file.display())],
            "Tmpfs": { "/v/a/tmp": "" },
        },
    });
    fs::write(canary.join("secret"), "x").unwrap();
    let ran = while_swapping(&volume.join("a"), &volume.join("b"), || {
        (0..STARTS).filter(|_| attempt(&host, &body)).count()
    });
    let left: Vec<_> = fs::read_dir(&canary).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["secret"], "made on the host");
    assert!(ran > 0, "no start came through: the race was not run");
}

#[test]
fn swapped_directories_never_lead_a_copy_out_of_the_container() {
    let host = Host::with_busybox();
    host.docker(["run", "-d", "--name", "box", "-v", "swapped:/v", "busybox", "sleep", "1000"])
        .ok();
    let volume = host.docker(["volume", "inspect", "-f", "{{.Mountpoint}}", "swapped"]).ok();
    let volume = Path::new(&volume);
    fs::create_dir(volume.join("a")).unwrap();
    fs::write(volume.join("a/file"), "inside").unwrap();
    let canary = host.dir().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "outside").unwrap();
    // Absolute, and from where the volume lies on the host: both lead to the canary there, and nowhere inside.
    let up = volume.strip_prefix(host.dir()).unwrap().components().count();
    symlink(Path::new(&"../".repeat(up)).join("canary"), volume.join("b")).unwrap();
    let mut tar = wharf_test::image::Tar::default();
    tar.file("new", 0o644, b"new");
    let tar = tar.finish();
    let mut through = 0;
    while_swapping(&volume.join("a"), &volume.join("b"), || {
        for _ in 0..4 * STARTS {
            let put = host.api("PUT", "/containers/box/archive?path=/v/a", &tar).unwrap();
            through += usize::from(put.status == 200);
            // An archive that loses its file half-way is cut off.
            let got = host.api("GET", "/containers/box/archive?path=/v/a/file", b"");
            let Ok(got) = got else { continue };
            through += usize::from(got.status == 200);
            assert!(!got.text().contains("outside"), "read from the host");
        }
    });
    let left: Vec<_> = fs::read_dir(&canary).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["file"], "made on the host");
    assert_eq!(fs::read(canary.join("file")).unwrap(), b"outside");
    assert!(through > 0, "no copy came through: the race was not run");
}
