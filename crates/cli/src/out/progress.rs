//! The progress of pulls and loads: lines that change in a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};

use serde_json::Value;

use crate::api::JsonStream;
use crate::failure::Failure;

/// Where progress goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Nowhere; errors still count.
    Nowhere,
}

/// Shows a stream of messages to its end. `aux` sees what is meant for programs.
pub async fn show(
    mut stream: JsonStream,
    target: Target,
    mut aux: impl FnMut(&Value),
) -> Result<(), Failure> {
    let terminal = match target {
        Target::Stdout => std::io::stdout().is_terminal(),
        Target::Stderr => std::io::stderr().is_terminal(),
        Target::Nowhere => false,
    };
    let mut screen = Screen { ids: Vec::new(), terminal };
    while let Some(message) = stream.next().await? {
        if message.get("aux").is_some() {
            aux(&message["aux"]);
        }
        if let Some(error) = error_of(&message) {
            return Err(Failure::new(error));
        }
        let text = screen.render(&message);
        match target {
            Target::Stdout => crate::app::say(text)?,
            // Nothing can be done when standard error is gone.
            Target::Stderr => drop(std::io::stderr().lock().write_all(text.as_bytes())),
            Target::Nowhere => (),
        }
    }
    Ok(())
}

/// The error that a message carries.
pub fn error_of(message: &Value) -> Option<String> {
    let detail = message["errorDetail"]["message"].as_str();
    detail.or_else(|| message["error"].as_str()).map(str::to_owned)
}

/// The lines on the screen, by layer.
struct Screen {
    ids: Vec<String>,
    terminal: bool,
}

impl Screen {
    fn render(&mut self, message: &Value) -> String {
        let text = |name: &str| message[name].as_str().unwrap_or_default();
        let bar = bar(message, self.terminal);
        if !self.terminal && !bar.is_empty() {
            // Bars are for people who watch.
            return String::new();
        }
        let id = text("id");
        let stream = text("stream");
        if !stream.is_empty() {
            return stream.to_owned();
        }
        let prefix = if id.is_empty() { String::new() } else { format!("{id}: ") };
        let space = if bar.is_empty() { "" } else { " " };
        let line = format!("{prefix}{}{space}{bar}", text("status"));
        match self.terminal && !id.is_empty() {
            true => self.place(id, &line),
            false if message.get("status").is_none() => String::new(),
            false => {
                self.ids.clear();
                format!("{line}\n")
            }
        }
    }

    /// The line where this id was shown before, or below all others.
    fn place(&mut self, id: &str, line: &str) -> String {
        match self.ids.iter().position(|known| known == id) {
            Some(at) => {
                let up = self.ids.len() - at;
                format!("\x1b[{up}A\x1b[2K\r{line}\r\x1b[{up}B")
            }
            None => {
                self.ids.push(id.to_owned());
                format!("{line}\n")
            }
        }
    }
}

/// `[====>    ]  1MB/2MB`, or empty.
fn bar(message: &Value, terminal: bool) -> String {
    let detail = &message["progressDetail"];
    let number = |name: &str| detail[name].as_f64().unwrap_or(0.0);
    let (current, total) = (number("current"), number("total"));
    if current <= 0.0 && total <= 0.0 {
        return String::new();
    }
    if detail["units"].as_str().is_some_and(|u| !u.is_empty()) {
        return format!("{current}/{total} {}", detail["units"].as_str().unwrap_or_default());
    }
    let shown = crate::parse::size::human(current);
    if total <= 0.0 {
        return format!("{shown:>8}");
    }
    let columns = wharf_sys::terminal::size(std::io::stdout()).map_or(200, |(_, c)| c);
    let drawn = match terminal && columns > 110 {
        true => drawn(current, total),
        false => String::new(),
    };
    format!("{drawn}{shown:>8}/{}", crate::parse::size::human(total))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 50")]
fn drawn(current: f64, total: f64) -> String {
    let done = ((current / total) * 50.0).clamp(0.0, 50.0) as usize;
    let arrow = if done == 50 { "" } else { ">" };
    format!("[{}{arrow}{}]  ", "=".repeat(done), " ".repeat(50 - done - arrow.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_get_plain_lines_without_bars() {
        let mut screen = Screen { ids: Vec::new(), terminal: false };
        let mut line = |m: Value| screen.render(&m);
        assert_eq!(
            line(json!({"status": "Pulling from library/x", "id": "latest"})),
            "latest: Pulling from library/x\n"
        );
        assert_eq!(
            line(
                json!({"status": "Downloading", "id": "a", "progressDetail": {"current": 1, "total": 2}})
            ),
            ""
        );
        assert_eq!(
            line(json!({"status": "Pull complete", "id": "a", "progressDetail": {}})),
            "a: Pull complete\n"
        );
        assert_eq!(line(json!({"stream": "Loaded image: x\n"})), "Loaded image: x\n");
    }

    #[test]
    fn terminals_get_one_line_for_each_layer() {
        let mut screen = Screen { ids: Vec::new(), terminal: true };
        assert_eq!(screen.render(&json!({"status": "Waiting", "id": "a"})), "a: Waiting\n");
        assert_eq!(screen.render(&json!({"status": "Waiting", "id": "b"})), "b: Waiting\n");
        assert_eq!(
            screen.render(&json!({"status": "Done", "id": "a"})),
            "\x1b[2A\x1b[2K\ra: Done\r\x1b[2B"
        );
    }

    #[test]
    fn errors_in_the_stream_are_found() {
        let detail = json!({"errorDetail": {"message": "no"}, "error": "x"});
        assert_eq!(error_of(&detail).as_deref(), Some("no"));
        assert_eq!(error_of(&json!({"status": "ok"})), None);
    }
}
