//! How a verb fails: what is printed and with which status wharf exits.

use std::fmt;

use crate::api::ApiError;

/// What to print on standard error, and the exit status.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub status: u8,
    /// What to print; nothing when empty.
    pub text: String,
}

impl Failure {
    /// Status 1, the ordinary failure.
    pub fn new(text: impl Into<String>) -> Self {
        Self { status: 1, text: text.into() }
    }

    /// A status and nothing to say, such as that of a container.
    pub fn silent(status: u8) -> Self {
        Self { status, text: String::new() }
    }

    /// A status of one's own.
    pub fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// All failures of a verb with several arguments, one a line.
    pub fn join(failures: Vec<Self>) -> Result<(), Self> {
        let text: Vec<String> = failures.into_iter().map(|f| f.text).collect();
        if text.is_empty() { Ok(()) } else { Err(Self::new(text.join("\n"))) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(os_text(&error))
    }
}

/// An operating system error as Go prints it: `no such file or directory`.
pub fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}
