//! Addresses of repositories: `https://host/path.git#ref:directory`, as `ADD` and `build` take them.

use wharf_image::without_password;

use crate::error::BuildError;

/// A repository, what of it, and which directory of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitAddress {
    /// Without the part behind `#`. May hold a name and a password.
    pub(super) url: String,
    /// A branch, a tag, a whole reference or a commit; `None` is the server's `HEAD`.
    pub(super) reference: Option<String>,
    /// Relative and clean; empty is everything.
    pub(super) directory: String,
}

/// How a repository is named.
enum Form {
    Web,
    Daemon,
    Ssh,
    None,
}

impl GitAddress {
    /// Whether `text` names a repository rather than a file: by its scheme, or a web address whose path ends in `.git`.
    pub fn is_one(text: &str) -> bool {
        !matches!(form(text), Form::None)
    }

    /// Reads an address. Of git's ways `http`, `https` and `git` are spoken; ssh is refused by name.
    pub fn parse(text: &str) -> Result<GitAddress, BuildError> {
        let (url, fragment) = text.split_once('#').unwrap_or((text, ""));
        let shown = without_password(url);
        match form(text) {
            Form::Web | Form::Daemon => {}
            Form::Ssh => {
                return Err(BuildError::Unsupported(format!(
                    "git repository {shown}: fetching over ssh is not supported by wharf: use its https address with the secret \
                     GIT_AUTH_TOKEN, clone it in a RUN --mount=type=ssh, or clone it yourself and build the directory"
                )));
            }
            Form::None => {
                return Err(BuildError::Invalid(format!(
                    "{shown} is no address of a git repository"
                )));
            }
        }
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        if !reference.is_empty() && !is_reference(reference) {
            return Err(BuildError::Invalid(format!(
                "git repository {shown}: {reference:?} cannot be the name of a branch, tag or commit"
            )));
        }
        let url = match url.strip_prefix("github.com/") {
            Some(rest) => format!("https://github.com/{rest}"),
            None => url.to_owned(),
        };
        Ok(GitAddress {
            url,
            reference: Some(reference.to_owned()).filter(|r| !r.is_empty()),
            directory: wharf_spec::dockerfile::ignore::clean(directory),
        })
    }

    /// As it may be shown: without a password.
    pub fn shown(&self) -> String {
        without_password(&self.url)
    }

    /// As it may be shown, with the reference behind it.
    pub(crate) fn whole(&self) -> String {
        let shown = self.shown();
        self.reference.as_ref().map_or(shown.clone(), |r| format!("{shown}#{r}"))
    }

    /// The directory in it, relative and clean; empty is everything.
    pub(crate) fn directory(&self) -> &str {
        &self.directory
    }

    /// The server, with its port.
    pub(crate) fn host(&self) -> String {
        let shown = self.shown();
        let rest = shown.split_once("://").map_or(shown.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default().to_owned()
    }
}

fn form(text: &str) -> Form {
    let plain = text.split('#').next().unwrap_or(text);
    let web = plain.starts_with("http://") || plain.starts_with("https://");
    let path = plain.split('?').next().unwrap_or(plain);
    match plain {
        _ if web && path.ends_with(".git") => Form::Web,
        p if p.starts_with("github.com/") => Form::Web,
        p if p.starts_with("git://") => Form::Daemon,
        p if p.starts_with("ssh://") || p.starts_with("git@") => Form::Ssh,
        _ => Form::None,
    }
}

/// The rules of git-check-ref-format(1), so that a name can be nothing but a name: no option, no pattern, no path upwards.
fn is_reference(name: &str) -> bool {
    let bad = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    !(name.starts_with(['-', '/', '.'])
        || name.ends_with(['/', '.'])
        || name.ends_with(".lock")
        || name.contains("..")
        || name.contains("//")
        || name.contains("/.")
        || name.contains("@{")
        || name == "@"
        || name.chars().any(bad))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, Option<String>, String) {
        let a = GitAddress::parse(text).unwrap();
        (a.url, a.reference, a.directory)
    }

    #[test]
    fn addresses_have_a_reference_and_a_directory() {
        let all = ("https://h/x.git".to_owned(), None, String::new());
        assert_eq!(parsed("https://h/x.git"), all);
        assert_eq!(parsed("https://h/x.git#"), all);
        let (_, reference, directory) = parsed("https://h/x.git#v1/rc:a/../../b/");
        assert_eq!((reference.as_deref(), directory.as_str()), (Some("v1/rc"), "b"));
        assert_eq!(parsed("https://h/x.git#:sub").2, "sub");
        assert_eq!(parsed("github.com/a/b").0, "https://github.com/a/b");
        assert!(!GitAddress::is_one("https://h/x.tar") && !GitAddress::is_one("x.git"));
        assert!(GitAddress::is_one("git@h:x") && GitAddress::is_one("ssh://h/x"));
    }

    #[test]
    fn what_could_be_an_option_is_no_reference() {
        for bad in
            ["--upload-pack=touch x", "-x", "a b", "a..b", "x@{1}", "a.lock", "/a", "a\nb", "*"]
        {
            let text = format!("https://u:secret@h/x.git#{bad}");
            let error = GitAddress::parse(&text).unwrap_err().to_string();
            assert!(error.contains("cannot be the name") && !error.contains("secret"), "{error}");
        }
        assert!(GitAddress::parse("git@h:x").unwrap_err().to_string().contains("ssh"));
        assert_eq!(parsed("git://h/x#v1").0, "git://h/x");
    }
}
