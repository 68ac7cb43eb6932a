//! System call filters: Docker's default profile, custom profiles, and their compilation to BPF.

use std::collections::{BTreeMap, VecDeque};

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
    LinuxSyscallBuilder,
};
use serde::Deserialize;
use wharf_base::sync::Mutex;
use wharf_sys::security::{Insn, NEW_LISTENER};

use crate::plan::Filter;

mod assemble;
mod docker;
mod numbers;

use assemble::{ArchTable, Condition, Leaf};
use numbers::Column;

/// A profile that cannot be read or compiled.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The profile is not JSON of the expected form.
    #[error("parse the seccomp profile")]
    Parse(#[source] serde_json::Error),
    /// The profile says something that cannot be compiled.
    #[error("seccomp: {0}")]
    Profile(String),
}

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Docker's default profile for a container with these capabilities on this kernel.
pub fn docker_default(caps: &[Capability], arch: Arch, kernel: (u32, u32)) -> LinuxSeccomp {
    let has = |name: &str| caps.iter().any(|cap| cap.to_string() == name);
    let mut rules = vec![allow(docker::ALWAYS, &[])];
    if kernel >= (4, 8) {
        rules.push(allow(docker::SINCE_4_8, &[]));
    }
    rules.push(allow("socket", &[(0, docker::FAMILIES_BELOW, 0, LinuxSeccompOperator::ScmpCmpLt)]));
    for family in docker::FAMILIES {
        rules.push(allow("socket", &[(0, family, 0, LinuxSeccompOperator::ScmpCmpEq)]));
    }
    for domain in docker::PERSONALITIES {
        rules.push(allow("personality", &[(0, domain, 0, LinuxSeccompOperator::ScmpCmpEq)]));
    }
    match arch {
        Arch::ScmpArchX86_64 => rules.push(allow("arch_prctl modify_ldt", &[])),
        Arch::ScmpArchAarch64 => rules.push(allow(
            "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
            &[],
        )),
        _ => (),
    }
    for (cap, names) in docker::BY_CAPABILITY {
        if has(cap) {
            rules.push(allow(names, &[]));
        }
    }
    if !has("SYS_ADMIN") {
        let masked = LinuxSeccompOperator::ScmpCmpMaskedEq;
        rules.push(allow("clone", &[(0, docker::CLONE_NAMESPACES, 0, masked)]));
        // Its flags are behind a pointer that a filter cannot follow; ENOSYS makes libraries use clone.
        rules.push(rule("clone3", LinuxSeccompAction::ScmpActErrno, Some(ENOSYS), &[]));
    }
    build(LinuxSeccompAction::ScmpActErrno, Some(EPERM), sub_architectures(arch), rules)
}

type Arg = (usize, u64, u64, LinuxSeccompOperator);

fn allow(names: &str, args: &[Arg]) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow, None, args)
}

fn rule(names: &str, action: LinuxSeccompAction, errno: Option<u32>, args: &[Arg]) -> LinuxSyscall {
    let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    let mut builder = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        builder = builder.errno_ret(errno);
    }
    if !args.is_empty() {
        let args: Vec<LinuxSeccompArg> = args.iter().map(|a| argument(*a)).collect();
        builder = builder.args(args);
    }
    builder.build().unwrap_or_default()
}

fn argument((index, value, value_two, op): Arg) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default().index(index).value(value);
    builder.value_two(value_two).op(op).build().unwrap_or_default()
}

fn build(
    default: LinuxSeccompAction,
    errno: Option<u32>,
    architectures: Vec<Arch>,
    rules: Vec<LinuxSyscall>,
) -> LinuxSeccomp {
    let mut builder = LinuxSeccompBuilder::default()
        .default_action(default)
        .architectures(architectures)
        .syscalls(rules);
    if let Some(errno) = errno {
        builder = builder.default_errno_ret(errno);
    }
    builder.build().unwrap_or_default()
}

/// An architecture with those whose programs it runs as well.
fn sub_architectures(arch: Arch) -> Vec<Arch> {
    match arch {
        Arch::ScmpArchX86_64 => vec![arch, Arch::ScmpArchX86, Arch::ScmpArchX32],
        Arch::ScmpArchAarch64 => vec![arch, Arch::ScmpArchArm],
        other => vec![other],
    }
}

/// The architecture this program is built for.
pub fn native_arch() -> Arch {
    if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 }
}

