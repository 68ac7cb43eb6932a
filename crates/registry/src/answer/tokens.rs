//! Our token server: passwords and refresh tokens in, tokens out.

use http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderValue};
use http::{Method, StatusCode};
use serde_json::json;

use super::{Answer, Call, Inner};
use crate::auth::{Auth, Issuer, LIFETIME, basic};
use crate::body::next;
use crate::fault::{Code, Fault};
use crate::query::Query;

/// Largest form.
const FORM_MAX: usize = 64 << 10;

impl Inner {
    /// `GET` with `Basic` (distribution's token specification) or `POST` with a form (OAuth2).
    pub(super) async fn token(&self, call: Call) -> Answer {
        let Auth::Token(issuer) = &self.settings.auth else {
            return Err(Fault::new(Code::NotFound, "page not found"));
        };
        let (user, offline) = match call.method {
            Method::POST => self.by_form(issuer, call).await?,
            _ => {
                let offline = call.query.get("offline_token") == Some("true");
                (by_header(issuer, &call).await?, offline)
            }
        };
        let now = self.now();
        let token = issuer.access(&user, now);
        // Without `issued_at` the client counts from when it got it, which is right.
        let mut answer = json!({ "token": token, "access_token": token, "expires_in": LIFETIME });
        if let Some(refresh) = issuer.refresh(&user, now).filter(|_| offline) {
            answer["refresh_token"] = json!(refresh);
        }
        let mut response = super::json(StatusCode::OK, &answer);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    async fn by_form(&self, issuer: &Issuer, mut call: Call) -> Result<(String, bool), Fault> {
        let bad =
            |text: &str| Fault::new(Code::Unsupported, text).with_status(StatusCode::BAD_REQUEST);
        let mut bytes = Vec::new();
        while let Some(block) = next(&mut call.body, self.settings.stall).await {
            let block = block.map_err(|_| bad("the form did not arrive whole"))?;
            if bytes.len() + block.len() > FORM_MAX {
                return Err(bad("the form is too large"));
            }
            bytes.extend_from_slice(&block);
        }
        let form = Query::parse(&String::from_utf8_lossy(&bytes));
        let text = |key: &'static str| form.get(key).unwrap_or_default().to_owned();
        match form.get("grant_type") {
            Some("password") => {
                let (user, password) = (text("username"), text("password"));
                check(issuer, &user, &password).await?;
                Ok((user, text("access_type") == "offline"))
            }
            Some("refresh_token") => {
                let user = issuer.redeem(&text("refresh_token"), self.now());
                let user = user.map_err(|why| Fault::new(Code::Unauthorized, why))?;
                Ok((user, true))
            }
            _ => Err(bad("grant_type must be password or refresh_token")),
        }
    }
}

/// Without credentials a client is anonymous, and gets a token that says so.
async fn by_header(issuer: &Issuer, call: &Call) -> Result<String, Fault> {
    let Some(value) = call.header(AUTHORIZATION) else { return Ok(String::new()) };
    let given = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
    let pair = given.and_then(|(_, value)| basic(value));
    let (user, password) = pair.ok_or_else(wrong)?;
    check(issuer, &user, &password).await?;
    Ok(user)
}

async fn check(issuer: &Issuer, user: &str, password: &str) -> Result<(), Fault> {
    let right = issuer.passwords.check(user, password).await?;
    if right && !user.is_empty() { Ok(()) } else { Err(wrong()) }
}

fn wrong() -> Fault {
    Fault::new(Code::Unauthorized, "user name or password is wrong")
}
