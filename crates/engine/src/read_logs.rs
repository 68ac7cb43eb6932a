//! The stream that `docker logs` shows.

use std::io;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use wharf_keeper::log::{LogFormat, LogQuery, LogReader, LogRender, LogStream};

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::options::{ByteStream, LogOptions};

impl Inner {
    pub(crate) async fn logs(
        self: &Arc<Self>,
        c: &Arc<Container>,
        o: LogOptions,
    ) -> Result<ByteStream> {
        if !(o.stdout || o.stderr) {
            return Err(EngineError::invalid(
                "Bad parameters: you must choose at least one stream",
            ));
        }
        let record = c.record();
        let settings = crate::logs::settings(&record.host.log_config)?;
        let Some(path) = crate::logs::path(&record, &self.dir(&c.id)) else {
            return Err(EngineError::not_implemented(
                "configured logging driver does not support reading",
            ));
        };
        debug_assert_ne!(settings.format, LogFormat::None);
        let query = LogQuery {
            stdout: o.stdout,
            stderr: o.stderr,
            since: o.since,
            until: o.until,
            tail: o.tail,
        };
        let render =
            LogRender { framed: !record.config.tty, timestamps: o.timestamps, details: o.details };
        let signal = match c.keeper() {
            // A container that ends meanwhile has a complete log.
            Ok(keeper) if o.follow => keeper.follow_log().await.ok(),
            _ => None,
        };
        let reader = self
            .blocking(move |_| {
                LogReader::open(path, settings.format, query)
                    .map_err(|e| EngineError::system("open the container's log", e))
            })
            .await?;
        let log = LogStream::new(reader, render, signal);
        let chunks = stream::unfold(Some(log), |log| async {
            let mut log = log?;
            match log.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(log))),
                Ok(None) => None,
                Err(e) => Some((Err(io::Error::other(e)), None)),
            }
        });
        Ok(chunks.boxed())
    }
}