/// Docker's profile format: OCI's, with conditions.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerProfile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<std::path::PathBuf>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<DockerRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerRule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<DockerArg>>,
    #[serde(default)]
    includes: DockerFilter,
    #[serde(default)]
    excludes: DockerFilter,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerArg {
    index: usize,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: LinuxSeccompOperator,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerFilter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// A profile in Docker's format (`--security-opt seccomp=FILE`), resolved for these capabilities and this kernel.
pub fn from_docker_profile(
    json: &[u8],
    caps: &[Capability],
    arch: Arch,
    kernel: (u32, u32),
) -> Result<LinuxSeccomp, SeccompError> {
    let profile: DockerProfile = serde_json::from_slice(json).map_err(SeccompError::Parse)?;
    let architectures = match (profile.architectures, profile.arch_map) {
        (Some(list), Some(map)) if !list.is_empty() && !map.is_empty() => {
            let problem = "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'";
            return Err(SeccompError::Profile(problem.into()));
        }
        (_, Some(map)) if !map.is_empty() => {
            let entry = map.into_iter().find(|entry| entry.architecture == arch);
            entry.map_or_else(
                || vec![arch],
                |entry| {
                    std::iter::once(arch)
                        .chain(entry.sub_architectures.into_iter().flatten())
                        .collect()
                },
            )
        }
        (list, _) => list.unwrap_or_default(),
    };
    let mut rules = Vec::new();
    for entry in profile.syscalls.into_iter().flatten() {
        if !entry.applies(caps, arch, kernel)? {
            continue;
        }
        let names = match (entry.name, entry.names) {
            (Some(_), Some(names)) if !names.is_empty() => {
                let problem = "both 'name' and 'names' are specified in a rule, use one";
                return Err(SeccompError::Profile(problem.into()));
            }
            (Some(name), _) => name,
            (None, names) => names.unwrap_or_default().join(" "),
        };
        let args: Vec<Arg> =
            entry.args.iter().flatten().map(|a| (a.index, a.value, a.value_two, a.op)).collect();
        rules.push(rule(&names, entry.action, entry.errno_ret, &args));
    }
    let mut out = build(profile.default_action, profile.default_errno_ret, architectures, rules);
    out.set_flags(profile.flags);
    out.set_listener_path(profile.listener_path);
    out.set_listener_metadata(profile.listener_metadata);
    Ok(out)
}

impl DockerRule {
    fn applies(
        &self,
        caps: &[Capability],
        arch: Arch,
        kernel: (u32, u32),
    ) -> Result<bool, SeccompError> {
        let has = |name: &String| {
            let name = name.strip_prefix("CAP_").unwrap_or(name);
            caps.iter().any(|cap| cap.to_string() == name)
        };
        let runs = |name: &String| docker_arch(arch) == name.as_str();
        let reached = |text: &String| {
            let bad = || SeccompError::Profile(format!("minKernel {text:?} is not a version"));
            let (major, minor) = text.split_once('.').ok_or_else(bad)?;
            let version = (major.parse().map_err(|_| bad())?, minor.parse().map_err(|_| bad())?);
            Ok::<bool, SeccompError>(kernel >= version)
        };
        let (inc, exc) = (&self.includes, &self.excludes);
        let excluded = exc.caps.iter().flatten().any(has)
            || exc.arches.iter().flatten().any(runs)
            || exc.min_kernel.as_ref().map(reached).transpose()?.unwrap_or(false);
        let included = inc.caps.iter().flatten().all(has)
            && inc.arches.as_ref().is_none_or(|list| list.is_empty() || list.iter().any(runs))
            && inc.min_kernel.as_ref().map(reached).transpose()?.unwrap_or(true);
        Ok(included && !excluded)
    }
}

/// Architectures by Go's names, which Docker's conditions use.
fn docker_arch(arch: Arch) -> &'static str {
    match arch {
        Arch::ScmpArchX86_64 => "amd64",
        Arch::ScmpArchX86 => "x86",
        Arch::ScmpArchX32 => "x32",
        Arch::ScmpArchAarch64 => "arm64",
        Arch::ScmpArchArm => "arm",
        _ => "",
    }
}

