//! `cargo xtask vm`: kernel tests and an engine in a virtual machine, for cgroup v2.
//!
//! Debian's cloud kernel boots in software emulation with an initramfs made here: wharf, busybox,
//! the modules that wharf needs, and the test programs of the crates that talk to the kernel.
//! Results come back over the serial console in the test harness's own format.

use crate::sh::{cargo, cmd, read, root};
use crate::suites::{Tally, build, count};
use crate::tools;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Crates whose tests say something about control groups and processes. (wharf-image's want a disk
/// that keeps attributes, where the machine's root is memory; wharf-net's want nft.)
const CRATES: &[&str] = &["wharf-sys", "wharf-runtime", "wharf-keeper"];

/// Tests that need what the machine does not have: nft, and attributes on its root.
const SKIP: &str = "--skip read_back_through_nft --skip attributes_and_nodes_come_back_as_set";

/// Kernel modules that wharf and its tests use; Debian's kernel builds them apart.
const MODULES: &[&str] = &[
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
];

/// Memory of the machine. The root file system lives in it.
const MEMORY: &str = "2048";

/// Seconds until a machine that hangs is ended.
const LIMIT: &str = "900";

/// Makes the machine's root a tmpfs (one cannot pivot away from an initramfs) and starts STAGE2.
const STAGE1: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /new
/bin/busybox mount -t tmpfs -o size=90%,mode=755 tmpfs /new
/bin/busybox cp -a /bin /etc /init2 /lib /tests /wharf /new/
exec /bin/busybox switch_root /new /init2
";

/// Mounts what a Linux host has, runs the programs, and powers off.
const STAGE2: &str = r#"#!/bin/busybox sh
export PATH=/bin HOME=/root RUST_BACKTRACE=0
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /run /tmp /root /var/tmp /var/lib /usr/bin
chmod 1777 /tmp /var/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
while read -r module; do insmod "$module"; done < /lib/order
# A controller is used below the root only where it is switched on.
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$c" > /sys/fs/cgroup/cgroup.subtree_control
done
ip link set lo up
echo "vm: $(uname -r), controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
cd /tmp
for program in /tests/*; do
    echo "vm: $program"
    "$program" --test-threads 2 SKIP FILTER 2>&1
    code=$?
    [ $code -le 101 ] || echo "test result: FAILED. 0 passed; 1 failed; $program ended with $code"
done
sh /etc/smoke
echo "vm: the end"
sync
poweroff -f
"#;

/// An engine on cgroup v2: each line is a test.
const SMOKE: &str = r#"
passed=0; failed=0
check() {
    name=$1; shift
    if out=$("$@" 2>&1); then passed=$((passed+1)); echo "test smoke::$name ... ok"
    else failed=$((failed+1)); echo "test smoke::$name ... FAILED"; echo "$out"; fi
}
wharf daemon --data-root /var/lib/wharf --exec-root /run/wharf -H unix:///run/wharf.sock > /run/wharf.log 2>&1 &
export DOCKER_HOST=unix:///run/wharf.sock
n=0
until wharf version > /dev/null 2>&1 || [ $n -ge 600 ]; do n=$((n+1)); sleep 0.1; done
busybox_image() { tar -C /etc/image -c . | wharf import -c 'CMD ["sh"]' - busybox; }
page() { n=0; until wget -qO- http://127.0.0.1:91/ || [ $n -ge 100 ]; do n=$((n+1)); sleep 0.1; done | grep -q "$(wharf ps -q --filter name=web)"; }
limited() { [ "$(wharf run --rm --memory 32m busybox cat /sys/fs/cgroup/memory.max)" = 33554432 ]; }
oom() { wharf run --name oom --memory 16m --memory-swap 16m busybox sh -c 'x=$(head -c 99999999 /dev/zero | tr "\0" x)'
    [ "$(wharf inspect -f '{{.State.OOMKilled}}' oom)" = true ]; }
paused() { wharf pause web && wharf ps | grep -q Paused && wharf unpause web; }
devices() { wharf run --rm busybox sh -c 'mknod /x c 1 8 && ! head -c1 /x; mknod /y c 10 200; ! head -c1 /y'; }
# What the machine at hand may lack: 802.1Q and ipvlan.
ip link add lan0 type dummy && ip link set lan0 up
children() { wharf network create -d "$1" --subnet "$2" -o parent=lan0"$3" "$1$3" &&
    wharf run -d --name "on-$1" --stop-timeout 0 --network "$1$3" busybox sleep 1000 &&
    wharf run --rm --network "$1$3" busybox ping -c1 -W10 "on-$1" &&
    wharf rm -f "on-$1" && wharf network rm "$1$3"; }
vlan() { children macvlan 10.6.0.0/24 .50 && ! [ -e /sys/class/net/lan0.50 ]; }
ipvlan() { children ipvlan 10.7.0.0/24 "" && wharf network create -d ipvlan -o parent=lan0 -o ipvlan_mode=l3 l3; }
tagged() { wharf run -d --name tagged --stop-timeout 0 busybox sleep 1000 &&
    wharf network attach --parent lan0 --vlan 7 --ip 10.8.0.2/24 tagged &&
    wharf exec tagged ip -o addr show eth1.7 | grep -q 10.8.0.2 && wharf rm -f tagged; }
check import busybox_image
check vlan vlan
check tagged tagged
check ipvlan ipvlan
check hello wharf run --rm hello-world
check serve wharf run -d --name web -p 91:80 wharf/welcome
check page page
check pause paused
check stats wharf stats --no-stream web
check memory limited
check oom oom
check pids wharf run --rm --pids-limit 5 busybox grep -q 5 /sys/fs/cgroup/pids.max
check cpus wharf run --rm --cpus 0.5 busybox grep -q '50000 100000' /sys/fs/cgroup/cpu.max
check update wharf update --memory 64m --memory-swap 64m web
check stop wharf stop web
check remove wharf rm web oom
[ $failed = 0 ] || { echo "vm: the engine's log"; tail -40 /run/wharf.log; }
echo "test result: smoke. $passed passed; $failed failed;"
"#;

/// `cargo xtask vm [FILTER]`
pub(crate) fn run(args: &[&str]) -> Result<bool> {
    tools::clients()?;
    tools::kernel()?;
    let tally = suite(args.first().copied())?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0 && tally.passed > 0)
}

/// Boots once; counts what the machine reports.
pub(crate) fn suite(filter: Option<&str>) -> Result<Tally> {
    let image = root().join("target/vm.cpio");
    let programs = programs()?;
    pack(&image, &programs, &build()?, filter.unwrap_or(""))?;
    let kernel = only(&tools::dir().join("kernel/boot"), "vmlinuz-")?;
    let firmware = tools::dir().join("qemu-deb/usr/share");
    let mut qemu = cmd("timeout");
    qemu.args(["--kill-after=5", LIMIT]).arg(tools::dir().join("qemu"));
    qemu.arg("-L").arg(firmware.join("seabios")).arg("-L").arg(firmware.join("qemu"));
    qemu.args(["-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
    qemu.args(["-m", MEMORY, "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(&image);
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init mitigations=off"]);
    let tally = count(&mut qemu);
    fs::remove_file(&image)?;
    let tally = tally?;
    if tally.passed + tally.failed == 0 {
        bail!("the machine reported nothing");
    }
    Ok(tally)
}

/// Builds the test programs and says where they are.
fn programs() -> Result<Vec<PathBuf>> {
    let mut c = cargo();
    c.args(["test", "--no-run", "--quiet", "--message-format=json"]);
    c.args(CRATES.iter().flat_map(|name| ["-p", name]));
    let messages = read(&mut c)?;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["profile"]["test"].as_bool().filter(|t| *t)?;
        Some(PathBuf::from(message["executable"].as_str()?))
    };
    Ok(messages.lines().filter_map(executable).collect())
}

fn pack(to: &Path, programs: &[PathBuf], wharf: &Path, filter: &str) -> Result<()> {
    let mut cpio = Cpio::create(to)?;
    let busybox = fs::read(tools::dir().join("busybox"))?;
    for dir in ["bin", "etc", "etc/image", "etc/image/bin", "lib", "tests", "dev", "new"] {
        cpio.add(dir, 0o040_755, &[])?;
    }
    cpio.add("init", 0o100_755, STAGE1.as_bytes())?;
    cpio.add(
        "init2",
        0o100_755,
        STAGE2.replace("SKIP", SKIP).replace("FILTER", filter).as_bytes(),
    )?;
    cpio.add("etc/smoke", 0o100_644, SMOKE.as_bytes())?;
    cpio.add("etc/passwd", 0o100_644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:::\n")?;
    cpio.add("etc/group", 0o100_644, b"root:x:0:\nnogroup:x:65534:\n")?;
    cpio.add("etc/resolv.conf", 0o100_644, b"")?;
    cpio.add("bin/busybox", 0o100_755, &busybox)?;
    cpio.add("etc/image/bin/busybox", 0o100_755, &busybox)?;
    for applet in ["sh", "cat", "head", "tr", "grep", "mknod", "sleep", "ping", "ip"] {
        cpio.add(&format!("etc/image/bin/{applet}"), 0o120_777, b"busybox")?;
    }
    cpio.add("bin/wharf", 0o100_755, &fs::read(wharf)?)?;
    cpio.add("wharf", 0o120_777, b"bin/wharf")?;
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        cpio.add(&format!("tests/{name}"), 0o100_755, &fs::read(program)?)?;
    }
    let mut order = String::new();
    for module in modules()? {
        let name = format!("lib/{}", module.file_name().unwrap_or_default().to_string_lossy());
        cpio.add(&name, 0o100_644, &fs::read(&module)?)?;
        order.push_str(&format!("/{name}\n"));
    }
    cpio.add("lib/order", 0o100_644, order.as_bytes())?;
    cpio.finish()
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

/// An initramfs in the making (cpio, "newc" format).
struct Cpio {
    file: std::io::BufWriter<fs::File>,
    inode: u32,
}

impl Cpio {
    fn create(path: &Path) -> Result<Cpio> {
        let file = fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Cpio { file: std::io::BufWriter::new(file), inode: 1 })
    }

    /// Adds a file, a directory or a link, as `mode` says.
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).context("a file beyond 4 GB")?;
        let length = u32::try_from(name.len() + 1).context("a name beyond 4 GB")?;
        self.inode += 1;
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        write!(self.file, "070701")?;
        for field in fields {
            write!(self.file, "{field:08X}")?;
        }
        write!(self.file, "{name}\0")?;
        self.pad(110 + name.len() + 1)?;
        self.file.write_all(content)?;
        self.pad(content.len())
    }

    fn finish(mut self) -> Result<()> {
        self.add("TRAILER!!!", 0, &[])?;
        Ok(self.file.flush()?)
    }

    fn pad(&mut self, written: usize) -> Result<()> {
        let gap = written.next_multiple_of(4) - written;
        Ok(self.file.write_all(&[0; 3][..gap])?)
    }
}
