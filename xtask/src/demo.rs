//! `cargo xtask demo`: the main job, end to end, on a host that exists only for its duration.

use crate::sh::seconds;
use crate::{machine, suites, tools};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wharf_test::host::Engine;
use wharf_test::{Host, Output};

/// A host, the command line pointed at it, and the clock.
struct Demo {
    host: Host,
    wharf: PathBuf,
}

/// Shows every command before its output; fails with the first step that does.
pub(crate) fn run() -> Result<bool> {
    machine::check()?;
    tools::busybox()?;
    say("Building wharf: one static binary.");
    let wharf = suites::build()?;
    show(&wharf)
}

/// The part that follows the build.
pub(crate) fn show(wharf: &Path) -> Result<bool> {
    let size = std::fs::metadata(wharf).context("look at the binary")?.len();
    println!("{} ({:.1} MB)", wharf.display(), size as f64 / 1e6);
    say("Starting an engine in a network, mount and process namespace of its own.");
    let begin = Instant::now();
    let mut host = Host::bare(Engine::Wharf);
    host.start_daemon();
    println!("answers after {}", seconds(begin.elapsed()));
    Demo { host, wharf: wharf.to_owned() }.show()?;
    say("Done: the engine, its network and its files are gone.");
    Ok(true)
}

impl Demo {
    fn show(&self) -> Result<()> {
        say("A web server. Its image is made from wharf's own binary when first asked for.");
        let (id, took) =
            self.step(&["run", "-d", "--name", "web", "-p", "8080:80", "wharf/welcome"])?;
        self.page(&id)?;
        say("What it is doing.");
        self.step(&["ps"])?;
        self.step(&["logs", "web"])?;
        self.step(&["top", "web"])?;
        self.step(&["stats", "--no-stream", "web"])?;
        say("One container after another.");
        let (_, again) = self.step(&["run", "--rm", "hello-world"])?;
        self.step(&["images"])?;
        say("And away.");
        self.step(&["stop", "web"])?;
        self.step(&["rm", "web"])?;
        let (left, _) = self.step(&["ps", "-aq"])?;
        ensure!(left.is_empty(), "a container is left: {left}");
        say(&format!(
            "`run -d` took {}, `run --rm` {}, from the command's start to its end.",
            milliseconds(took),
            milliseconds(again)
        ));
        Ok(())
    }

    /// Runs one command of wharf and shows it.
    fn step(&self, args: &[&str]) -> Result<(String, Duration)> {
        println!("\n$ wharf {}", args.join(" "));
        let begin = Instant::now();
        let output = Output::of(self.host.client(&self.wharf).args(args), b"");
        let took = begin.elapsed();
        print!("{}", output.stdout);
        eprint!("{}", output.stderr);
        if output.code != 0 {
            bail!("`wharf {}` ended with {}", args.join(" "), output.code);
        }
        Ok((output.stdout.trim().to_owned(), took))
    }

    /// Fetches the page as a browser on this host would.
    fn page(&self, id: &str) -> Result<()> {
        println!("\n$ curl http://127.0.0.1:8080/");
        let page = wharf_test::eventually("the page is served", || {
            self.host.get("127.0.0.1:8080", "/").ok()
        });
        ensure!(page.status == 200, "the page came with status {}", page.status);
        let text = page.text();
        println!("{}", plain(&text));
        let short = id.get(..12).unwrap_or(id);
        ensure!(text.contains(short), "the page does not name the container {short}");
        Ok(())
    }
}

/// The words of a page, a line each.
fn plain(html: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut style = false;
    for part in html.split('<') {
        let (tag, text) = part.split_once('>').unwrap_or(("", part));
        style = (style || tag.starts_with("style")) && !tag.starts_with("/style");
        let text = text.trim();
        if text.is_empty() || style {
            continue;
        }
        let inline = ["code", "/code", "b", "/b", "a", "/a", "em", "/em", "strong", "/strong"];
        let name = tag.split(' ').next().unwrap_or_default();
        match lines.last_mut() {
            Some(last) if inline.contains(&name) => *last = format!("{last} {text}"),
            _ => lines.push(text.to_owned()),
        }
    }
    lines.iter().map(|l| format!("  | {l}")).collect::<Vec<_>>().join("\n")
}

fn say(text: &str) {
    println!("\n# {text}");
}

fn milliseconds(d: Duration) -> String {
    format!("{:.0} ms", d.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn a_page_becomes_lines() {
        let html =
            "<html><style>p { x }</style><h1>Hi</h1><p>from <code>abc</code>, yes</p></html>";
        assert_eq!(plain(html), "  | Hi\n  | from abc , yes");
    }
}