/// Compiles a profile for this host.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    let uses_notify = profile
        .syscalls()
        .iter()
        .flatten()
        .any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify);
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        let problem = "SCMP_ACT_NOTIFY cannot be the default: the container could not even start";
        return Err(SeccompError::Profile(problem.into()));
    }
    let listener = profile.listener_path().clone().filter(|p| !p.as_os_str().is_empty());
    if uses_notify && listener.is_none() {
        let problem = "SCMP_ACT_NOTIFY needs a listenerPath: nobody would answer";
        return Err(SeccompError::Profile(problem.into()));
    }
    Ok(Filter {
        program: program(profile)?.into(),
        flags: flags(profile) | if uses_notify { NEW_LISTENER } else { 0 },
        // Without such an action nothing is ever notified.
        listener: listener.filter(|_| uses_notify),
        metadata: profile.listener_metadata().clone().unwrap_or_default(),
    })
}

/// The profiles compiled last: nearly all containers of an engine have the same one, and compiling it is a good part
/// of making a plan.
#[derive(Debug, Default)]
pub struct Filters(Mutex<VecDeque<(LinuxSeccomp, Filter)>>);

impl Filters {
    /// How many are kept: one per set of capabilities that is in use.
    const MOST: usize = 4;

    /// As [`compile`].
    pub fn compile(&self, profile: &LinuxSeccomp) -> Result<Filter, SeccompError> {
        if let Some((_, known)) = self.0.lock().iter().find(|(of, _)| of == profile) {
            return Ok(known.clone());
        }
        let filter = compile(profile)?;
        let mut known = self.0.lock();
        known.truncate(Self::MOST - 1);
        known.push_front((profile.clone(), filter.clone()));
        Ok(filter)
    }
}

fn flags(profile: &LinuxSeccomp) -> u64 {
    use LinuxSeccompFilterFlag as F;
    // Without a word the mitigation that slows every filtered process is left off, as runc does.
    let Some(flags) = profile.flags() else { return 4 };
    let bits = flags.iter().map(|flag| match flag {
        F::SeccompFilterFlagTsync => 1,
        F::SeccompFilterFlagLog => 2,
        F::SeccompFilterFlagSpecAllow => 4,
        F::SeccompFilterFlagWaitKillableRecv => 0x20,
    });
    bits.fold(0, |a, b| a | b)
}

fn program(profile: &LinuxSeccomp) -> Result<Vec<Insn>, SeccompError> {
    let default = action(profile.default_action(), profile.default_errno_ret());
    let mut arches = profile.architectures().clone().unwrap_or_default();
    if !arches.contains(&native_arch()) {
        arches.push(native_arch());
    }
    let mut tables = Vec::new();
    for (audit, columns) in audits(&arches) {
        let mut table = ArchTable { audit, calls: BTreeMap::new(), default, beyond: None };
        for column in columns {
            fill(&mut table, profile, column)?;
        }
        // A call newer than the profile answers "no such call" instead of "not permitted": libraries
        // then fall back to an older one.
        if profile.default_action() == LinuxSeccompAction::ScmpActErrno {
            let limit = table.calls.keys().copied().filter(|n| *n < 0x4000_0000).max();
            table.beyond =
                limit.map(|n| (n + 1, action(LinuxSeccompAction::ScmpActErrno, Some(ENOSYS))));
        }
        tables.push(table);
    }
    assemble::program(&tables).map_err(SeccompError::Profile)
}

/// The kernel's architecture words with the call tables that each covers.
fn audits(arches: &[Arch]) -> Vec<(u32, Vec<Column>)> {
    let has = |arch| arches.contains(&arch);
    let mut out = Vec::new();
    // Others cannot run on a host of these two kinds, so a rule for them would never be asked.
    if cfg!(target_arch = "x86_64") {
        let mut columns = vec![Column::X86_64];
        if has(Arch::ScmpArchX32) {
            columns.push(Column::X32);
        }
        out.push((0xc000_003e, columns));
        if has(Arch::ScmpArchX86) {
            out.push((0x4000_0003, vec![Column::X86]));
        }
    } else {
        out.push((0xc000_00b7, vec![Column::Aarch64]));
        if has(Arch::ScmpArchArm) {
            out.push((0x4000_0028, vec![Column::Arm]));
        }
    }
    out
}

fn fill(table: &mut ArchTable, profile: &LinuxSeccomp, column: Column) -> Result<(), SeccompError> {
    for entry in profile.syscalls().iter().flatten() {
        let action = action(entry.action(), entry.errno_ret());
        if action == table.default && entry.args().as_ref().is_none_or(Vec::is_empty) {
            for number in entry.names().iter().filter_map(|name| numbers::number(name, column)) {
                table.calls.entry(number).or_default();
            }
            continue;
        }
        let sets = condition_sets(entry.args().as_deref().unwrap_or(&[]))?;
        // A name the kernel of this host does not have cannot be called.
        for number in entry.names().iter().filter_map(|name| numbers::number(name, column)) {
            let leaf: &mut Leaf = table.calls.entry(number).or_default();
            for set in &sets {
                leaf.add(set.clone(), action);
            }
        }
    }
    Ok(())
}

