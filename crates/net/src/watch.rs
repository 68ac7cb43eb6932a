//! Restoring the firewall when somebody else's `flush ruleset` takes it away.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use wharf_sys::netlink::Socket;
use wharf_sys::nft;

use crate::error::{NetError, kernel};
use crate::net::{Net, warn};

/// Before another try when the kernel refuses.
const RETRY: Duration = Duration::from_secs(1);

impl Net {
    /// Restores the firewall as soon as anybody else takes anything of it away. Costs nothing while
    /// nobody does. Ends when `shutdown` does.
    pub async fn watch(self: Arc<Net>, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Err(e) = self.watch_once() => {
                    warn(&e, "watch the firewall");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Runs until something fails.
    async fn watch_once(self: &Arc<Net>) -> Result<(), NetError> {
        let socket = nft::subscribe().map_err(kernel("subscribe to firewall events"))?;
        #[allow(
            deprecated,
            reason = "the successor is unsafe to call; a Socket owns one descriptor for life"
        )]
        let events = AsyncFd::new(socket);
        let mut events = events.map_err(kernel("wait for firewall events"))?;
        // What happened before the subscription, or while there was none.
        self.restore().await?;
        loop {
            let mut ready =
                events.readable_mut().await.map_err(kernel("wait for firewall events"))?;
            let touched = self.touched(ready.get_inner_mut());
            ready.clear_ready();
            match touched {
                Ok(false) => (),
                Ok(true) => self.restore().await?,
                // The queue overflowed: something may have been ours.
                Err(e) if e.raw_os_error().is_some() => self.restore().await?,
                Err(e) => return Err(kernel("read firewall events")(e)),
            }
        }
    }

    /// Empties the queue. Whether anybody but this daemon took away something of its tables.
    fn touched(&self, socket: &mut Socket) -> io::Result<bool> {
        let own = self.nft_port;
        let mut found = false;
        loop {
            match socket.receive_now() {
                Ok(None) => return Ok(found),
                Ok(Some(messages)) => {
                    found |= nft::events(&messages)
                        .any(|e| e.removed && e.port != own && self.tables.own(&e.table));
                }
                Err(e) => {
                    return Err(e.errno().map_or_else(|| e.into(), io::Error::from_raw_os_error));
                }
            }
        }
    }

    async fn restore(self: &Arc<Net>) -> Result<(), NetError> {
        let net = self.clone();
        let work = move || net.install_rules();
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
            Err(NetError::Kernel {
                action: "restore firewall rules".into(),
                source: io::Error::other(e),
            })
        })
    }
}
