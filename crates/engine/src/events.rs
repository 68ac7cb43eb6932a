//! The event bus: what happened to which object, kept for late readers and handed to live ones.
//!
//! The bus holds the last [`KEPT`] events for `since`. A reader is a position in the same queue, so
//! publishing costs one push whatever the number of readers, and a slow reader loses nothing until it
//! is [`BEHIND`] events behind.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use wharf_base::clock::Clock;
use wharf_base::sync::Mutex;

use crate::filters::{FilterError, Filters};

/// How many past events `since` can reach.
pub const KEPT: usize = 256;
/// How many events a live reader may lag behind before it loses the oldest.
pub const BEHIND: usize = 8192;

/// The kind of object that an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The build cache.
    Builder,
    /// A container.
    Container,
    /// The daemon itself.
    Daemon,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

impl Kind {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Builder => "builder",
            Kind::Container => "container",
            Kind::Daemon => "daemon",
            Kind::Image => "image",
            Kind::Network => "network",
            Kind::Volume => "volume",
        }
    }
}

/// Extra facts about the object: its name, image and labels, and what the action adds.
pub type Attributes = BTreeMap<String, String>;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the object is.
    pub kind: Kind,
    /// What happened, such as `start` or `health_status: healthy`.
    pub action: String,
    /// The object's id, or its name where it has no id.
    pub id: String,
    /// Facts about the object.
    pub attributes: Attributes,
    /// When, in nanoseconds since 1970.
    pub nanos: i64,
}

/// The bus. Clones share it.
#[derive(Clone, Debug)]
pub struct Events(Arc<Bus>);

#[derive(Debug)]
struct Bus {
    clock: Clock,
    queue: Mutex<Queue>,
    /// The number of the newest event, for readers to wait on.
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Arc<Event>>,
    /// The number of `events[0]`.
    first: u64,
    /// The next event that each live reader wants, by reader.
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
}

impl Events {
    /// An empty bus.
    pub fn new(clock: Clock) -> Events {
        let newest = watch::Sender::new(0);
        Events(Arc::new(Bus { clock, queue: Mutex::default(), newest }))
    }

    /// Publishes an event with the present time.
    pub fn publish(&self, kind: Kind, action: impl Into<String>, id: &str, attributes: Attributes) {
        let mut queue = self.0.queue.lock();
        // The time is read under the lock so that times never run backwards in the queue.
        let nanos = self.0.clock.unix_nanos();
        let event = Event { kind, action: action.into(), id: id.into(), attributes, nanos };
        queue.push(event);
        let end = queue.end();
        // Under the lock, so that a later event's number cannot be overtaken by this one's.
        self.0.newest.send_replace(end);
    }

    /// Starts to read. `since` replays kept events from that time on; `until` ends the reading.
    pub fn subscribe(&self, since: Option<SystemTime>, until: Option<SystemTime>) -> Subscription {
        let (since, until) = (since.map(nanos), until.map(nanos));
        let newest = self.0.newest.subscribe();
        let mut queue = self.0.queue.lock();
        let mut from = queue.end();
        if since.is_some() || until.is_some() {
            let since = since.unwrap_or(i64::MIN);
            let kept =
                queue.events.iter().rev().take(KEPT).take_while(|e| e.nanos >= since).count();
            from -= kept as u64;
        }
        let reader = queue.next_reader;
        queue.next_reader += 1;
        queue.readers.insert(reader, from);
        Subscription { bus: self.0.clone(), reader, newest, until }
    }

    /// How many readers there are, for `docker info`.
    pub fn listeners(&self) -> usize {
        self.0.queue.lock().readers.len()
    }
}

/// A reader of the bus. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    bus: Arc<Bus>,
    reader: u64,
    newest: watch::Receiver<u64>,
    until: Option<i64>,
}

