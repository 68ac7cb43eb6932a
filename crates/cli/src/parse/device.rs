//! `--device host[:container[:mode]]` and CDI names.

use serde_json::{Value, json};

/// Whether it is a CDI name such as `vendor.com/gpu=0` rather than a path.
pub fn is_cdi(text: &str) -> bool {
    let Some((kind, name)) = text.split_once('=') else { return false };
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    let word = |s: &str, more: &str| {
        !s.is_empty()
            && s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    word(vendor, "_-.") && word(class, "_-") && word(name, "_-.:")
}

/// One mapping as the API takes it.
pub fn parse(text: &str) -> Result<Value, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let bad = || format!("bad format for path: {text}");
    if parts.len() > 3 || parts[0].is_empty() {
        return Err(bad());
    }
    let (host, container, mode) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, mode] if is_mode(mode) => (*host, *host, *mode),
        [host, container] => (*host, *container, "rwm"),
        [_, _, mode] if !is_mode(mode) => return Err(format!("bad mode specified: {mode}")),
        [host, container, mode] => (*host, *container, *mode),
        _ => return Err(bad()),
    };
    if !container.starts_with('/') {
        return Err(format!("{container} is not an absolute path"));
    }
    let container = super::clean_path(container);
    let host = if parts.len() == 1 { container.clone() } else { host.to_owned() };
    Ok(json!({"PathOnHost": host, "PathInContainer": container, "CgroupPermissions": mode}))
}

fn is_mode(text: &str) -> bool {
    let once = |c: char| text.matches(c).count() <= 1;
    !text.is_empty() && text.chars().all(|c| "rwm".contains(c) && once(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read() {
        let check = |text: &str, host: &str, container: &str, mode: &str| {
            let want = json!({"PathOnHost": host, "PathInContainer": container, "CgroupPermissions": mode});
            assert_eq!(parse(text).unwrap(), want, "{text}");
        };
        check("/dev/a", "/dev/a", "/dev/a", "rwm");
        check("/dev/a:r", "/dev/a", "/dev/a", "r");
        check("/dev/a:/dev/b", "/dev/a", "/dev/b", "rwm");
        check("/dev/a:/dev/b:rw", "/dev/a", "/dev/b", "rw");
        assert_eq!(parse("/dev/a:/dev/b:zz").unwrap_err(), "bad mode specified: zz");
        assert_eq!(parse("a").unwrap_err(), "a is not an absolute path");
        assert!(is_cdi("nvidia.com/gpu=0"));
        assert!(!is_cdi("/dev/a=b"));
    }
}
