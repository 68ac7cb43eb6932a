//! `cargo xtask vm`: kernel tests, the ladder, Compose, the tour and the demo in a virtual machine, for cgroup v2; with
//! `--all`, every test that drives an engine.
//!
//! Debian's cloud kernel boots in software emulation from an initramfs with the modules that wharf needs, and goes
//! on from a disk made here: Debian's basic tools, wharf, the stock docker command line, and the test programs.
//! Results come back over the serial console in the test harness's own format.

mod cpio;

use crate::sh::{cargo, cmd, read, root, run as execute};
use crate::suites::{Counted, Tally, build, count, steadily};
use crate::tools;
use anyhow::{Context, Result, bail};
use cpio::Cpio;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Crates whose tests say something about control groups and processes. (wharf-image's want a disk
/// that keeps attributes, and wharf-net's say nothing that they do not say on any kernel.)
const CRATES: &[&str] = &["wharf-sys", "wharf-runtime", "wharf-keeper"];

/// Tests of the acceptance suite that meet control groups or this kernel: the ladder's steps with the stock docker
/// command line, the tour, limits, and what needs a module that the machine at hand may lack.
const LADDER: &[&str] = &[
    "system::version_names_client_and_server",
    "system::info_counts_what_there_is",
    "images::save_and_load_round_trip",
    "images::tags_are_names",
    "pull::pull_fetches_verifies_and_runs",
    "run::exit_code",
    "run::sig_proxy",
    "run::stdin_is_piped",
    "attach::detach_keys_leave",
    "exec::exec_shares",
    "logs::follow_waits",
    "copy::files_travel",
    "events::the_life_of_a_container",
    "lifecycle::always_restarts",
    "lifecycle::commit_keeps",
    "lifecycle::pause_freezes",
    "lifecycle::stats_show",
    "lifecycle::stop_sends",
    "limits::",
    "isolation::devices_are_the_usual_few",
    "network::published_ports_answer",
    "network::sctp",
    "names::a_link",
    "names::names_on",
    "compose::both_tools_manage_one_project",
    "compose_verbs::watch_copies",
    "compose_verbs::a_dry_run",
    "compose_bad_days::after_a_daemon",
    "compose_upstream::links_pass",
    "compose_upstream::a_container_that_is_started_again",
    "tour::",
];

/// Suites of which `--all` runs every test, beside the acceptance suite.
const SUITES: &[&str] =
    &["cli", "crash", "disk", "clients", "oci", "ship", "buildkit", "everyday", "applications"];

/// Kernel modules that wharf and its tests use; Debian's kernel builds them apart.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "overlay",
    "veth",
    "bridge",
    "br_netfilter",
    "dummy",
    "macvlan",
    "ipvlan",
    "8021q",
    "nf_tables",
    "nft_nat",
    "nft_masq",
    "nft_ct",
    "nft_redir",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_reject_inet",
    "nft_limit",
    "nft_hash",
    "nft_numgen",
    "nft_chain_nat",
    "nf_conntrack_netlink",
    "sctp",
    "loop",
    "vxlan",
    "tun",
    // What the dockerd and the podman beside it want, with Debian's iptables.
    "nft_compat",
    "xt_comment",
    "xt_mark",
    "xt_multiport",
    "xt_tcpudp",
    "xt_addrtype",
    "xt_conntrack",
    "xt_MASQUERADE",
    "xt_nat",
    "xt_set",
    "ip_set",
    "ip_set_hash_net",
];

/// Tools that the acceptance tests use, as in `target/tools`, where they look for them.
const TOOLS: &[&str] = &[
    "busybox-deb",
    "nft-deb",
    "nft",
    "nginx",
    "nginx.packages",
    "compose-deb",
    "compose-deb.packages",
    "docker-compose",
];

/// What runs in the machine, and how large it is for that.
#[derive(Clone, Copy)]
enum Extent {
    /// What meets control groups; part of `cargo xtask test`.
    Chosen,
    /// Every test that drives an engine. In emulation that takes an hour or more.
    All,
}

impl Extent {
    /// Memory of the machine in MB.
    fn memory(self) -> &'static str {
        match self {
            Extent::Chosen => "2048",
            Extent::All => "6144",
        }
    }

    /// Size of its disk. The file has holes.
    fn disk(self) -> &'static str {
        match self {
            Extent::Chosen => "3G",
            Extent::All => "24G",
        }
    }

    /// Seconds until a machine that hangs is ended.
    fn limit(self) -> &'static str {
        match self {
            Extent::Chosen => "900",
            Extent::All => "7200",
        }
    }
}

/// `cargo xtask vm [--all] [FILTER]`
pub(crate) fn run(args: &[&str]) -> Result<bool> {
    let (extent, filter) = match args {
        ["--all", rest @ ..] => (Extent::All, rest.first()),
        rest => (Extent::Chosen, rest.first()),
    };
    match extent {
        Extent::Chosen => {
            tools::clients()?;
            tools::nginx()?;
            tools::kernel()?;
        }
        Extent::All => {
            crate::suites::prepare()?;
            tools::stacks()?;
        }
    }
    let tally = tests(extent, filter.copied())?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0 && tally.passed > 0)
}

