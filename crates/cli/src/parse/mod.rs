//! What docker's command line parses itself: sizes, ports, mounts, networks, variables.

pub mod capabilities;
pub mod device;
pub mod duration;
pub mod files;
pub mod gpus;
pub mod item;
pub mod mount;
pub mod network;
pub mod ports;
pub mod reference;
pub mod size;
pub mod time;
pub mod ulimit;
pub mod volume;

/// A string as Go's `%q` prints it.
pub fn quote(text: &str) -> String {
    wharf_template::quote(text)
}

/// The fields of one line of comma-separated values, with Go's quoting rules.
pub fn csv(line: &str) -> Result<Vec<String>, String> {
    if line.is_empty() {
        return Err("EOF".to_owned());
    }
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => match rest.split_once(',') {
                Some((field, after)) => (field.to_owned(), Some(after)),
                None => (rest.to_owned(), None),
            },
        };
        if !rest.starts_with('"') && field.contains('"') {
            let at = line.find('"').unwrap_or(0) + 1;
            return Err(format!("parse error on line 1, column {at}: bare \" in non-quoted-field"));
        }
        fields.push(field);
        match after {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

fn quoted_field(text: &str) -> Result<(String, Option<&str>), String> {
    let mut field = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('"') {
        field.push_str(before);
        if let Some(after) = after.strip_prefix('"') {
            field.push('"');
            rest = after;
        } else if after.is_empty() {
            return Ok((field, None));
        } else if let Some(after) = after.strip_prefix(',') {
            return Ok((field, Some(after)));
        } else {
            break;
        }
    }
    Err("parse error on line 1: extraneous or missing \" in quoted-field".to_owned())
}

/// `key=value` pairs as an object; a missing value is empty.
pub fn pairs<S: AsRef<str>>(list: &[S]) -> serde_json::Map<String, serde_json::Value> {
    list.iter()
        .map(|pair| pair.as_ref().split_once('=').unwrap_or((pair.as_ref(), "")))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect()
}

/// Go's `strconv.ParseBool`.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A path without `.`, `..` and doubled slashes, by text alone.
pub fn clean_path(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => (),
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if rooted => (),
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// A path made absolute against the working directory.
pub fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        return clean_path(path);
    }
    match std::env::current_dir() {
        Ok(dir) => clean_path(&format!("{}/{path}", dir.display())),
        Err(_) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_reads_quotes_as_go_does() {
        let check = |line: &str, want: &[&str]| assert_eq!(csv(line).unwrap(), want, "{line}");
        check("a,b=c", &["a", "b=c"]);
        check("\"device=1,2\",x", &["device=1,2", "x"]);
        check("\"a\"\"b\"", &["a\"b"]);
        assert!(csv("").is_err());
        assert!(csv("a\"b").is_err());
        assert!(csv("\"a").is_err());
    }

    #[test]
    fn paths_are_cleaned_by_text() {
        let check = |path: &str, want: &str| assert_eq!(clean_path(path), want, "{path}");
        check("/a/../b//c/.", "/b/c");
        check("../a/..", "..");
        check("", ".");
        check("/..", "/");
    }
}
