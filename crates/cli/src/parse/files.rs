//! `--env-file` and `--label-file`: one `key=value` a line.

use std::path::Path;

/// What a name without a value stands for: the environment for variables, nothing for labels.
pub type Lookup = fn(&str) -> Option<String>;

/// Reads the files in order, then appends what was given on the command line.
pub fn read(files: &[String], given: &[String], lookup: Lookup) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for file in files {
        let bytes = std::fs::read(Path::new(file))
            .map_err(|e| format!("open {file}: {}", crate::failure::os_text(&e)))?;
        let lines = lines(&bytes, lookup).map_err(|e| format!("invalid env file ({file}): {e}"))?;
        all.extend(lines);
    }
    all.extend_from_slice(given);
    Ok(all)
}

fn lines(bytes: &[u8], lookup: Lookup) -> Result<Vec<String>, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut out = Vec::new();
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line)
            .map_err(|_| format!("invalid utf8 bytes at line {}: {line:?}", number + 1))?
            .trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once('=').map_or((line, None), |(k, v)| (k, Some(v)));
        if key.is_empty() {
            return Err(format!("no variable name on line '{line}'"));
        }
        if key.contains([' ', '\t']) {
            return Err(format!("variable '{key}' contains whitespaces"));
        }
        match value {
            Some(_) => out.push(line.to_owned()),
            None => out.extend(lookup(key).map(|value| format!("{key}={value}"))),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_docker_reads_them() {
        let lookup: Lookup = |k| (k == "SET").then(|| "here".to_owned());
        let text = "\u{feff}A=1\r\n  # no\n\n B= two \nSET\nUNSET\n";
        assert_eq!(lines(text.as_bytes(), lookup).unwrap(), ["A=1", "B= two ", "SET=here"]);
        assert_eq!(lines(b"=x", lookup).unwrap_err(), "no variable name on line '=x'");
        assert_eq!(lines(b"a b=x", lookup).unwrap_err(), "variable 'a b' contains whitespaces");
        assert!(lines(b"\xff=x", lookup).is_err());
    }
}
