//! `Status`: how the API says no, and how it says that a deletion was done.

use serde_json::{Map, Value, json};

/// A refusal: code, reason, message and details of a `Status` object.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The HTTP status.
    pub code: u16,
    /// The machine-readable reason; empty where there is none.
    pub reason: &'static str,
    /// For people, and for the clients that match on it.
    pub message: String,
    /// What it is about.
    pub details: Option<Details>,
    /// A continue token that goes on from here, in an expired list.
    pub next: Option<String>,
}

/// What a [`Fault`] is about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// The group.
    pub group: String,
    /// The resource, or the kind for invalid objects.
    pub kind: String,
    /// The object's uid.
    pub uid: String,
    /// Single problems.
    pub causes: Vec<Cause>,
    /// When to try again, in seconds.
    pub retry_after: u32,
}

/// One problem of several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// Such as `FieldValueRequired`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The path of the field.
    pub field: String,
}

/// The resource that an error speaks of: group, then plural name.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The group, empty for core.
    pub group: &'a str,
    /// The plural name.
    pub resource: &'a str,
}

impl About<'_> {
    fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    fn details(&self, name: &str) -> Option<Details> {
        Some(Details {
            name: name.to_owned(),
            group: self.group.to_owned(),
            kind: self.resource.to_owned(),
            ..Details::default()
        })
    }
}

impl Fault {
    /// A failure that has no reason of its own.
    pub fn unknown(message: impl Into<String>) -> Fault {
        Fault::new(500, "", message)
    }

    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Fault {
        Fault { code, reason, message: message.into(), details: None, next: None }
    }

    /// What another server answered.
    pub fn answered(code: u16, message: impl Into<String>) -> Fault {
        let reason = match code {
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            _ => "Unknown",
        };
        Fault::new(code, reason, message)
    }

    /// Whether it says that a namespace takes nothing more because it is being deleted.
    pub fn is_of_ending_namespace(&self) -> bool {
        let mut causes = self.details.iter().flat_map(|d| &d.causes);
        causes.any(|c| c.reason == "NamespaceTerminating")
    }

    /// There is no such object.
    pub fn not_found(about: About<'_>, name: &str) -> Fault {
        let message = format!("{} {name:?} not found", about.qualified());
        Fault { details: about.details(name), ..Fault::new(404, "NotFound", message) }
    }

    /// There is no such path.
    pub fn no_route() -> Fault {
        let details = Some(Details::default());
        let message = "the server could not find the requested resource";
        Fault { details, ..Fault::new(404, "NotFound", message) }
    }

    /// The name is taken.
    pub fn already_exists(about: About<'_>, name: &str) -> Fault {
        let message = format!("{} {name:?} already exists", about.qualified());
        Fault { details: about.details(name), ..Fault::new(409, "AlreadyExists", message) }
    }

    /// The object is not what the client thinks.
    pub fn conflict(about: About<'_>, name: &str, why: &str) -> Fault {
        let message =
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", about.qualified());
        Fault { details: about.details(name), ..Fault::new(409, "Conflict", message) }
    }

    /// The object has changed since the client read it.
    pub fn stale(about: About<'_>, name: &str) -> Fault {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Fault::conflict(about, name, why)
    }

    /// Fields have other owners.
    pub fn apply_conflict(message: String, causes: Vec<Cause>) -> Fault {
        let details = Some(Details { causes, ..Details::default() });
        Fault { details, ..Fault::new(409, "Conflict", message) }
    }

    /// Not allowed, for a reason that concerns one object.
    pub fn forbidden(about: About<'_>, name: &str, why: &str) -> Fault {
        let message = if name.is_empty() {
            format!("{} is forbidden: {why}", about.qualified())
        } else {
            format!("{} {name:?} is forbidden: {why}", about.qualified())
        };
        Fault { details: about.details(name), ..Fault::new(403, "Forbidden", message) }
    }

    /// Nobody knows who asks.
    pub fn unauthorized() -> Fault {
        Fault::new(401, "Unauthorized", "Unauthorized")
    }

    /// The request makes no sense, and this error says why.
    pub fn bad_request_from(e: impl std::fmt::Display) -> Fault {
        Fault::bad_request(e.to_string())
    }

    /// The request makes no sense, in these words.
    pub fn bad_request(message: impl Into<String>) -> Fault {
        Fault::new(400, "BadRequest", message)
    }

    /// The object breaks rules; `problems` come from validation.
    pub fn invalid(group: &str, kind: &str, name: &str, problems: &[Problem]) -> Fault {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let list = match &texts[..] {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = if problems.is_empty() {
            format!("{qualified} {name:?} is invalid")
        } else {
            format!("{qualified} {name:?} is invalid: {list}")
        };
        let details = Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes: problems.iter().map(Problem::cause).collect(),
            ..Details::default()
        };
        Fault { details: Some(details), ..Fault::new(422, "Invalid", message) }
    }

