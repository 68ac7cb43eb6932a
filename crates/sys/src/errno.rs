//! Error numbers by name, and their texts as container tools print them.

/// No such file or directory.
pub const NOENT: i32 = libc::ENOENT;
/// Operation not permitted.
pub const PERM: i32 = libc::EPERM;
/// Permission denied.
pub const ACCES: i32 = libc::EACCES;
/// File exists.
pub const EXIST: i32 = libc::EEXIST;
/// Invalid argument.
pub const INVAL: i32 = libc::EINVAL;
/// Device or resource busy.
pub const BUSY: i32 = libc::EBUSY;
/// Not a directory.
pub const NOTDIR: i32 = libc::ENOTDIR;
/// Is a directory.
pub const ISDIR: i32 = libc::EISDIR;
/// No such process.
pub const SRCH: i32 = libc::ESRCH;
/// Function not implemented.
pub const NOSYS: i32 = libc::ENOSYS;
/// Too many levels of symbolic links.
pub const LOOP: i32 = libc::ELOOP;
/// Operation not supported.
pub const OPNOTSUPP: i32 = libc::EOPNOTSUPP;
/// No such device or address.
pub const NXIO: i32 = libc::ENXIO;
/// No such device.
pub const NODEV: i32 = libc::ENODEV;
/// Exec format error.
pub const NOEXEC: i32 = libc::ENOEXEC;
/// Invalid cross-device link; also "leaves the tree" from `openat2`.
pub const XDEV: i32 = libc::EXDEV;
/// Read-only file system.
pub const ROFS: i32 = libc::EROFS;
/// Resource temporarily unavailable.
pub const AGAIN: i32 = libc::EAGAIN;

/// The C library's text with its first letter in lower case, which is also Go's.
pub fn text(errno: i32) -> String {
    let full = std::io::Error::from_raw_os_error(errno).to_string();
    let bare = full.split(" (os error").next().unwrap_or(&full);
    let mut chars = bare.chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn texts_are_those_of_go() {
        assert_eq!(super::text(libc::ENOENT), "no such file or directory");
        assert_eq!(super::text(libc::ENOEXEC), "exec format error");
    }
}
