//! The stock docker command line as tests call it.

use crate::program::{self, Finished};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// What a docker command answered.
#[derive(Debug)]
pub struct Output {
    /// The command, for messages.
    pub line: String,
    /// The exit code; 128 + n after signal n.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Runs any program to its end, with `stdin`.
    #[track_caller]
    pub fn of(c: &mut Command, stdin: &[u8]) -> Output {
        let words = std::iter::once(c.get_program()).chain(c.get_args());
        let words: Vec<_> = words.map(|w| w.to_string_lossy().into_owned()).collect();
        Output::new(words.join(" "), &program::run(c, stdin))
    }

    /// Runs a command line to its end.
    #[track_caller]
    pub fn run(c: &mut Command, stdin: &[u8]) -> Output {
        let words = std::iter::once(c.get_program()).chain(c.get_args());
        let words: Vec<_> = words.map(|w| w.to_string_lossy().into_owned()).collect();
        Output::new(words.join(" "), &program::run(c, stdin))
    }

    pub(crate) fn new(line: String, done: &Finished) -> Output {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let code = done.status.code().unwrap_or_else(|| 128 + done.status.signal().unwrap_or(0));
        Output { line, code, stdout: text(&done.stdout), stderr: text(&done.stderr) }
    }

    /// Insists on exit code 0; gives the output without its last newline.
    #[track_caller]
    pub fn ok(&self) -> String {
        self.exits(0);
        self.stdout.trim_end().to_owned()
    }

    /// Insists on this exit code.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Output {
        assert_eq!(self.code, code, "exit code of {self}");
        self
    }

    /// Insists on failure with `text` in the error.
    #[track_caller]
    pub fn fails(&self, text: &str) -> &Output {
        assert_ne!(self.code, 0, "should fail: {self}");
        assert!(self.stderr.contains(text), "no {text:?} in the error of {self}");
        self
    }

    /// Insists on success and `text` in the output.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Output {
        self.exits(0);
        assert!(self.stdout.contains(text), "no {text:?} in the output of {self}");
        self
    }

    /// The output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON ({e}): {self}"))
    }

    /// The output's lines.
    #[track_caller]
    pub fn lines(&self) -> Vec<String> {
        self.ok().lines().map(str::to_owned).collect()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Output { line, code, stdout, stderr } = self;
        write!(f, "`{line}`\n--- code {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}
