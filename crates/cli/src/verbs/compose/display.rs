//! The progress of a project: lines that change in a terminal, plain lines elsewhere.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};

use wharf_compose::apply::{Event, Progress, Status};

use crate::app::Call;
use crate::failure::Failure;

enum Mode {
    Terminal,
    Plain,
    Json,
    Quiet,
}

/// Where progress goes: standard error, as stock Compose has it.
pub(crate) struct Screen {
    mode: Mode,
    colors: bool,
    lines: RefCell<Vec<Event>>,
}

impl Screen {
    /// What `--progress`, `--ansi` and the terminal ask for.
    pub(crate) fn new(call: &Call) -> Result<Self, Failure> {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let or = |flag: &str, name: &str| match (call.group.text(flag), call.given.text(flag)) {
            ("", "") => variable(name),
            ("", value) | (value, _) => value.to_owned(),
        };
        let terminal = std::io::stderr().is_terminal();
        let ansi = match or("ansi", "COMPOSE_ANSI").as_str() {
            "never" => false,
            "always" => true,
            "" | "auto" => terminal && variable("NO_COLOR").is_empty(),
            other => {
                return Err(Failure::new(format!("invalid value for --ansi: {other:?}")));
            }
        };
        let mode = match or("progress", "COMPOSE_PROGRESS").as_str() {
            _ if call.given.on("quiet") => Mode::Quiet,
            "" | "auto" if ansi && terminal => Mode::Terminal,
            "" | "auto" | "plain" => Mode::Plain,
            "tty" => Mode::Terminal,
            "json" => Mode::Json,
            "quiet" | "none" => Mode::Quiet,
            other => return Err(Failure::new(format!("unsupported --progress value {other:?}"))),
        };
        Ok(Self { mode, colors: ansi, lines: RefCell::new(Vec::new()) })
    }

    /// Whether lines change in place, so that steps of progress do not fill the log.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.mode, Mode::Terminal)
    }

    /// Tells of the image of a service, in stock Compose's form.
    pub(crate) fn image(&self, service: &str, status: Status, text: &str) {
        let (subject, text) = match self.mode {
            Mode::Plain => (format!("{service} {text}"), String::new()),
            _ => (service.to_owned(), text.to_owned()),
        };
        self.event(Event { subject, status, text });
    }

    fn place(&self, event: Event) -> String {
        let mut lines = self.lines.borrow_mut();
        let line = self.line(&event);
        match lines.iter().position(|known| known.subject == event.subject) {
            Some(at) => {
                let up = lines.len() - at;
                lines[at] = event;
                format!("\x1b[{up}A\x1b[2K\r{line}\r\x1b[{up}B")
            }
            None => {
                lines.push(event);
                format!("{line}\n")
            }
        }
    }

    fn line(&self, event: &Event) -> String {
        let (mark, color) = match event.status {
            Status::Working => ("⠿", "36"),
            Status::Done => ("✔", "32"),
            Status::Warning => ("!", "33"),
            Status::Failed => ("✘", "31"),
        };
        match self.colors {
            true => format!(
                " \x1b[{color}m{mark}\x1b[0m {:<40}  \x1b[{color}m{}\x1b[0m",
                event.subject, event.text
            ),
            false => format!(" {mark} {:<40}  {}", event.subject, event.text),
        }
    }
}

impl Progress for Screen {
    fn event(&self, event: Event) {
        let text = match self.mode {
            Mode::Quiet => return,
            Mode::Terminal => self.place(event),
            Mode::Plain => format!(" {}  {}\n", event.subject, event.text),
            Mode::Json => {
                let line = serde_json::json!({"id": event.subject, "text": event.text});
                format!("{line}\n")
            }
        };
        // Nothing can be done when standard error is gone.
        drop(std::io::stderr().lock().write_all(text.as_bytes()));
    }
}
