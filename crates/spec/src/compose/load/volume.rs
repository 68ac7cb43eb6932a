//! The short form of a mount: `[SOURCE:]TARGET[:OPTIONS]`.

use crate::compose::node::{Map, Node, Span, Value};

const PROPAGATION: [&str; 6] = ["rprivate", "private", "rshared", "shared", "rslave", "slave"];

struct Mount {
    source: String,
    target: String,
    options: Vec<String>,
}

/// Where in the container the mount is.
pub(super) fn target(spec: &str) -> Result<String, String> {
    split(spec).map(|m| m.target)
}

/// The long form.
pub(super) fn long(spec: &str, span: Span) -> Result<Map, String> {
    let mount = split(spec)?;
    let text = |t: &str| Node::text(t, span);
    let yes = || Node::new(Value::Bool(true), span);
    let mut out = Map::new();
    let mut options = Map::new();
    let is_bind = is_path(&mount.source);
    let kind = if is_bind { "bind" } else { "volume" };
    let (mut read_only, mut nocopy) = (false, false);
    for option in &mount.options {
        match option.as_str() {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "nocopy" => nocopy = true,
            "z" | "Z" => drop(options.insert("selinux".into(), text(option))),
            p if PROPAGATION.contains(&p) => drop(options.insert("propagation".into(), text(p))),
            // Others are for engines of other systems, such as `cached` and `delegated`.
            _ => (),
        }
    }
    if is_bind {
        // The short form has always made the directory when it was missing.
        options.insert("create_host_path".into(), yes());
    }
    if is_bind || !options.is_empty() {
        out.insert("bind".into(), Node::new(Value::Map(options), span));
    }
    if !is_bind || nocopy {
        let nocopy = nocopy.then(|| ("nocopy".to_owned(), yes()));
        out.insert("volume".into(), Node::new(Value::Map(nocopy.into_iter().collect()), span));
    }
    out.insert("type".into(), text(kind));
    out.insert("target".into(), text(&clean(&mount.target)));
    if !mount.source.is_empty() {
        out.insert("source".into(), text(&mount.source));
    }
    if read_only {
        out.insert("read_only".into(), yes());
    }
    if spec.len() <= 2 {
        out.remove("volume");
    }
    Ok(out)
}

fn split(spec: &str) -> Result<Mount, String> {
    if spec.is_empty() {
        return Err("invalid empty volume spec".to_owned());
    }
    let mut mount = Mount { source: String::new(), target: spec.to_owned(), options: Vec::new() };
    if spec.len() <= 2 {
        return Ok(mount);
    }
    let wrong = |why: &str| format!("invalid spec: {spec}: {why}");
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut braces = 0usize;
    let mut chars = spec.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '$' if chars.peek() == Some(&'{') => braces += 1,
            '}' => braces = braces.saturating_sub(1),
            // One letter before the colon is a drive of Windows.
            ':' if braces == 0 && !is_drive(&part) => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => (),
        }
        part.push(c);
    }
    parts.push(part);
    if parts.iter().any(String::is_empty) {
        return Err(wrong("empty section between colons"));
    }
    match <[String; 3]>::try_from(parts) {
        Ok([source, target, options]) => {
            mount =
                Mount { source, target, options: options.split(',').map(str::to_owned).collect() };
        }
        Err(parts) => match parts.len() {
            1 => (),
            2 => {
                let mut parts = parts.into_iter();
                mount.source = parts.next().unwrap_or_default();
                mount.target = parts.next().unwrap_or_default();
            }
            _ => return Err(wrong("too many colons")),
        },
    }
    Ok(mount)
}

fn is_drive(part: &str) -> bool {
    let mut chars = part.chars();
    chars.next().is_some_and(char::is_alphabetic) && chars.next().is_none()
}

fn is_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~'])
        || source.starts_with("\\\\")
        || source.split_once(':').is_some_and(|(drive, _)| is_drive(drive))
}

/// A path without `.`, `..` and doubled slashes, as Go's `path.Clean` makes it.
pub(in crate::compose) fn clean(path: &str) -> String {
    if path.is_empty() {
        return String::new();
    }
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => (),
            ".." => match parts.last() {
                Some(&last) if last != ".." => drop(parts.pop()),
                _ if rooted => (),
                _ => parts.push(".."),
            },
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}

/// `base` and `path` joined and cleaned; an absolute `path` stays.
pub(in crate::compose) fn join(base: &str, path: &str) -> String {
    match path.starts_with('/') {
        true => path.to_owned(),
        false => clean(&format!("{base}/{path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [
            ("/a/../b/./c//d/", "/b/c/d"),
            ("/..", "/"),
            ("a/..", "."),
            ("../a", "../a"),
            ("./x", "x"),
            ("", ""),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
        assert_eq!(join("/base", "../x"), "/x");
    }

    #[test]
    fn short_forms_are_split() {
        for (spec, source, target) in [
            ("/data", "", "/data"),
            ("db:/data", "db", "/data"),
            ("./x:/y:ro", "./x", "/y"),
            ("C:\\x:/y", "C:\\x", "/y"),
            ("${X:-/a}:/y", "${X:-/a}", "/y"),
        ] {
            let mount = split(spec).unwrap();
            assert_eq!((mount.source.as_str(), mount.target.as_str()), (source, target), "{spec}");
        }
        assert!(split("aa::b").is_err());
        assert!(split("aa:bb:cc:dd").is_err());
    }
}
