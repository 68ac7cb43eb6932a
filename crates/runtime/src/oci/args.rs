//! Arguments in the manner of runc: flags before words, one or two dashes, `=` or a space.

use std::collections::VecDeque;
use std::ffi::OsString;

use super::OciError;

/// What is left of the command line.
#[derive(Debug, Default)]
pub(crate) struct Args {
    left: VecDeque<String>,
    /// The value after `=` of the flag just taken.
    attached: Option<String>,
    /// Whether flags may stand behind words, for commands that pass no words on.
    pub(crate) mixed: bool,
    /// Where the flag just taken stood.
    at: usize,
    pub(crate) version: bool,
    pub(crate) help: bool,
}

impl Args {
    pub(crate) fn new(args: Vec<OsString>) -> Self {
        let left = args.into_iter().map(|a| a.to_string_lossy().into_owned()).collect();
        Self { left, ..Self::default() }
    }

    /// The next flag's name, while flags come.
    pub(crate) fn flag(&mut self) -> Option<String> {
        let is_flag = |word: &String| word.len() > 1 && word.starts_with('-');
        self.at = if self.mixed { self.left.iter().position(is_flag)? } else { 0 };
        let next = self.left.get(self.at).filter(|word| is_flag(word))?;
        if next == "--" {
            self.left.remove(self.at);
            self.mixed = false;
            return None;
        }
        let name = next.strip_prefix("--").or_else(|| next.strip_prefix('-'))?;
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (name.to_owned(), None),
        };
        self.left.remove(self.at);
        self.attached = value;
        Some(name)
    }

    /// The flag's value.
    pub(crate) fn value(&mut self, flag: &str) -> Result<String, OciError> {
        self.attached
            .take()
            .or_else(|| self.left.remove(self.at))
            .ok_or_else(|| OciError::Usage(format!("flag needs an argument: -{flag}")))
    }

    /// The flag's value as a number.
    pub(crate) fn number<T: std::str::FromStr>(&mut self, flag: &str) -> Result<T, OciError> {
        let value = self.value(flag)?;
        let bad =
            || OciError::Usage(format!("invalid value {value:?} for flag -{flag}: parse error"));
        value.parse().map_err(|_| bad())
    }

    /// A flag that is there or not, or says so itself.
    pub(crate) fn switch(&mut self, flag: &str) -> Result<bool, OciError> {
        match self.attached.take().as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => {
                Err(OciError::Usage(format!("invalid boolean value {other:?} for -{flag}")))
            }
        }
    }

    /// A flag without a value.
    pub(crate) fn no_value(&mut self, flag: &str) -> Result<(), OciError> {
        self.switch(flag).map(drop)
    }

    /// Whether `--help` is what comes next.
    pub(crate) fn asks_for_help(&self) -> bool {
        self.left.front().is_some_and(|next| matches!(next.as_str(), "--help" | "-h"))
    }

    /// The next word.
    pub(crate) fn word(&mut self) -> Option<String> {
        self.left.pop_front()
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        self.left.drain(..).collect()
    }

    /// The only word: a container id.
    pub(crate) fn id(&mut self, command: &str) -> Result<String, OciError> {
        let id = self
            .word()
            .ok_or_else(|| OciError::Usage(format!("{command}: container id cannot be empty")))?;
        check_id(&id)?;
        Ok(id)
    }

    /// Refuses words that the command does not take.
    pub(crate) fn done(&mut self, command: &str) -> Result<(), OciError> {
        match self.left.front() {
            None => Ok(()),
            Some(extra) => {
                Err(OciError::Usage(format!("{command}: unexpected argument {extra:?}")))
            }
        }
    }

    /// Only an id and no flag.
    pub(crate) fn only_id(&mut self, command: &str) -> Result<String, OciError> {
        if let Some(flag) = self.flag() {
            return Err(unknown(command, &flag));
        }
        let id = self.id(command)?;
        self.done(command)?;
        Ok(id)
    }
}

pub(crate) fn unknown(command: &str, flag: &str) -> OciError {
    OciError::Usage(format!("{command}: flag provided but not defined: -{flag}"))
}

/// Ids are directory names.
pub(crate) fn check_id(id: &str) -> Result<(), OciError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id == "." || id == ".." || id.len() > 1024 || !id.chars().all(good) {
        return Err(OciError::Usage(format!("invalid container ID format: {id:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::new(line.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn flags_in_every_form() {
        let mut a = args("--root=/a -b x --all -- -c id");
        assert_eq!(a.flag().as_deref(), Some("root"));
        assert_eq!(a.value("root").unwrap(), "/a");
        assert_eq!(a.flag().as_deref(), Some("b"));
        assert_eq!(a.value("b").unwrap(), "x");
        assert_eq!(a.flag().as_deref(), Some("all"));
        assert!(a.switch("all").unwrap());
        assert_eq!(a.flag(), None);
        assert_eq!(a.rest(), ["-c", "id"]);
    }

    #[test]
    fn flags_may_stand_behind_words_where_none_are_passed_on() {
        let mut a = args("id --cpus 1 -f x");
        a.mixed = true;
        assert_eq!(a.flag().as_deref(), Some("cpus"));
        assert_eq!(a.value("cpus").unwrap(), "1");
        assert_eq!(a.flag().as_deref(), Some("f"));
        assert_eq!(a.flag(), None);
        assert_eq!(a.rest(), ["id", "x"]);
        assert_eq!(args("id --cpus 1").flag(), None);
    }

    #[test]
    fn ids_are_names() {
        for bad in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
        assert!(check_id("a_b-c.d+1").is_ok());
    }
}
