//! `commit`.

use super::{Outcome, text};
use crate::api::{Payload, url};
use crate::app::{Call, say_line};
use crate::parse::reference;

/// `commit CONTAINER [REPOSITORY[:TAG]]`
pub async fn commit(call: Call) -> Outcome {
    let given = &call.given;
    let mut query = vec![
        ("author", given.text("author").to_owned()),
        ("comment", given.text("message").to_owned()),
        ("container", call.args()[0].clone()),
    ];
    query.extend(given.all("change").iter().map(|c| ("changes", c.clone())));
    if !given.on_or("pause", true) {
        query.push(("pause", "0".to_owned()));
    }
    if let Some(name) = call.args().get(1) {
        let name = reference::parse(name)?.with_default_tag();
        query.push(("repo", name.full_name()));
        query.push(("tag", name.tag.unwrap_or_default()));
    }
    let query: Vec<(&str, &str)> = query.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let made = call.client()?.post(&url("/commit", &query), Payload::Empty).await?;
    say_line(text(&made, "Id"))
}
