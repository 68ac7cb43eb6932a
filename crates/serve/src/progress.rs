//! Progress streams: what a pull or load tells, as docker's JSON lines.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use wharf_image::{LayerStep, Progress, ProgressSink};
use wharf_spec::docker::{ErrorDetail, ProgressDetail, ProgressLine};

use crate::fault::Fault;

/// How often the byte count of one layer is told.
const INTERVAL: Duration = Duration::from_millis(100);
/// Cells between the brackets of a rendered bar, as dockerd renders for clients that cannot.
const CELLS: u64 = 50;

/// Where the lines of an operation come from while it runs.
pub(crate) type Lines = mpsc::UnboundedReceiver<Bytes>;

/// A sink for an image operation, and the lines that come of it.
pub(crate) fn channel() -> (ProgressSink, mpsc::UnboundedSender<Bytes>, Lines) {
    let (lines, receiver) = mpsc::unbounded_channel();
    let told = wharf_base::sync::Mutex::new(HashMap::new());
    let sender = lines.clone();
    let sink: ProgressSink = std::sync::Arc::new(move |step: Progress| {
        if is_due(&step, &mut told.lock()) {
            // A client that left takes no more lines; the operation is dropped with it.
            let _gone = sender.send(encode(&line(&step)));
            if let Progress::Pushed { tag, digest, size } = &step {
                let aux = serde_json::json!({ "Tag": tag, "Digest": digest, "Size": size });
                let _gone = sender.send(encode(&ProgressLine {
                    progress_detail: Some(ProgressDetail::default()),
                    aux: Some(aux),
                    ..ProgressLine::default()
                }));
            }
        }
    });
    (sink, lines, receiver)
}

/// Runs `work` while the lines of its progress are streamed; dropped together with the stream.
///
/// If it fails before it said anything, that is a fault of the request; later it is a line.
pub(crate) async fn run<F>(
    work: F,
    lines: Lines,
) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + 'static, Fault>
where
    F: Future<Output = Result<(), Fault>> + Send + 'static,
{
    let mut state =
        Running { work: Box::pin(work), lines, running: true, next: None, failure: None };
    state.next = state.step().await;
    match (&state.next, state.failure.take()) {
        (None, Some(fault)) => return Err(fault),
        (_, failure) => state.failure = failure,
    }
    Ok(futures_util::stream::unfold(state, |mut state| async move {
        let line = match state.next.take() {
            Some(line) => line,
            None => match state.step().await {
                Some(line) => line,
                None => encode(&error(&state.failure.take()?)),
            },
        };
        Some((Ok(line), state))
    }))
}

struct Running<F> {
    work: Pin<Box<F>>,
    lines: Lines,
    running: bool,
    next: Option<Bytes>,
    /// How the work ended, if it failed; told after the last line.
    failure: Option<Fault>,
}

impl<F: Future<Output = Result<(), Fault>>> Running<F> {
    /// The next line; `None` after the work has ended and all its lines are told.
    async fn step(&mut self) -> Option<Bytes> {
        if self.running {
            tokio::select! {
                biased;
                Some(line) = self.lines.recv() => return Some(line),
                ended = &mut self.work => {
                    self.running = false;
                    self.failure = ended.err();
                }
            }
        }
        // What was said before the end; senders may outlive the work, so this must not wait.
        self.lines.try_recv().ok()
    }
}

/// One line with its line end, which is CR LF in these streams.
pub(crate) fn encode(line: &ProgressLine) -> Bytes {
    let mut bytes = crate::reply::line(line);
    bytes.pop();
    bytes.extend(b"\r\n");
    bytes.into()
}

/// `{"stream": text}`
pub(crate) fn said(text: String) -> Bytes {
    encode(&ProgressLine { stream: text, ..ProgressLine::default() })
}

/// `{"status": text}`
pub(crate) fn status(text: String) -> Bytes {
    encode(&ProgressLine { status: text, ..ProgressLine::default() })
}

/// The line that ends a stream which failed.
pub(crate) fn error(fault: &Fault) -> ProgressLine {
    let message = fault.message().to_owned();
    ProgressLine {
        error_detail: Some(ErrorDetail { code: 0, message: message.clone() }),
        error: message,
        ..ProgressLine::default()
    }
}

