//! Answers in the form that was negotiated: whole objects, tables, metadata alone; one, a list or a stream.

use crate::api::Call;
use crate::kinds::{Hub, Kind};
use crate::media::{Accept, Notation, View};
use crate::render::{self, TableOptions};
use crate::respond::{Answer, Content};
use crate::server::Server;
use crate::write::Written;
use crate::{list, watching};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use wharf_kube::proto;
use wharf_kube::status::Fault;

impl Server {
    /// What a write left behind.
    pub(crate) fn written(
        &self,
        call: &Call<'_>,
        accept: Accept,
        w: &Written,
        pretty: bool,
    ) -> Answer {
        let status = if w.created { StatusCode::CREATED } else { StatusCode::OK };
        self.show(call, accept, status, &w.object, pretty)
    }

    /// One object in the form that was negotiated.
    pub fn show(
        &self,
        call: &Call<'_>,
        accept: Accept,
        status: StatusCode,
        object: &Value,
        pretty: bool,
    ) -> Answer {
        match accept.view {
            View::Table => {
                let rv = crate::api::meta(object, "resourceVersion");
                let options = TableOptions::of(call, self.api.now_seconds());
                let version = json!({"resourceVersion": rv});
                let table = render::table(call.kind, &[object], &version, &options);
                Answer::json(status, &table, pretty)
            }
            View::Metadata => {
                let partial = render::partial(object);
                Answer::object(status, accept, &partial, pretty, || render::sealed(&partial))
            }
            View::Whole | View::Discovery(_) => {
                Answer::object(status, accept, object, pretty, || sealed(call.kind, object))
            }
        }
    }

    /// A list in the form that was negotiated.
    pub(crate) async fn list(
        &self,
        call: &Call<'_>,
        accept: Accept,
        pretty: bool,
    ) -> Result<Answer, Fault> {
        let listed = self.api.list(call).await?;
        self.show_list(call, accept, &listed, pretty).await
    }

    /// What was listed in the form that was negotiated.
    pub(crate) async fn show_list(
        &self,
        call: &Call<'_>,
        accept: Accept,
        listed: &list::Listed,
        pretty: bool,
    ) -> Result<Answer, Fault> {
        // Texts and messages are made from what is stored, where that is what is shown.
        let whole = accept.view == View::Whole;
        let objects =
            if whole && (call.kind.hub == Hub::Own || accept.notation == Notation::Protobuf) {
                Vec::new()
            } else {
                self.api.seen_all(call.kind, &listed.items).await?
            };
        Ok(self.shown_list(call, accept, listed, objects, pretty))
    }

    /// `objects` are the list's, in the version of the request, where the form needs them.
    fn shown_list(
        &self,
        call: &Call<'_>,
        accept: Accept,
        listed: &list::Listed,
        objects: Vec<Arc<Value>>,
        pretty: bool,
    ) -> Answer {
        match (accept.view, accept.notation) {
            (View::Table, _) => {
                let options = TableOptions::of(call, self.api.now_seconds());
                let rows: Vec<&Value> = objects.iter().map(|o| &**o).collect();
                let table = render::table(call.kind, &rows, &listed.metadata(), &options);
                Answer::json(StatusCode::OK, &table, pretty)
            }
            (View::Metadata, _) => {
                let all: Vec<&Value> = objects.iter().map(|o| &**o).collect();
                let list = render::partial_list(&all, &listed.metadata());
                Answer::object(StatusCode::OK, accept, &list, pretty, || render::sealed(&list))
            }
            (_, Notation::Protobuf) => {
                let items = listed.items.iter();
                let items: Vec<Bytes> =
                    items.map(|kv| self.api.objects.message(call.kind, kv)).collect();
                let message =
                    proto::encode_list(&listed.metadata(), items.iter().map(AsRef::as_ref));
                let kind = format!("{}List", call.kind.name());
                let bytes = proto::seal(&call.kind.api_version, &kind, &message);
                Answer::bytes(StatusCode::OK, "application/vnd.kubernetes.protobuf", bytes)
            }
            (_, notation) => {
                let mut text = list::json_text(call.kind, listed, &objects);
                if notation == Notation::Yaml || pretty {
                    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
                    return Answer::object(StatusCode::OK, accept, &value, pretty, Vec::new);
                }
                text.push(b'\n');
                Answer::bytes(StatusCode::OK, "application/json", text)
            }
        }
    }

    /// A stream of changes in the form that was negotiated.
    pub(crate) async fn watch(&self, call: &Call<'_>, accept: Accept) -> Result<Answer, Fault> {
        let media = match accept.notation {
            Notation::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Notation::Yaml => "application/yaml;stream=watch",
            Notation::Json => "application/json",
        };
        let body = match self.api.watch(call, accept).await {
            Ok(events) => Content::Stream(Box::new(events)),
            Err(f) => match watching::refused(&self.api, call.kind, accept, &f) {
                Some(bytes) => Content::Ended(bytes),
                None => return Err(f),
            },
        };
        let mut answer = Answer::bytes(StatusCode::OK, media, Bytes::new());
        answer.body = body;
        Ok(answer)
    }
}

/// An object in its protobuf envelope.
fn sealed(kind: &Kind, object: &Value) -> Vec<u8> {
    proto::seal(&kind.api_version, kind.name(), &proto::encode(kind.ty(), object))
}
