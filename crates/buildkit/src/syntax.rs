//! Which frontends a Dockerfile may name: docker's own are built in, others would be programs to run.

use tonic::Status;

/// Repositories whose images are the Dockerfile frontend that wharf has built in.
const BUILT_IN: &[&str] = &["docker/dockerfile", "docker/dockerfile-upstream"];

/// Refuses a frontend that is not built in.
pub(crate) fn check(wanted: &str) -> Result<(), Status> {
    // A command line may follow the image's name.
    let image = wanted.split_whitespace().next().unwrap_or_default();
    let name = image.split('@').next().unwrap_or_default();
    let slash = name.rfind('/').unwrap_or(0);
    let name = name[slash..].find(':').map_or(name, |colon| &name[..slash + colon]);
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    if BUILT_IN.contains(&name) {
        return Ok(());
    }
    Err(Status::unimplemented(format!(
        "the frontend {image} is not docker/dockerfile: wharf has the Dockerfile language built in and does not run \
         frontends from images: take it out, or build what it makes with docker/dockerfile"
    )))
}

/// The `# syntax=` of a file and its line, counted from 1. Found without reading the rest, which another
/// frontend may write as it likes.
pub(crate) fn directive(file: &[u8]) -> Option<(String, usize)> {
    let text = String::from_utf8_lossy(file);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if n == 0 && line.starts_with("#!") {
            continue;
        }
        let comment = line.strip_prefix('#').or_else(|| line.strip_prefix("//"))?;
        let (key, value) = comment.split_once('=')?;
        let key = key.trim();
        if !key.chars().all(|c| c.is_ascii_alphanumeric()) {
            return None;
        }
        if key.eq_ignore_ascii_case("syntax") {
            return Some((value.trim().to_owned(), n + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_s_own_frontends_are_built_in() {
        for name in [
            "docker/dockerfile:1",
            "docker/dockerfile",
            "docker.io/docker/dockerfile:1.7-labs",
            "docker/dockerfile-upstream:master@sha256:00",
            "docker/dockerfile:1 --flag",
        ] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in ["earthly/dockerfile:1", "localhost:5000/docker/dockerfile", "dockerfile", ""] {
            assert!(check(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_directive_is_found_where_directives_may_be() {
        let found = |text: &str| directive(text.as_bytes()).map(|(v, n)| format!("{v} {n}"));
        assert_eq!(found("# syntax=a/b:1\nFROM x").as_deref(), Some("a/b:1 1"));
        assert_eq!(found("#escape=`\n#SYNTAX = a\n").as_deref(), Some("a 2"));
        assert_eq!(found("\u{feff}# syntax=a").as_deref(), Some("a 1"));
        assert_eq!(found("#!/x\n//syntax=a").as_deref(), Some("a 2"));
        assert_eq!(found("# a comment\n# syntax=a"), None);
        assert_eq!(found("FROM x\n# syntax=a"), None);
        assert_eq!(found("\n# syntax=a"), None);
    }
}