fn line(step: &Progress) -> ProgressLine {
    let (status, id) = step.line();
    let detail = match (step, step.detail()) {
        (Progress::Layer { .. }, Some((current, total))) => Some(ProgressDetail {
            current: i64::try_from(current).unwrap_or(i64::MAX),
            total: i64::try_from(total).unwrap_or(i64::MAX),
            hide_counts: false,
        }),
        (Progress::Layer { .. }, None) => Some(ProgressDetail::default()),
        _ => None,
    };
    let progress = step.detail().map_or_else(String::new, |(current, total)| bar(current, total));
    ProgressLine {
        status,
        id: id.unwrap_or_default().to_owned(),
        progress_detail: detail,
        progress,
        ..ProgressLine::default()
    }
}

/// Whether a step is to be told: byte counts only now and then, all else always.
fn is_due(step: &Progress, told: &mut HashMap<String, Instant>) -> bool {
    let Progress::Layer { id, step } = step else { return true };
    let (current, total) = match step {
        LayerStep::Downloading { current, total }
        | LayerStep::Extracting { current, total }
        | LayerStep::Loading { current, total }
        | LayerStep::Pushing { current, total } => (*current, *total),
        _ => {
            told.remove(id);
            return true;
        }
    };
    let now = Instant::now();
    let due = current == total || told.get(id).is_none_or(|last| now - *last >= INTERVAL);
    if due {
        told.insert(id.clone(), now);
    }
    due
}

/// `[=====>      ]  1.2MB/3.4MB`
fn bar(current: u64, total: u64) -> String {
    if total == 0 || current > total {
        return format!("{:>8}", bytes(current));
    }
    let done = usize::try_from(current.saturating_mul(CELLS) / total).unwrap_or_default();
    let rest = usize::try_from(CELLS).unwrap_or_default() - done;
    format!("[{}>{}] {:>8}/{}", "=".repeat(done), " ".repeat(rest), bytes(current), bytes(total))
}

/// A size with four significant digits and decimal units.
fn bytes(size: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[allow(clippy::cast_precision_loss, reason = "four digits are shown")]
    let (mut value, mut unit) = (size as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        v if v >= 1000.0 => 0,
        v if v >= 100.0 => 1,
        v if v >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    fn layer(step: LayerStep) -> Progress {
        Progress::Layer { id: "0123456789ab".into(), step }
    }

    #[test]
    fn lines_are_dockers() {
        let text = |p: Progress| String::from_utf8(encode(&line(&p)).to_vec()).unwrap();
        assert_eq!(
            text(Progress::PullingFrom { repository: "library/x".into(), tag: "1".into() }),
            "{\"status\":\"Pulling from library/x\",\"id\":\"1\"}\r\n"
        );
        assert_eq!(
            text(layer(LayerStep::Complete)),
            "{\"status\":\"Pull complete\",\"progressDetail\":{},\"id\":\"0123456789ab\"}\r\n"
        );
        assert_eq!(
            text(layer(LayerStep::Downloading { current: 25, total: 100 })),
            "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":25,\"total\":100},\"progress\":\"[============>                                      ]      25B/100B\",\"id\":\"0123456789ab\"}\r\n"
        );
    }

    #[test]
    fn bars_are_filled_and_sizes_short() {
        assert!(bar(100, 100).starts_with(&format!("[{}>]", "=".repeat(50))));
        assert_eq!(bar(5, 0), "      5B");
        for (size, shown) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_567, "1.235MB"),
            (204_000_000, "204MB"),
        ] {
            assert_eq!(bytes(size), shown);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn byte_counts_are_told_now_and_then() {
        let mut told = HashMap::new();
        let mut due =
            |current| is_due(&layer(LayerStep::Downloading { current, total: 100 }), &mut told);
        assert!(due(1) && !due(2) && due(100));
        tokio::time::advance(INTERVAL).await;
        assert!(due(3));
    }

    #[tokio::test]
    async fn a_failure_before_the_first_line_is_a_fault() {
        let (_sink, _lines, receiver) = channel();
        let failed = run(async { Err(Fault::invalid("no")) }, receiver).await;
        assert_eq!(failed.err().unwrap().message(), "no");
    }

    #[tokio::test]
    async fn a_later_failure_is_the_last_line() {
        let (sink, _lines, receiver) = channel();
        let work = async move {
            sink(layer(LayerStep::Waiting));
            sink(layer(LayerStep::Exists));
            Err(Fault::invalid("too late"))
        };
        let lines: Vec<_> = run(work, receiver).await.unwrap().map(Result::unwrap).collect().await;
        assert_eq!(lines.len(), 3);
        assert_eq!(
            lines[2],
            "{\"errorDetail\":{\"message\":\"too late\"},\"error\":\"too late\"}\r\n"
        );
    }
}
