//! Waiting for a container: registered when asked, answered when it holds.

use wharf_spec::docker::{WaitError, WaitResponse};

use crate::container::{Container, News};
use crate::options::WaitCondition;

/// A future that resolves when `condition` holds. What happens after this call is not missed.
pub(crate) fn wait(
    c: &Container,
    condition: WaitCondition,
) -> impl Future<Output = WaitResponse> + Send + use<> {
    let mut news = c.subscribe();
    let exits = news.borrow().exits;
    async move {
        let holds = move |n: &News| match condition {
            WaitCondition::NotRunning => !n.running || n.removed,
            WaitCondition::NextExit => n.exits > exits || n.removed,
            WaitCondition::Removed => n.removed,
        };
        match news.wait_for(holds).await {
            Ok(n) => answer(&n),
            // The container's last holder is gone, which happens only after its removal.
            Err(_) => WaitResponse { status_code: 0, error: None },
        }
    }
}

fn answer(n: &News) -> WaitResponse {
    let error = (!n.error.is_empty()).then(|| WaitError { message: n.error.clone() });
    WaitResponse { status_code: i64::from(n.code), error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Life, Record};
    use futures_util::FutureExt as _;
    use wharf_base::Id;

    fn container() -> Container {
        let record = Record {
            id: Id::random(),
            name: "c".into(),
            created: 0,
            image: String::new(),
            config: Default::default(),
            host: Default::default(),
            networks: Default::default(),
            mounts: Vec::new(),
            links: Vec::new(),
        };
        Container::new(record, Life::default())
    }

    #[test]
    fn next_exit_is_not_the_state_before_the_start() {
        let c = container();
        let now = wait(&c, WaitCondition::NotRunning).now_or_never();
        assert_eq!(now.unwrap().status_code, 0);
        let mut next = Box::pin(wait(&c, WaitCondition::NextExit));
        assert!((&mut next).now_or_never().is_none());
        c.tell(|n| n.running = true);
        c.tell(|n| (n.running, n.exits, n.code) = (false, 1, 3));
        assert_eq!(next.now_or_never().unwrap().status_code, 3);
    }

    #[test]
    fn removed_waits_for_the_removal_and_keeps_the_status() {
        let c = container();
        let mut gone = Box::pin(wait(&c, WaitCondition::Removed));
        c.tell(|n| (n.exits, n.code) = (1, 7));
        assert!((&mut gone).now_or_never().is_none());
        c.tell(|n| n.removed = true);
        assert_eq!(gone.now_or_never().unwrap().status_code, 7);
    }
}