impl Subscription {
    /// The next event; `None` when `until` has passed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            self.newest.borrow_and_update();
            if let Some(event) = self.bus.queue.lock().take(self.reader) {
                return if self.until.is_some_and(|u| event.nanos > u) {
                    None
                } else {
                    Some(event)
                };
            }
            let Some(until) = self.until else {
                // The bus cannot be dropped while this subscription holds it.
                self.newest.changed().await.ok()?;
                continue;
            };
            let left = until.saturating_sub(self.bus.clock.unix_nanos());
            let left = std::time::Duration::from_nanos(u64::try_from(left).unwrap_or(0));
            if left.is_zero() {
                return None;
            }
            // On a time-out the queue is looked at once more, then `left` is zero.
            drop(tokio::time::timeout(left, self.newest.changed()).await);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut queue = self.bus.queue.lock();
        queue.readers.remove(&self.reader);
        queue.trim();
    }
}

impl Queue {
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn push(&mut self, event: Event) {
        self.events.push_back(Arc::new(event));
        self.trim();
    }

    /// Drops what nobody can ask for any more.
    fn trim(&mut self) {
        let wanted = self.readers.values().min().copied().unwrap_or(u64::MAX);
        while self.events.len() > BEHIND || (self.events.len() > KEPT && self.first < wanted) {
            self.events.pop_front();
            self.first += 1;
        }
    }

    fn take(&mut self, reader: u64) -> Option<Arc<Event>> {
        let (first, end) = (self.first, self.end());
        let next = self.readers.get_mut(&reader)?;
        *next = (*next).max(first);
        if *next >= end {
            return None;
        }
        let index = usize::try_from(*next - first).ok()?;
        *next += 1;
        self.events.get(index).cloned()
    }
}

/// Checks the names in an event filter.
pub fn check(filters: &Filters) -> Result<(), FilterError> {
    filters.check(crate::filters::EVENTS)
}

/// Whether `event` passes `filters`.
pub fn passes(event: &Event, filters: &Filters) -> bool {
    filters.is_empty()
        || (action_passes(event, filters)
            && filters.exact("type", event.kind.as_str())
            && filters.exact("scope", "local")
            && OBJECTS.iter().all(|key| object_passes(event, filters, key))
            && image_passes(event, filters)
            && filters.labels("label", &event.attributes))
}

/// Filters that name an object by the beginning of its id or name.
const OBJECTS: &[&str] =
    &["daemon", "container", "plugin", "volume", "network", "node", "service", "secret", "config"];

fn action_passes(event: &Event, filters: &Filters) -> bool {
    // These three carry their detail after a colon and are asked for without it.
    let open = ["health_status", "exec_create", "exec_start"];
    if filters.values("event").any(|v| open.contains(&v)) {
        filters.prefix("event", &event.action)
    } else {
        filters.exact("event", &event.action)
    }
}

fn object_passes(event: &Event, filters: &Filters, key: &str) -> bool {
    let name = event.attributes.get("name").map_or("", String::as_str);
    filters.prefix(key, &event.id) || filters.prefix(key, name)
}

/// An image filter also lets the events of containers made from that image pass.
fn image_passes(event: &Event, filters: &Filters) -> bool {
    let attribute = if event.kind == Kind::Image { "name" } else { "image" };
    let name = event.attributes.get(attribute).map_or("", String::as_str);
    [event.id.as_str(), name, without_tag(&event.id), without_tag(name)]
        .iter()
        .any(|candidate| filters.exact("image", candidate))
}