/// The suite `vm` of `cargo xtask test`.
pub(crate) fn suite(filter: Option<&str>) -> Result<Tally> {
    tests(Extent::Chosen, filter)
}

fn tests(extent: Extent, filter: Option<&str>) -> Result<Tally> {
    steadily(|failing| match failing {
        [] => boot(extent, filter),
        names => boot(extent, Some(&names.join(" "))),
    })
}

/// Boots once; counts what the machine reports. `filter`: parts of tests' names, with spaces between them.
fn boot(extent: Extent, filter: Option<&str>) -> Result<Counted> {
    let dir = root().join("target/vm");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir)?;
    initramfs(&dir.join("initramfs"))?;
    disk(&dir, extent, filter)?;
    let counted = count(&mut machine(&dir, extent)?);
    fs::remove_dir_all(&dir)?;
    let counted = counted?;
    if counted.tally.passed + counted.tally.failed == 0 {
        bail!("the machine reported nothing");
    }
    Ok(counted)
}

/// The machine, with its first program and its disk in `dir`.
fn machine(dir: &Path, extent: Extent) -> Result<std::process::Command> {
    let kernel = only(&tools::dir().join("kernel/boot"), "vmlinuz-")?;
    let firmware = tools::dir().join("qemu-deb/usr/share");
    let mut qemu = cmd("timeout");
    qemu.args(["--kill-after=5", extent.limit()]).arg(tools::dir().join("qemu"));
    qemu.arg("-L").arg(firmware.join("seabios")).arg("-L").arg(firmware.join("qemu"));
    qemu.args(["-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
    qemu.args([
        "-m",
        extent.memory(),
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
    ]);
    let disk = dir.join("disk");
    qemu.arg("-drive");
    qemu.arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()));
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(dir.join("initramfs"));
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init mitigations=off"]);
    Ok(qemu)
}

/// Writes the first root file system: busybox, the modules, and a script that goes on from the disk.
fn initramfs(to: &Path) -> Result<()> {
    let mut cpio = Cpio::create(to)?;
    for dir in ["bin", "lib"] {
        cpio.add(dir, 0o040_755, &[])?;
    }
    cpio.add("init", 0o100_755, include_bytes!("vm/init.sh"))?;
    cpio.add("bin/busybox", 0o100_755, &fs::read(tools::dir().join("busybox"))?)?;
    let mut order = String::new();
    for module in modules()? {
        let name = format!("lib/{}", module.file_name().unwrap_or_default().to_string_lossy());
        cpio.add(&name, 0o100_644, &fs::read(&module)?)?;
        order.push_str(&format!("/{name}\n"));
    }
    cpio.add("lib/order", 0o100_644, order.as_bytes())?;
    cpio.finish()
}

/// Makes `dir/disk`: a Debian with what is tested and what tests it.
fn disk(dir: &Path, extent: Extent, filter: Option<&str>) -> Result<()> {
    let base = tools::machine()?;
    let tree = dir.join("root");
    // Links cost nothing; nothing here changes a file in place.
    execute(cmd("cp").args(["-al"]).arg(&base).arg(&tree))?;
    let place = |from: &Path, to: &str| -> Result<()> {
        let to = tree.join(to);
        fs::create_dir_all(to.parent().context("a path without a folder")?)?;
        fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
        Ok(fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?)
    };
    place(&tools::dir().join("busybox"), "bin/busybox")?;
    place(&build()?, "bin/wharf")?;
    // By this name it can be read when cargo has put another one in its place meanwhile.
    place(Path::new("/proc/self/exe"), "xtask")?;
    for (name, program) in
        programs(&CRATES.iter().flat_map(|name| ["-p", name]).collect::<Vec<_>>())?
    {
        place(&program, &format!("tests/{name}"))?;
    }
    let suites = match extent {
        Extent::Chosen => &[],
        Extent::All => SUITES,
    };
    for suite in suites.iter().chain(&["acceptance"]) {
        for (_, program) in programs(&["-p", "wharf-test", "--test", suite])? {
            place(&program, &format!("suites/{suite}"))?;
        }
    }
    clients(&tree, extent)?;
    image(&tree.join("etc/image/bin"))?;
    let here = |name: &str, text: &str| fs::write(tree.join("etc/vm").join(name), text);
    fs::create_dir_all(tree.join("etc/vm"))?;
    here("main", include_str!("vm/main.sh"))?;
    here("smoke", include_str!("vm/smoke.sh"))?;
    here("settings", &settings(extent, filter))?;
    fs::set_permissions(tree.join("etc/vm/main"), fs::Permissions::from_mode(0o755))?;
    fs::write(tree.join("etc/resolv.conf"), "")?;
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    let mut make = cmd(tools::dir().join("mke2fs"));
    make.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]);
    execute(make.arg(&tree).arg(dir.join("disk")).arg(extent.disk()))
}

