//! Why a program cannot run, read off its first bytes: `exec format error` tells nobody anything.

use wharf_spec::docker::ContainerConfig;

/// Bytes of a program that are looked at.
pub(crate) const HEAD: u64 = 4096;

/// Where `program` may be, in order: itself, or each directory of `PATH`.
pub fn candidates(program: &str, config: &ContainerConfig) -> Vec<String> {
    if program.starts_with('/') {
        return vec![program.to_owned()];
    }
    if program.contains('/') {
        return vec![format!("{}/{program}", config.working_dir)];
    }
    let own = config.env.iter().flatten().rev().find_map(|e| e.strip_prefix("PATH="));
    let path = own.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path.split(':').map(|dir| format!("{dir}/{program}")).collect()
}

/// What is wrong with the program at `path` that begins with `head`; `exists` asks for other files of its tree.
pub fn diagnose(path: &str, head: &[u8], exists: &dyn Fn(&str) -> bool) -> Option<String> {
    if head.is_empty() {
        return Some(format!("{path} is an empty file"));
    }
    if let Some(rest) = head.strip_prefix(b"#!") {
        return script(path, rest, exists);
    }
    if head.starts_with(b"\x7fELF") {
        return elf(path, head, exists);
    }
    let text = head.iter().take(64).all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace());
    text.then(|| format!("{path} is a text without a #! line: start it with #!/bin/sh or the like"))
}

fn script(path: &str, rest: &[u8], exists: &dyn Fn(&str) -> bool) -> Option<String> {
    let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    if line.ends_with('\r') {
        return Some(format!(
            "{path} has Windows line ends: its #! line names a program whose name ends in a carriage \
             return; save it with Unix line ends"
        ));
    }
    let interpreter = line.split_whitespace().next().unwrap_or_default();
    match interpreter {
        "" => Some(format!("{path} has a #! line that names no interpreter")),
        name if !exists(name) => {
            Some(format!("{path} is a script for {name}, which is not in the image"))
        }
        _ => None,
    }
}

fn elf(path: &str, head: &[u8], exists: &dyn Fn(&str) -> bool) -> Option<String> {
    let little = head.get(5)? == &1;
    let half = |at: usize| -> Option<u16> {
        let bytes: [u8; 2] = head.get(at..at + 2)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let machine = half(18)?;
    let (theirs, ours) = (arch(machine), host_arch());
    if theirs != ours {
        return Some(format!(
            "{path} is {} {theirs} program, this host is {ours}",
            article(theirs)
        ));
    }
    let interpreter = interpreter(head)?;
    (!exists(&interpreter)).then(|| {
        format!(
            "{path} needs the loader {interpreter}, which is not in the image: it was built for another \
             C library; link it statically or use a base image that has it"
        )
    })
}

/// The path in the `PT_INTERP` segment of a 64-bit little-endian program, if it is in its head.
fn interpreter(head: &[u8]) -> Option<String> {
    if head.get(4..6)? != [2, 1] {
        return None;
    }
    let long = |at: usize| -> Option<usize> {
        usize::try_from(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?)).ok()
    };
    let half = |at: usize| -> Option<usize> {
        Some(usize::from(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?)))
    };
    let (table, size, count) = (long(32)?, half(54)?, half(56)?);
    for n in 0..count.min(64) {
        let at = table.checked_add(n * size)?;
        let kind = u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?);
        if kind == 3 {
            let (offset, length) = (long(at + 8)?, long(at + 32)?);
            let bytes = head.get(offset..offset.checked_add(length)?)?;
            let text = bytes.split(|b| *b == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
    }
    None
}

fn arch(machine: u16) -> &'static str {
    match machine {
        3 => "386",
        8 => "mips",
        20 => "ppc",
        21 => "ppc64le",
        22 => "s390x",
        40 => "arm",
        62 => "amd64",
        183 => "arm64",
        243 => "riscv64",
        258 => "loong64",
        _ => "foreign",
    }
}

fn host_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

fn article(word: &str) -> &'static str {
    match word.as_bytes().first() {
        Some(b'a' | b'e' | b'i' | b'o' | b'u') => "an",
        _ => "a",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &[u8], expected: Option<&str>) {
        let got = diagnose("/app", head, &|path| path == "/bin/sh");
        match (got, expected) {
            (Some(got), Some(text)) => assert!(got.contains(text), "{got}"),
            (got, expected) => assert_eq!(got.is_some(), expected.is_some(), "{got:?}"),
        }
    }

    fn head(machine: u16, loader: &str) -> Vec<u8> {
        let mut h = vec![0u8; 64 + 56];
        h[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        h[18..20].copy_from_slice(&machine.to_le_bytes());
        h[32..40].copy_from_slice(&64u64.to_le_bytes());
        h[54..56].copy_from_slice(&56u16.to_le_bytes());
        h[56..58].copy_from_slice(&1u16.to_le_bytes());
        h[64..68].copy_from_slice(&3u32.to_le_bytes());
        h[72..80].copy_from_slice(&120u64.to_le_bytes());
        h[96..104].copy_from_slice(&(loader.len() as u64).to_le_bytes());
        h.extend(loader.as_bytes());
        h
    }

    #[test]
    fn scripts() {
        check(b"#!/bin/sh\n", None);
        check(b"#!/bin/sh\r\necho\r\n", Some("Windows line ends"));
        check(b"#!/usr/bin/python3 -u\n", Some("/usr/bin/python3, which is not in the image"));
        check(b"#!\n", Some("names no interpreter"));
        check(b"echo hi\n", Some("without a #! line"));
        check(b"", Some("empty file"));
    }

    #[test]
    fn programs() {
        let (own, foreign) = if cfg!(target_arch = "x86_64") { (62, 183) } else { (183, 62) };
        check(&head(foreign, ""), Some("program, this host is"));
        check(
            &head(own, "/lib/ld-musl.so.1"),
            Some("/lib/ld-musl.so.1, which is not in the image"),
        );
        check(&head(own, "/bin/sh"), None);
        check(b"\x7fELF", None);
    }

    #[test]
    fn programs_are_looked_for_where_the_kernel_would() {
        let config = ContainerConfig {
            env: Some(vec!["PATH=/a:/b".into()]),
            working_dir: "/w".into(),
            ..ContainerConfig::default()
        };
        assert_eq!(candidates("x", &config), ["/a/x", "/b/x"]);
        assert_eq!(candidates("./x", &config), ["/w/./x"]);
        assert_eq!(candidates("/x", &config), ["/x"]);
    }
}
