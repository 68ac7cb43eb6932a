//! The line on a terminal that counts what `cp` has copied.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::parse::size;

/// How often the line changes, as docker's does.
const EVERY: Duration = Duration::from_millis(75);
const SAVE: &str = "\x1b[s";
const RESTORE_AND_ERASE: &str = "\x1b[u\x1b[2K";
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";

/// A copy under way. Dropping it takes the line off the screen.
pub struct Copying {
    count: Arc<AtomicU64>,
    line: Option<JoinHandle<()>>,
}

impl Copying {
    /// Shows `header` and a count, unless told to be `quiet` or standard error is no terminal.
    pub fn start(header: &'static str, quiet: bool) -> Copying {
        let count = Arc::new(AtomicU64::new(0));
        if quiet || !std::io::stderr().is_terminal() {
            return Copying { count, line: None };
        }
        put(&format!("{SAVE}{HIDE_CURSOR}{}", text(header, 0)));
        let line = tokio::spawn(show(header, count.clone()));
        Copying { count, line: Some(line) }
    }

    /// Where to add the bytes that went by.
    pub fn count(&self) -> Arc<AtomicU64> {
        self.count.clone()
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        if let Some(line) = self.line.take() {
            line.abort();
            put(&format!("{RESTORE_AND_ERASE}{SHOW_CURSOR}"));
        }
    }
}

async fn show(header: &'static str, count: Arc<AtomicU64>) {
    let mut last = 0;
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        let now = count.load(Ordering::Relaxed);
        if now != last {
            put(&text(header, now));
            last = now;
        }
    }
}

/// The whole line, in one piece so that it does not flicker.
fn text(header: &str, bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
    let size = size::human(bytes as f64);
    format!("{RESTORE_AND_ERASE}{header}{size}")
}

/// Nothing can be done when standard error does not take it.
fn put(text: &str) {
    let mut to = std::io::stderr().lock();
    drop(to.write_all(text.as_bytes()).and_then(|()| to.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_replaced_whole() {
        assert_eq!(text("Copying - ", 1_234_567), "\x1b[u\x1b[2KCopying - 1.235MB");
    }
}
