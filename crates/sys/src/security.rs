//! What a process may do: capabilities, seccomp filters, keyrings, device programs.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::process::{check, own, prctl};

/// Three of a process's capability sets, one bit per capability number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSets {
    /// In force now.
    pub effective: u64,
    /// May be made effective.
    pub permitted: u64,
    /// Kept across `execve` of files that say so.
    pub inheritable: u64,
}

/// One instruction of classic BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[repr(C)]
pub struct Insn {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Sets this process's effective, permitted and inheritable capabilities.
pub fn set_capabilities(sets: CapSets) -> io::Result<()> {
    let header = [0x2008_0522_u32, 0];
    let low = |v: u64| (v & 0xffff_ffff) as u32;
    let high = |v: u64| (v >> 32) as u32;
    let data = [
        low(sets.effective),
        low(sets.permitted),
        low(sets.inheritable),
        high(sets.effective),
        high(sets.permitted),
        high(sets.inheritable),
    ];
    // SAFETY: version 3 of the interface takes a header of two words and data of six.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// Removes every capability not in `keep` from the bounding set.
pub fn limit_bounding_set(keep: u64, last: u8) -> io::Result<()> {
    for cap in (0..=u64::from(last)).filter(|cap| keep & (1 << cap) == 0) {
        prctl(libc::PR_CAPBSET_DROP, cap, 0)?;
    }
    Ok(())
}

/// Makes the ambient set exactly `caps`, which must be permitted and inheritable.
pub fn set_ambient(caps: u64, last: u8) -> io::Result<()> {
    const RAISE: u64 = 2;
    const CLEAR: u64 = 4;
    prctl(libc::PR_CAP_AMBIENT, CLEAR, 0)?;
    for cap in (0..=u64::from(last)).filter(|cap| caps & (1 << cap) != 0) {
        prctl(libc::PR_CAP_AMBIENT, RAISE, cap)?;
    }
    Ok(())
}

/// This process's capability sets.
pub fn capabilities() -> io::Result<CapSets> {
    let header = [0x2008_0522_u32, 0];
    let mut data = [0u32; 6];
    // SAFETY: version 3 of the interface fills six words.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapSets {
        effective: join(data[0], data[3]),
        permitted: join(data[1], data[4]),
        inheritable: join(data[2], data[5]),
    })
}

/// Installs a system call filter on this process. With `SECCOMP_FILTER_FLAG_NEW_LISTENER` in
/// `flags` the notification descriptor is returned.
pub fn load_filter(program: &[Insn], flags: u64) -> io::Result<Option<OwnedFd>> {
    #[repr(C)]
    struct Prog {
        len: u16,
        filter: *const Insn,
    }
    let len = u16::try_from(program.len())
        .map_err(|_| io::Error::other("the system call filter is longer than the kernel takes"))?;
    let prog = Prog { len, filter: program.as_ptr() };
    const SET_MODE_FILTER: u32 = 1;
    // SAFETY: `prog` has the layout of sock_fprog and outlives the call, as does `program`.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const prog)
    })?;
    if flags & NEW_LISTENER == 0 { Ok(None) } else { own(fd).map(Some) }
}

/// Return a notification descriptor for the filter.
pub const NEW_LISTENER: u64 = 8;

/// Starts a new session keyring of that name, so that the old one's keys are out of reach.
pub fn join_session_keyring(name: &CStr) -> io::Result<()> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: the name ends in null and is read only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

/// Attaches a program of type cgroup-device to a v2 cgroup, replacing those that are there.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: &[u64]) -> io::Result<()> {
    let fd = load_device_program(program)?;
    let old = device_programs(cgroup)?;
    const BPF_PROG_ATTACH: i32 = 8;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    bpf_attach(BPF_PROG_ATTACH, cgroup, fd.as_raw_fd(), BPF_F_ALLOW_MULTI)?;
    for id in old {
        detach_device_program(cgroup, id)?;
    }
    Ok(())
}

const CGROUP_DEVICE: u32 = 6;

fn load_device_program(program: &[u64]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: i32 = 5;
    const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }
    let attr = Attr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        ..Attr::default()
    };
    // SAFETY: `attr` begins as bpf_attr does for this command, and what it points to outlives the call.
    own(check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, std::mem::size_of::<Attr>())
    })?)
}

fn bpf_attach(command: i32, cgroup: BorrowedFd<'_>, program: i32, flags: u32) -> io::Result<()> {
    let attr = [
        u32::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?,
        u32::try_from(program).map_err(io::Error::other)?,
        CGROUP_DEVICE,
        flags,
    ];
    // SAFETY: four words begin bpf_attr for attach and detach.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), 16) }).map(drop)
}

fn detach_device_program(cgroup: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    const BPF_PROG_DETACH: i32 = 9;
    const BPF_PROG_GET_FD_BY_ID: i32 = 13;
    let attr = [id, 0, 0];
    // SAFETY: three words begin bpf_attr for this command.
    let fd = own(check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_GET_FD_BY_ID, attr.as_ptr(), 12)
    })?)?;
    bpf_attach(BPF_PROG_DETACH, cgroup, fd.as_raw_fd(), 0)
}

fn device_programs(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    const BPF_PROG_QUERY: i32 = 16;
    #[repr(C)]
    struct Query {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        pad: u32,
    }
    let mut ids = vec![0u32; 64];
    let mut query = Query {
        target_fd: u32::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?,
        attach_type: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        pad: 0,
    };
    // SAFETY: `query` begins as bpf_attr does for this command; `ids` has room for prog_cnt numbers.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, std::mem::size_of::<Query>())
    })?;
    ids.truncate(query.prog_cnt as usize);
    Ok(ids)
}