    /// A patch that does not fit what it is applied to.
    pub fn unprocessable(message: impl Into<String>) -> Fault {
        Fault { details: Some(Details::default()), ..Fault::new(422, "Invalid", message) }
    }

    /// The resource cannot do this.
    pub fn method(about: About<'_>, verb: &str) -> Fault {
        let message =
            format!("{verb} is not supported on resources of kind {:?}", about.qualified());
        Fault { details: about.details(""), ..Fault::new(405, "MethodNotAllowed", message) }
    }

    /// The path cannot do this.
    pub fn wrong_method() -> Fault {
        let details = Some(Details::default());
        let message = "the server does not allow this method on the requested resource";
        Fault { details, ..Fault::new(405, "MethodNotAllowed", message) }
    }

    /// The body comes in a form that is not read here.
    pub fn media_type(accepted: &str) -> Fault {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Fault::new(415, "UnsupportedMediaType", message)
    }

    /// No form in which the client would take the answer is written here.
    pub fn not_acceptable(available: &str) -> Fault {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {available}");
        let details = Some(Details::default());
        Fault { details, ..Fault::new(406, "NotAcceptable", message) }
    }

    /// None of what the client reads is an answer that there is, where no router stands before the handler.
    pub fn only_accepted(available: &str) -> Fault {
        let message = format!("only the following media types are accepted: {available}");
        Fault::new(406, "NotAcceptable", message)
    }

    /// History no longer reaches back to what was asked for.
    pub fn expired(message: impl Into<String>) -> Fault {
        Fault::new(410, "Expired", message)
    }

    /// The revision lies in the future.
    pub fn too_large_revision(asked: u64, current: i64) -> Fault {
        let cause = Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        };
        let details = Details { causes: vec![cause], retry_after: 1, ..Details::default() };
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Fault { details: Some(details), ..Fault::new(504, "Timeout", message) }
    }

    /// Later, perhaps.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Fault {
        let details = Some(Details { retry_after, ..Details::default() });
        Fault { details, ..Fault::new(429, "TooManyRequests", message) }
    }

    /// The body is longer than the API takes.
    pub fn too_large(message: impl Into<String>) -> Fault {
        Fault::new(413, "RequestEntityTooLarge", message)
    }

    /// The server failed.
    pub fn internal(what: impl std::fmt::Display) -> Fault {
        let cause = Cause { message: what.to_string(), ..Cause::default() };
        let details = Some(Details { causes: vec![cause], ..Details::default() });
        let message = format!("Internal error occurred: {what}");
        Fault { details, ..Fault::new(500, "InternalError", message) }
    }

    /// The server cannot answer now.
    pub fn unavailable(message: impl Into<String>) -> Fault {
        Fault::new(503, "ServiceUnavailable", message)
    }

    /// As the API prints it.
    pub fn to_value(&self) -> Value {
        let metadata = match &self.next {
            Some(token) => json!({"continue": token}),
            None => json!({}),
        };
        let mut out = Map::new();
        out.insert("kind".into(), "Status".into());
        out.insert("apiVersion".into(), "v1".into());
        out.insert("metadata".into(), metadata);
        out.insert("status".into(), "Failure".into());
        out.insert("message".into(), self.message.clone().into());
        if !self.reason.is_empty() {
            out.insert("reason".into(), self.reason.into());
        }
        if let Some(d) = &self.details {
            out.insert("details".into(), d.to_value());
        }
        out.insert("code".into(), self.code.into());
        Value::Object(out)
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                out.insert(key.into(), text.clone().into());
            }
        }
        if !self.causes.is_empty() {
            out.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after > 0 {
            out.insert("retryAfterSeconds".into(), self.retry_after.into());
        }
        Value::Object(out)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, text) in
            [("reason", &self.reason), ("message", &self.message), ("field", &self.field)]
        {
            if !text.is_empty() {
                out.insert(key.into(), text.clone().into());
            }
        }
        Value::Object(out)
    }
}

/// The answer to a deletion that is done.
pub fn deleted(about: About<'_>, name: &str, uid: &str) -> Value {
    let details = Details {
        name: name.to_owned(),
        group: about.group.to_owned(),
        kind: about.resource.to_owned(),
        uid: uid.to_owned(),
        ..Details::default()
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details.to_value()})
}

/// One broken rule of validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field's path.
    pub field: String,
    /// Which rule.
    pub rule: Rule,
}

/// The kinds of broken rules, each with what its sentence needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// The field must be set.
    Required(String),
    /// The value is wrong: the value as Go prints it, and why.
    Invalid(String, String),
    /// The value is not one of these.
    Unsupported(String, Vec<String>),
    /// The value occurs twice.
    Duplicate(String),
    /// The field must not be set.
    Forbidden(String),
    /// The text is longer than so many bytes.
    TooLong(usize),
    /// There are so many, and at most so many may be.
    TooMany(usize, usize),
    /// What is named does not exist.
    NotFound(String),
    /// The value has the wrong type.
    Type(String, String),
}