/// Conditions on different arguments hold together; several on one argument are alternatives, as
/// libseccomp's users write them.
fn condition_sets(args: &[LinuxSeccompArg]) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let mut all = Vec::new();
    for arg in args {
        if arg.index() > 5 {
            let problem = format!("argument {} does not exist: there are 0 to 5", arg.index());
            return Err(SeccompError::Profile(problem));
        }
        all.push(Condition {
            index: u32::try_from(arg.index()).unwrap_or(0),
            op: arg.op(),
            value: arg.value(),
            value_two: arg.value_two().unwrap_or(0),
        });
    }
    let repeated = all.iter().enumerate().any(|(i, a)| all[..i].iter().any(|b| b.index == a.index));
    Ok(if repeated { all.into_iter().map(|c| vec![c]).collect() } else { vec![all] })
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    action.as_u32(errno.map(|e| e & 0xffff))
}

#[cfg(test)]
mod tests {
    use super::*;
    use assemble::tests::ask;

    const ALLOW: u32 = 0x7fff_0000;
    const X86_64: u32 = 0xc000_003e;
    const X86: u32 = 0x4000_0003;

    fn default_filter(caps: &[Capability]) -> Vec<Insn> {
        compile(&docker_default(caps, Arch::ScmpArchX86_64, (6, 1))).unwrap().program.to_vec()
    }

    fn nr(name: &str) -> u32 {
        numbers::number(name, Column::X86_64).unwrap()
    }