fn without_tag(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':') {
        // A colon before the last slash belongs to a registry's port.
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

fn nanos(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn bus() -> (Events, Clock) {
        let clock = Clock::fixed(Duration::from_secs(1000));
        (Events::new(clock.clone()), clock)
    }

    fn start(events: &Events, id: &str) {
        events.publish(Kind::Container, "start", id, Attributes::new());
    }

    async fn drain(mut s: Subscription) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(e) = s.next().await {
            seen.push(e.id.clone());
        }
        seen
    }

    fn at(seconds: u64) -> Option<SystemTime> {
        Some(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[tokio::test]
    async fn live_readers_see_only_what_follows() {
        let (events, _) = bus();
        start(&events, "before");
        let mut reader = events.subscribe(None, None);
        start(&events, "after");
        assert_eq!(reader.next().await.unwrap().id, "after");
    }

    #[tokio::test]
    async fn waits_for_an_event_and_wakes() {
        let (events, _) = bus();
        let mut reader = events.subscribe(None, None);
        let waiting = tokio::spawn(async move { reader.next().await.unwrap().id.clone() });
        tokio::task::yield_now().await;
        start(&events, "x");
        assert_eq!(waiting.await.unwrap(), "x");
    }

    #[tokio::test]
    async fn since_and_until_bound_the_past() {
        let (events, clock) = bus();
        for id in ["a", "b", "c", "d"] {
            start(&events, id);
            clock.advance(Duration::from_secs(10));
        }
        assert_eq!(drain(events.subscribe(at(1010), at(1020))).await, ["b", "c"]);
        assert_eq!(drain(events.subscribe(None, at(1000))).await, ["a"]);
        assert_eq!(drain(events.subscribe(at(1030), at(1030))).await, ["d"]);
    }

    #[tokio::test]
    async fn the_ring_keeps_the_last_256() {
        let (events, clock) = bus();
        for n in 0..300 {
            start(&events, &n.to_string());
        }
        clock.advance(Duration::from_secs(1));
        let seen = drain(events.subscribe(at(0), at(1000))).await;
        assert_eq!((seen.len(), seen[0].as_str()), (KEPT, "44"));
    }

    #[tokio::test]
    async fn a_slow_reader_loses_nothing_within_the_bound() {
        let (events, _) = bus();
        let mut slow = events.subscribe(None, None);
        for n in 0..2000 {
            start(&events, &n.to_string());
        }
        for n in 0..2000 {
            assert_eq!(slow.next().await.unwrap().id, n.to_string());
        }
        drop(slow);
        assert_eq!(events.0.queue.lock().events.len(), KEPT);
        assert_eq!(events.listeners(), 0);
    }

    #[tokio::test]
    async fn a_dead_reader_cannot_fill_memory() {
        let (events, _) = bus();
        let mut dead = events.subscribe(None, None);
        for n in 0..BEHIND + 10 {
            start(&events, &n.to_string());
        }
        assert_eq!(events.0.queue.lock().events.len(), BEHIND);
        assert_eq!(dead.next().await.unwrap().id, "10");
    }

    #[test]
    fn filters_pick_by_type_action_object_image_and_label() {
        let attributes: Attributes = [("name", "web"), ("image", "nginx:1.27"), ("tier", "front")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let event = Event {
            kind: Kind::Container,
            action: "health_status: healthy".into(),
            id: "abc123".into(),
            attributes,
            nanos: 0,
        };
        let check = |json: &str, pass: bool| {
            assert_eq!(passes(&event, &Filters::parse(json).unwrap()), pass, "{json}");
        };
        check("", true);
        check(r#"{"type":["container"]}"#, true);
        check(r#"{"type":["image"]}"#, false);
        check(r#"{"event":["health_status"]}"#, true);
        check(r#"{"event":["health_status: unhealthy"]}"#, false);
        check(r#"{"event":["start"]}"#, false);
        check(r#"{"container":["abc"]}"#, true);
        check(r#"{"container":["web"]}"#, true);
        check(r#"{"container":["db"]}"#, false);
        check(r#"{"image":["nginx"]}"#, true);
        check(r#"{"image":["nginx:1.27"]}"#, true);
        check(r#"{"image":["redis"]}"#, false);
        check(r#"{"label":["tier=front"]}"#, true);
        check(r#"{"label":["tier=back"]}"#, false);
        check(r#"{"scope":["swarm"]}"#, false);
    }

    #[test]
    fn tags_are_not_ports() {
        assert_eq!(without_tag("host:5000/app"), "host:5000/app");
        assert_eq!(without_tag("host:5000/app:1"), "host:5000/app");
        assert_eq!(without_tag("app@sha256:00"), "app");
    }
}