impl Problem {
    /// The field must be set.
    pub fn required(field: impl Into<String>, why: impl Into<String>) -> Problem {
        Problem { field: field.into(), rule: Rule::Required(why.into()) }
    }

    /// The value is wrong.
    pub fn invalid(field: impl Into<String>, value: &Value, why: impl Into<String>) -> Problem {
        Problem { field: field.into(), rule: Rule::Invalid(go(value), why.into()) }
    }

    /// The value is not one of `allowed`.
    pub fn unsupported(field: impl Into<String>, value: &Value, allowed: &[&str]) -> Problem {
        let allowed = allowed.iter().map(|a| format!("{a:?}")).collect();
        Problem { field: field.into(), rule: Rule::Unsupported(go(value), allowed) }
    }

    /// The value occurs twice.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Problem {
        Problem { field: field.into(), rule: Rule::Duplicate(go(value)) }
    }

    /// The field must not be set.
    pub fn forbidden(field: impl Into<String>, why: impl Into<String>) -> Problem {
        Problem { field: field.into(), rule: Rule::Forbidden(why.into()) }
    }

    /// What is named does not exist.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Problem {
        Problem { field: field.into(), rule: Rule::NotFound(go(value)) }
    }

    fn body(&self) -> String {
        let with = |head: &str, why: &str| {
            if why.is_empty() { head.to_owned() } else { format!("{head}: {why}") }
        };
        match &self.rule {
            Rule::Required(why) => with("Required value", why),
            Rule::Invalid(v, why) => with(&format!("Invalid value: {v}"), why),
            Rule::Unsupported(v, allowed) if allowed.is_empty() => {
                format!("Unsupported value: {v}")
            }
            Rule::Unsupported(v, allowed) => {
                format!("Unsupported value: {v}: supported values: {}", allowed.join(", "))
            }
            Rule::Duplicate(v) => format!("Duplicate value: {v}"),
            Rule::Forbidden(why) => with("Forbidden", why),
            Rule::TooLong(max) => format!("Too long: may not be more than {max} bytes"),
            Rule::TooMany(n, max) => {
                let s = if *max == 1 { "" } else { "s" };
                format!("Too many: {n}: must have at most {max} item{s}")
            }
            Rule::NotFound(v) => format!("Not found: {v}"),
            Rule::Type(v, why) => format!("Invalid value: {v}: {why}"),
        }
    }

    fn cause(&self) -> Cause {
        let reason = match self.rule {
            Rule::Required(_) => "FieldValueRequired",
            Rule::Invalid(..) => "FieldValueInvalid",
            Rule::Unsupported(..) => "FieldValueNotSupported",
            Rule::Duplicate(_) => "FieldValueDuplicate",
            Rule::Forbidden(_) => "FieldValueForbidden",
            Rule::TooLong(_) => "FieldValueTooLong",
            Rule::TooMany(..) => "FieldValueTooMany",
            Rule::NotFound(_) => "FieldValueNotFound",
            Rule::Type(..) => "FieldValueTypeInvalid",
        };
        Cause { reason: reason.to_owned(), message: self.body(), field: self.field.clone() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// A value as the reference server's `%v` and `%q` show it inside messages.
fn go(v: &Value) -> String {
    match v {
        Value::String(s) => format!("{s:?}"),
        Value::Null => "null".to_owned(),
        v => v.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: About<'_> = About { group: "", resource: "pods" };
    const DEPLOYMENTS: About<'_> = About { group: "apps", resource: "deployments" };

    #[test]
    fn faults_say_what_clients_match() {
        assert_eq!(
            Fault::not_found(PODS, "nope").to_value(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "pods \"nope\" not found", "reason": "NotFound",
                "details": {"name": "nope", "kind": "pods"}, "code": 404})
        );
        let text = Fault::already_exists(DEPLOYMENTS, "web").to_string();
        assert_eq!(text, "deployments.apps \"web\" already exists");
    }

    #[test]
    fn problems_become_one_sentence_and_many_causes() {
        let problems = [
            Problem::required("spec.containers[0].name", ""),
            Problem::unsupported("spec.restartPolicy", &json!("X"), &["Always", "Never"]),
        ];
        let f = Fault::invalid("", "Pod", "p", &problems);
        assert_eq!(
            f.message,
            "Pod \"p\" is invalid: [spec.containers[0].name: Required value, spec.restartPolicy: Unsupported value: \"X\": supported values: \"Always\", \"Never\"]"
        );
        assert_eq!(f.details.unwrap().causes[0].message, "Required value");
        let f = Fault::invalid(
            "meta.k8s.io",
            "ListOptions",
            "",
            &[Problem::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")],
        );
        assert_eq!(
            f.message,
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"
        );
    }
}
