//! `-v` in all its forms: which of them are binds and which are anonymous volumes.

/// What one `-v` means for the API.
#[derive(Debug, PartialEq, Eq)]
pub enum Volume {
    /// Goes to `HostConfig.Binds` as is.
    Bind(String),
    /// Goes to `Config.Volumes`.
    Anonymous(String),
}

/// Reads `[source:]target[:options]`; a source that starts with a dot is made absolute.
pub fn parse(text: &str) -> Result<Volume, String> {
    if text.is_empty() {
        return Err("invalid empty volume spec".to_owned());
    }
    let parts: Vec<&str> = text.split(':').collect();
    if text.len() > 2 && parts.iter().any(|p| p.is_empty()) {
        return Err(format!("invalid spec: {text}: empty section between colons"));
    }
    if parts.len() > 3 {
        return Err(format!("invalid spec: {text}: too many colons"));
    }
    match parts.as_slice() {
        [source, rest @ ..] if !rest.is_empty() && text.len() > 2 => {
            let source = if source.starts_with('.') {
                super::absolute(source)
            } else {
                (*source).to_owned()
            };
            Ok(Volume::Bind(format!("{source}:{}", rest.join(":"))))
        }
        _ => Ok(Volume::Anonymous(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_apart() {
        let bind = |text: &str| assert_eq!(parse(text).unwrap(), Volume::Bind(text.into()));
        bind("/a:/b");
        bind("/a:/b:ro,z");
        bind("name:/b");
        assert_eq!(parse("/data").unwrap(), Volume::Anonymous("/data".into()));
        assert!(matches!(parse("./x:/y").unwrap(), Volume::Bind(b) if b.starts_with('/')));
        assert_eq!(parse("").unwrap_err(), "invalid empty volume spec");
        assert_eq!(parse("a::b").unwrap_err(), "invalid spec: a::b: empty section between colons");
        assert_eq!(parse("a:b:c:d").unwrap_err(), "invalid spec: a:b:c:d: too many colons");
    }
}
