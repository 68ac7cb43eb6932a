//! `system dial-stdio`: the far end of an `ssh://` address.

use tokio::io::{AsyncWriteExt, copy, split, stdin, stdout};

use super::Outcome;
use crate::app::Call;

/// Joins standard input and output to the engine's socket.
pub async fn dial_stdio(call: Call) -> Outcome {
    let (mut from, mut to) = split(call.client()?.dial().await?);
    let sending = async {
        let done = copy(&mut stdin(), &mut to).await;
        // The engine may still answer.
        drop(to.shutdown().await);
        done
    };
    let receiving = async {
        let mut out = stdout();
        let done = copy(&mut from, &mut out).await;
        out.flush().await.and(done)
    };
    tokio::pin!(sending, receiving);
    tokio::select! {
        result = &mut receiving => result?,
        result = &mut sending => {
            result?;
            receiving.await?
        }
    };
    Ok(())
}
