//! What a build shows: a live tree in a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;
use wharf_base::clock::Clock;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// A tree that is drawn again and again.
    Tree,
    /// Lines, in the order in which things happen.
    Plain,
    /// The engine's own objects.
    Raw,
    /// Nothing.
    Quiet,
}

/// Lines of output shown below a step that runs.
const TAIL: usize = 6;
/// How often the tree is drawn.
const FRAME: Duration = Duration::from_millis(80);

/// The state of one build.
pub(super) struct View {
    style: Style,
    color: bool,
    width: usize,
    /// Whether it is standard output that shows it.
    stdout: bool,
    steps: Vec<Step>,
    index: HashMap<String, usize>,
    pub(super) warnings: Vec<Value>,
    drawn: usize,
    last: Option<Instant>,
    begun: Instant,
    clock: Clock,
}

struct Step {
    name: String,
    files: bool,
    number: usize,
    started: Option<f64>,
    seen: Instant,
    ended: Option<(f64, bool, Option<String>)>,
    tail: Vec<String>,
    partial: String,
    parts: HashMap<String, (String, u64, u64)>,
}

impl View {
    pub(super) fn new(style: Style, color: bool, width: usize) -> View {
        let clock = Clock::system();
        View {
            style,
            color,
            width: width.max(20),
            stdout: false,
            steps: Vec::new(),
            index: HashMap::new(),
            warnings: Vec::new(),
            drawn: 0,
            last: None,
            begun: clock.instant(),
            clock,
        }
    }

    /// The same on standard output.
    pub(super) fn on_stdout(self, stdout: bool) -> View {
        View { stdout, ..self }
    }

    /// Takes one piece of news and shows what follows from it.
    pub(super) fn take(&mut self, news: &Value) {
        if self.style == Style::Raw {
            self.print(&format!("{news}\n"));
        }
        if let Some(id) = news["vertex"].as_str() {
            self.announce(id, news);
        } else if let Some(step) = self.of(&news["started"]) {
            self.start(step, news["at"].as_f64().unwrap_or(0.0));
        } else if let Some(step) = self.of(&news["log"]) {
            self.log(step, news);
        } else if let Some(step) = self.of(&news["status"]) {
            let count = |key: &str| news[key].as_u64().unwrap_or(0);
            let part = (
                news["name"].as_str().unwrap_or_default().to_owned(),
                count("current"),
                count("total"),
            );
            self.steps[step].parts.insert(news["id"].as_str().unwrap_or_default().to_owned(), part);
        } else if let Some(step) = self.of(&news["done"]) {
            self.end(step, news);
        } else if news["warning"].is_string() {
            self.warnings.push(news.clone());
        }
        if self.style == Style::Tree && self.last.is_none_or(|t| self.since(t) >= FRAME) {
            self.draw(false);
        }
    }

    fn of(&self, id: &Value) -> Option<usize> {
        self.index.get(id.as_str()?).copied()
    }

    fn announce(&mut self, id: &str, news: &Value) {
        let number = self.steps.len() + 1;
        self.index.insert(id.to_owned(), self.steps.len());
        self.steps.push(Step {
            name: news["name"].as_str().unwrap_or_default().to_owned(),
            files: news["files"].as_bool().unwrap_or(true),
            number,
            started: None,
            seen: self.clock.instant(),
            ended: None,
            tail: Vec::new(),
            partial: String::new(),
            parts: HashMap::new(),
        });
    }

    fn start(&mut self, n: usize, at: f64) {
        let now = self.clock.instant();
        let step = &mut self.steps[n];
        (step.started, step.seen) = (Some(at), now);
        if self.style == Style::Plain && step.files {
            let text = format!("#{} {}\n", step.number, step.name);
            self.print(&text);
        }
    }

    fn log(&mut self, n: usize, news: &Value) {
        let step = &mut self.steps[n];
        step.partial.push_str(news["data"].as_str().unwrap_or_default());
        let since = news["at"].as_f64().unwrap_or(0.0) - step.started.unwrap_or(0.0);
        let mut plain = String::new();
        while let Some(end) = step.partial.find('\n') {
            let line: String = step.partial.drain(..=end).collect();
            let line = line.trim_end().rsplit('\r').next().unwrap_or_default().to_owned();
            _ = writeln!(plain, "#{} {since:.3} {line}", step.number);
            step.tail.push(line);
        }
        if self.style == Style::Plain {
            self.print(&plain);
        }
    }

    fn end(&mut self, n: usize, news: &Value) {
        let step = &mut self.steps[n];
        let at = news["at"].as_f64().unwrap_or(0.0);
        let cached = news["cached"].as_bool().unwrap_or(false);
        let error = news["error"].as_str().map(str::to_owned);
        let took = at - step.started.unwrap_or(at);
        if !step.partial.is_empty() {
            step.tail.push(std::mem::take(&mut step.partial));
        }
        step.ended = Some((took, cached, error.clone()));
        if self.style != Style::Plain || !step.files {
            return;
        }
        let n = step.number;
        let text = match (cached, error) {
            (_, Some(error)) => format!("#{n} ERROR: {error}\n\n"),
            (true, _) => format!("#{n} CACHED\n\n"),
            _ => format!("#{n} DONE {took:.1}s\n\n"),
        };
        self.print(&text);
    }

    fn since(&self, then: Instant) -> Duration {
        self.clock.instant().duration_since(then)
    }

    /// The last picture, which stays.
    pub(super) fn finish(&mut self) {
        if self.style == Style::Tree {
            self.draw(true);
        }
    }