/// What the machine's script reads.
fn settings(extent: Extent, filter: Option<&str>) -> String {
    let ladder = match (filter, extent) {
        (Some(filter), _) => filter.to_owned(),
        (None, Extent::Chosen) => LADDER.join(" "),
        (None, Extent::All) => String::new(),
    };
    let tools = tools::dir();
    let tools = tools.display();
    format!(
        "FILTER='{}'\nLADDER='{ladder}'\nexport WHARF_TEST_BUSYBOX={tools}/busybox WHARF_TEST_NFT={tools}/nft\n",
        filter.unwrap_or_default()
    )
}

/// The tools of the acceptance tests, at the paths that these have been built with.
fn clients(tree: &Path, extent: Extent) -> Result<()> {
    let to = tree.join(tools::dir().strip_prefix("/").context("the tools have no absolute path")?);
    fs::create_dir_all(&to)?;
    if let Extent::All = extent {
        return everything(&to, tree);
    }
    for name in TOOLS {
        execute(cmd("cp").arg("-al").arg(tools::dir().join(name)).arg(to.join(name)))?;
    }
    for name in ["busybox", "docker"] {
        // Links to what the machine has, or to one of the folders.
        execute(cmd("cp").arg("-L").arg(tools::dir().join(name)).arg(to.join(name)))?;
    }
    let cli = tools::dir().join("docker-cli");
    if cli.exists() {
        execute(cmd("cp").arg("-al").arg(cli).arg(to.join("docker-cli")))?;
    }
    for stamp in ["busybox-deb", "nft-deb"] {
        let stamp = format!("{stamp}.packages");
        fs::copy(tools::dir().join(&stamp), to.join(&stamp))?;
    }
    Ok(())
}

/// All tools but what makes machines, and the files that tests read beside their own programs.
fn everything(to: &Path, tree: &Path) -> Result<()> {
    for entry in fs::read_dir(tools::dir()).context("read the tools")?.flatten() {
        let (from, name) = (entry.path(), entry.file_name());
        let left = ["apt-", "kernel", "machine", "qemu"];
        if left.iter().any(|l| name.to_string_lossy().starts_with(l)) {
            continue;
        }
        // A link to what the machine at hand has installed is nothing in there.
        let installed =
            fs::read_link(&from).is_ok_and(|l| l.is_absolute() && !l.starts_with(tools::dir()));
        let how = if installed { "-L" } else { "-al" };
        execute(cmd("cp").arg(how).arg(&from).arg(to.join(&name)))?;
    }
    let sources = root().join("tests/tests");
    let here = tree.join(sources.strip_prefix("/").context("the tests have no absolute path")?);
    fs::create_dir_all(&here)?;
    execute(cmd("cp").arg("-a").arg(sources.join(".")).arg(here))
}

/// The root file system of the image that the script makes.
fn image(bin: &Path) -> Result<()> {
    fs::create_dir_all(bin)?;
    fs::copy(tools::dir().join("busybox"), bin.join("busybox"))?;
    for applet in ["sh", "cat", "head", "tr", "grep", "mknod", "sleep", "ping", "ip"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet))?;
    }
    Ok(())
}

/// Builds test programs and says where they are, each under a name of its crate and target.
fn programs(which: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut c = cargo();
    c.args(["test", "--no-run", "--quiet", "--message-format=json"]).args(which);
    let messages = read(&mut c)?;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["profile"]["test"].as_bool().filter(|t| *t)?;
        let target = &message["target"];
        let source = Path::new(target["src_path"].as_str()?);
        // SOMEWHERE/crates/NAME/src/lib.rs, or one of its tests.
        let folder = source.ancestors().find(|a| a.join("Cargo.toml").exists())?.file_name()?;
        let name = format!("{}-{}", folder.to_string_lossy(), target["name"].as_str()?);
        Some((name, PathBuf::from(message["executable"].as_str()?)))
    };
    Ok(messages.lines().filter_map(executable).collect())
}

/// The modules with all they depend on, in the order in which they load.
fn modules() -> Result<Vec<PathBuf>> {
    let kernel = tools::dir().join("kernel");
    let tree = only(&kernel.join("lib/modules"), "")?;
    let release = tree.file_name().unwrap_or_default().to_string_lossy().into_owned();
    read(cmd(tools::dir().join("busybox")).args(["depmod", "-b"]).arg(&kernel).arg(release))?;
    let table = fs::read_to_string(tree.join("modules.dep")).context("read modules.dep")?;
    let (mut order, mut had) = (Vec::new(), BTreeSet::new());
    for module in MODULES {
        let file = format!("/{module}.ko");
        // A line reads MODULE: NEEDED…, the deepest need last.
        let line = table.lines().find_map(|l| {
            let (path, needs) = l.split_once(':')?;
            path.ends_with(&file).then_some((path, needs))
        });
        let Some((path, needs)) = line else { continue };
        for part in needs.split_whitespace().rev().chain([path]) {
            if had.insert(part.to_owned()) {
                order.push(tree.join(part));
            }
        }
    }
    Ok(order)
}

/// The one entry of `dir` whose name starts with `prefix`.
fn only(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    entries
        .flatten()
        .map(|e| e.path())
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .with_context(|| format!("no {prefix}… in {}", dir.display()))
}
