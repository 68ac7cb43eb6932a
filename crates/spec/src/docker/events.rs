//! What happened, told to whoever listens.

use super::Map;

go_struct! {
    /// One line of `GET /events`. `status`, `id` and `from` are the pre-1.22 names, kept up to 1.51.
    Event {
        status: String = "status", omitempty;
        id: String = "id", omitempty;
        from: String = "from", omitempty;
        kind: String = "Type";
        action: String = "Action";
        actor: Actor = "Actor";
        scope: String = "scope", omitempty;
        time: i64 = "time", omitempty;
        time_nano: i64 = "timeNano", omitempty;
    }
}

go_struct! { Actor {
    id: String = "ID";
    attributes: Map<String> = "Attributes";
} }
