//! Health probes: run, timed, judged, told.

use std::sync::Arc;

use futures_util::StreamExt as _;

use crate::container::Container;
use crate::health::{Check, Health, OUTPUT, Probe};
use crate::inner::Inner;
use crate::options::Session;
use crate::state::{Run, State};

impl Inner {
    /// Starts to probe a container that has just started, if it has a health check.
    pub(crate) fn begin_health(self: &Arc<Self>, c: &Arc<Container>) {
        let record = c.record();
        let (Some(check), Some(run)) = (Check::of(&record.config), c.state().run()) else { return };
        c.with(|core| core.health = Some(Health::new()));
        let (inner, c) = (self.clone(), c.clone());
        self.spawn(async move { inner.probe_until_end(&c, &check, run).await });
    }

    /// Ends with the run that it began with.
    async fn probe_until_end(self: &Arc<Self>, c: &Arc<Container>, check: &Check, run: Run) {
        let begin = self.clock.instant();
        let after = || self.clock.instant().duration_since(begin);
        let mut news = c.subscribe();
        loop {
            let Some(pause) = c.with(|core| core.health.as_ref().map(|h| h.pause(check, after())))
            else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => (),
                _ = news.wait_for(|n| !n.running || n.removed) => return,
            }
            match c.state() {
                State::Running(now) if now == run => (),
                State::Paused(now) if now == run => continue,
                _ => return,
            }
            let probe = self.probe(c, check).await;
            let changed = c.with(|core| match (&core.life.state, &mut core.health) {
                (State::Running(now), Some(h)) if *now == run => h.record(check, probe, after()),
                _ => None,
            });
            if let Some(status) = changed {
                self.emit(&c.record(), format!("health_status: {}", status.word()), &[]);
            }
        }
    }

    async fn probe(self: &Arc<Self>, c: &Arc<Container>, check: &Check) -> Probe {
        let start = self.clock.unix_nanos();
        let (code, output) = self.run_probe(c, check).await;
        Probe { start, end: self.clock.unix_nanos(), code, output }
    }

    async fn run_probe(self: &Arc<Self>, c: &Arc<Container>, check: &Check) -> (i32, String) {
        let (id, session, mut running) = match self.exec_probe(c, &check.command).await {
            Ok(started) => started,
            Err(e) => return (-1, e.message()),
        };
        let pid = running.pid;
        let mut output = Vec::new();
        // The keeper ends the output once the end has been heard, and `running` is closed.
        let end = async move { running.ended().await };
        let done = async { tokio::join!(collect(session, &mut output), end).1 };
        let ended = tokio::time::timeout(check.timeout, done).await;
        let printed = String::from_utf8_lossy(&output);
        let (code, text) = match ended {
            Ok(Ok(exit)) => (exit.code, printed.into_owned()),
            Ok(Err(e)) => (-1, e.to_string()),
            Err(_) => {
                if let Ok(keeper) = c.keeper() {
                    drop(keeper.exec_signal(&id, 9).await);
                }
                let late = format!("Health check exceeded timeout ({:?})", check.timeout);
                (-1, if printed.is_empty() { late } else { format!("{late}: {printed}") })
            }
        };
        self.probe_ended(&id, pid, code);
        (code, text)
    }
}

/// The first bytes of what the probe prints; the rest is read and dropped, so that it does not block.
async fn collect(mut session: Session, out: &mut Vec<u8>) {
    let mut frames = Frames::default();
    while let Some(Ok(chunk)) = session.output.next().await {
        frames.payload(&chunk, out);
    }
}

/// Takes the 8-byte headers out of a stream that comes in arbitrary pieces.
#[derive(Debug, Default)]
struct Frames {
    header: Vec<u8>,
    left: usize,
}

impl Frames {
    fn payload(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let take = (8 - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                if let [_, _, _, _, a, b, c, d] = self.header[..] {
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.header.clear();
                }
                continue;
            }
            let take = self.left.min(bytes.len());
            let room = OUTPUT.saturating_sub(out.len()).min(take);
            out.extend_from_slice(&bytes[..room]);
            self.left -= take;
            bytes = &bytes[take..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_taken_out_wherever_the_stream_is_cut() {
        let mut stream = Vec::new();
        for text in [&b"ab"[..], b"", b"cdef"] {
            stream.extend([1, 0, 0, 0, 0, 0, 0, u8::try_from(text.len()).unwrap()]);
            stream.extend(text);
        }
        for cut in 0..stream.len() {
            let (mut frames, mut out) = (Frames::default(), Vec::new());
            frames.payload(&stream[..cut], &mut out);
            frames.payload(&stream[cut..], &mut out);
            assert_eq!(out, b"abcdef", "cut at {cut}");
        }
    }
}