    fn call(filter: &[Insn], name: &str, args: [u64; 6]) -> u32 {
        ask(filter, X86_64, nr(name), args)
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn docker_default_answers() {
        let filter = default_filter(&[]);
        let eperm = 0x0005_0001;
        let answer = |name: &str, first: u64| call(&filter, name, [first, 0, 0, 0, 0, 0]);
        assert_eq!(answer("read", 0), ALLOW);
        assert_eq!(answer("execve", 0), ALLOW);
        for name in [
            "io_uring_setup",
            "io_uring_enter",
            "keyctl",
            "add_key",
            "bpf",
            "userfaultfd",
            "mount",
            "unshare",
            "setns",
            "reboot",
            "kexec_load",
            "init_module",
            "chroot",
        ] {
            assert_eq!(answer(name, 0), eperm, "{name}");
        }
        assert_eq!(answer("clone3", 0), 0x0005_0026);
        assert_eq!(answer("socket", 38), eperm, "AF_ALG");
        assert_eq!(answer("socket", 40), eperm, "AF_VSOCK");
        for family in [1, 2, 10, 16, 17, 44] {
            assert_eq!(answer("socket", family), ALLOW, "family {family}");
        }
        assert_eq!(answer("clone", 0x11), ALLOW);
        assert_eq!(answer("clone", 0x1000_0000), eperm, "CLONE_NEWUSER");
        assert_eq!(answer("personality", 0xffff_ffff), ALLOW);
        assert_eq!(answer("personality", 0x40), eperm);
        assert_eq!(ask(&filter, X86_64, 9999, [0; 6]), 0x0005_0026, "newer than the profile");
        assert_eq!(ask(&filter, 0x1234, 0, [0; 6]), 0, "foreign architecture");
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_allowed_name_is_allowed_on_every_arch() {
        let filter = default_filter(&[]);
        for name in docker::ALWAYS.split_whitespace() {
            for (audit, column) in
                [(X86_64, Column::X86_64), (X86, Column::X86), (X86_64, Column::X32)]
            {
                if let Some(number) = numbers::number(name, column) {
                    assert_eq!(ask(&filter, audit, number, [0; 6]), ALLOW, "{name} {column:?}");
                }
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn capabilities_open_calls() {
        let filter = default_filter(&[Capability::SysAdmin, Capability::SysChroot]);
        assert_eq!(call(&filter, "mount", [0; 6]), ALLOW);
        assert_eq!(call(&filter, "clone3", [0; 6]), ALLOW);
        assert_eq!(call(&filter, "clone", [0x1000_0000, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(&filter, "chroot", [0; 6]), ALLOW);
    }

    #[test]
    fn default_profile_is_short() {
        assert!(default_filter(&[]).len() < 1200, "{}", default_filter(&[]).len());
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn operators_compare_64_bits() {
        let big = 1u64 << 32;
        let cases = [
            ("SCMP_CMP_EQ", big + 5, vec![big + 5], vec![5, big + 6, big * 2 + 5]),
            ("SCMP_CMP_NE", big + 5, vec![5, big + 6], vec![big + 5]),
            ("SCMP_CMP_GT", big + 5, vec![big + 6, big * 2], vec![big + 5, 6, big]),
            ("SCMP_CMP_GE", big + 5, vec![big + 5, big * 2], vec![big + 4, 9]),
            ("SCMP_CMP_LT", big + 5, vec![big + 4, 9], vec![big + 5, big * 2]),
            ("SCMP_CMP_LE", big + 5, vec![big + 5, 9], vec![big + 6, big * 2]),
        ];
        for (op, value, yes, no) in cases {
            let json = format!(
                r#"{{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[{{"names":["read"],
                "action":"SCMP_ACT_ALLOW","args":[{{"index":2,"value":{value},"op":"{op}"}}]}}]}}"#
            );
            let filter = compile(&serde_json::from_str(&json).unwrap()).unwrap().program;
            for (values, wanted) in [(yes, ALLOW), (no, 0x8000_0000)] {
                for v in values {
                    assert_eq!(call(&filter, "read", [0, 0, v, 0, 0, 0]), wanted, "{op} {v:#x}");
                }
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn masked_alternatives_and_actions() {
        let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["open"],"action":"SCMP_ACT_ERRNO","errnoRet":13,"args":[
                {"index":1,"value":3,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"}]},
            {"names":["kill"],"action":"SCMP_ACT_TRAP","args":[
                {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]},
            {"names":["mkdir"],"action":"SCMP_ACT_TRACE","errnoRet":7},
            {"names":["rmdir"],"action":"SCMP_ACT_LOG"},{"names":["time"],"action":"SCMP_ACT_KILL"}]}"#;
        let filter = compile(&serde_json::from_str(json).unwrap()).unwrap().program;
        assert_eq!(call(&filter, "open", [0, 0x41, 0, 0, 0, 0]), 0x0005_000d);
        assert_eq!(call(&filter, "open", [0, 0x42, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(&filter, "kill", [2, 0, 0, 0, 0, 0]), 0x0003_0000);
        assert_eq!(call(&filter, "kill", [3, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(&filter, "mkdir", [0; 6]), 0x7ff0_0007);
        assert_eq!(call(&filter, "rmdir", [0; 6]), 0x7ffc_0000);
        assert_eq!(call(&filter, "time", [0; 6]), 0);
    }

    #[test]
    fn docker_format_has_conditions() {
        let json =
            br#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64",
            "subArchitectures":["SCMP_ARCH_X86"]}],"syscalls":[
            {"names":["a"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["b"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["c"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
            {"names":["d"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}}]}"#;
        let names = |caps: &[Capability], kernel| -> Vec<String> {
            let profile = from_docker_profile(json, caps, Arch::ScmpArchX86_64, kernel).unwrap();
            profile.syscalls().iter().flatten().flat_map(|r| r.names().clone()).collect()
        };
        assert_eq!(names(&[], (6, 1)), ["b", "c"]);
        assert_eq!(names(&[Capability::SysAdmin], (4, 4)), ["a"]);
        assert!(from_docker_profile(b"{", &[], Arch::ScmpArchX86_64, (6, 1)).is_err());
    }

    #[test]
    fn notify_needs_a_listener() {
        let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#;
        assert!(compile(&serde_json::from_str(json).unwrap()).is_err());
        let json = json.replace("\"syscalls\"", "\"listenerPath\":\"/x\",\"syscalls\"");
        assert_eq!(
            compile(&serde_json::from_str(&json).unwrap()).unwrap().flags & NEW_LISTENER,
            NEW_LISTENER
        );
    }

    #[test]
    fn a_profile_is_compiled_once() {
        let filters = Filters::default();
        let profile = |caps: &[Capability]| docker_default(caps, Arch::ScmpArchX86_64, (6, 1));
        let first = filters.compile(&profile(&[])).unwrap();
        assert_eq!(first, compile(&profile(&[])).unwrap());
        let other = filters.compile(&profile(&[Capability::SysAdmin])).unwrap();
        assert_ne!(first, other);
        let again = filters.compile(&profile(&[])).unwrap();
        assert!(std::sync::Arc::ptr_eq(&first.program, &again.program));
    }
}