    /// The output of the step that failed, for the end of the report.
    pub(super) fn failed(&self) -> Option<(String, Vec<String>)> {
        let step = self.steps.iter().find(|s| matches!(s.ended, Some((_, _, Some(_)))))?;
        let from = step.tail.len().saturating_sub(20);
        Some((step.name.clone(), step.tail[from..].to_vec()))
    }

    fn draw(&mut self, last: bool) {
        self.last = Some(self.clock.instant());
        let (shown, lines) = self.picture(last);
        let mut out = String::new();
        if self.drawn > 0 {
            _ = write!(out, "\u{1b}[{}A\u{1b}[J", self.drawn);
        }
        out.push_str(&shown);
        self.drawn = lines;
        self.print(&out);
    }

    /// The tree as text, and its lines.
    fn picture(&self, last: bool) -> (String, usize) {
        let steps: Vec<&Step> =
            self.steps.iter().filter(|s| s.files && s.started.is_some()).collect();
        let total = self.steps.iter().filter(|s| s.files).count();
        let done = steps.iter().filter(|s| s.ended.is_some()).count();
        let mut lines = Vec::new();
        let state = if last && done == total { " FINISHED" } else { "" };
        lines.push(format!(
            "[+] Building {:.1}s ({done}/{total}){state}",
            self.since(self.begun).as_secs_f64()
        ));
        for step in steps {
            let (mark, time, code) = match &step.ended {
                Some((_, _, Some(_))) => ("ERROR ", 0.0, "31"),
                Some((_, true, _)) => ("CACHED ", 0.0, "34"),
                Some((took, ..)) => ("", *took, "34"),
                None => ("", self.since(step.seen).as_secs_f64(), ""),
            };
            let text = format!(" => {mark}{}", step.name);
            lines.push(self.paint(code, &self.line(&text, &format!("{time:.1}s"))));
            if step.ended.is_none() {
                lines.extend(self.below(step));
            }
        }
        let count = lines.len();
        (lines.join("\n") + "\n", count)
    }

    fn below(&self, step: &Step) -> Vec<String> {
        let mut parts: Vec<_> = step.parts.iter().collect();
        parts.sort();
        let part = |(id, (name, current, total)): (&String, &(String, u64, u64))| {
            let (current, total) = (*current as f64, *total as f64);
            let text = format!(
                " => => {name} {id} {} / {}",
                crate::parse::size::human(current),
                crate::parse::size::human(total)
            );
            self.line(&text, "")
        };
        let mut lines: Vec<String> = parts.into_iter().map(part).collect();
        let from = step.tail.len().saturating_sub(TAIL);
        lines.extend(step.tail[from..].iter().map(|l| self.line(&format!(" => => # {l}"), "")));
        lines
    }

    /// Cut to the terminal, with something at its right end.
    fn line(&self, text: &str, right: &str) -> String {
        let room = self.width.saturating_sub(right.chars().count() + 1);
        let clean: String = text.chars().filter(|c| !c.is_control()).take(room).collect();
        let pad = room - clean.chars().count();
        format!("{clean}{} {right}", " ".repeat(pad)).trim_end().to_owned()
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color && !code.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    fn print(&self, text: &str) {
        // Nothing can be done when nobody listens any more.
        match self.stdout {
            true => drop(std::io::stdout().lock().write_all(text.as_bytes())),
            false => drop(std::io::stderr().lock().write_all(text.as_bytes())),
        }
    }
}

/// Lines of a Dockerfile around the place of an error, as docker shows them.
pub(super) fn excerpt(name: &str, text: &str, first: usize, last: usize) -> String {
    let from = first.saturating_sub(2).max(1);
    let mut out = format!("{name}:{first}\n--------------------\n");
    for (n, line) in
        text.lines().enumerate().map(|(n, l)| (n + 1, l)).skip(from - 1).take(last + 2 - from + 1)
    {
        let mark = if (first..=last).contains(&n) { ">>>" } else { "   " };
        _ = writeln!(out, "{n:4} | {mark} {line}");
    }
    out.push_str("--------------------");
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tree_shows_what_runs_and_what_is_done() {
        let mut view = View::new(Style::Quiet, false, 60);
        view.take(&json!({ "vertex": "a", "name": "[1/2] FROM x", "files": true }));
        view.take(&json!({ "vertex": "b", "name": "[2/2] RUN make", "files": true }));
        view.take(&json!({ "started": "a", "at": 1.0 }));
        view.take(&json!({ "done": "a", "at": 1.5, "cached": true, "error": null }));
        view.take(&json!({ "started": "b", "at": 2.0 }));
        view.take(&json!({ "log": "b", "at": 2.1, "data": "one\ntw" }));
        view.take(&json!({ "log": "b", "at": 2.1, "data": "o\n" }));
        let (text, lines) = view.picture(false);
        assert_eq!(lines, 5, "{text}");
        assert!(text.contains("(1/2)") && text.contains(" => CACHED [1/2] FROM x"), "{text}");
        assert!(text.contains(" => => # two\n"), "{text}");
        view.take(&json!({ "done": "b", "at": 3.0, "cached": false, "error": "broke" }));
        assert_eq!(view.failed().unwrap().1, ["one", "two"]);
    }

    #[test]
    fn excerpts_mark_the_lines() {
        let text = excerpt("Dockerfile", "a\nb\nc\nd\ne\nf\n", 3, 3);
        assert!(
            text.contains("   3 | >>> c\n")
                && text.contains("   1 |     a\n")
                && !text.contains("    f\n"),
            "{text}"
        );
    }
}
