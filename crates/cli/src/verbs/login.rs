//! `login` and `logout`.

use std::io::{BufRead, IsTerminal, Read};

use serde_json::json;
use wharf_sys::terminal::NoEcho;

use super::{Outcome, text};
use crate::api::Payload;
use crate::app::{Call, say, say_line, warn};
use crate::conf::auth;
use crate::failure::Failure;

/// `login [SERVER]`
pub async fn login(call: Call) -> Outcome {
    let given = &call.given;
    let server = server_of(&call);
    let key = auth::key(&server).to_owned();
    let stored = auth::lookup(call.session.config(), &server)?;
    if !given.text("password").is_empty() && !given.on("password-stdin") {
        warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    let user = match given.text("username") {
        "" => ask_user(text(&stored, "username"))?,
        user => user.to_owned(),
    };
    let password = password(&call)?;
    let body = json!({"username": user, "password": password, "serveraddress": key});
    let answer = call.client()?.post("/auth", Payload::Json(body.clone())).await?;
    let mut entry = body;
    if !text(&answer, "IdentityToken").is_empty() {
        entry["identitytoken"] = answer["IdentityToken"].clone();
    }
    let config = call.session.config();
    if auth::store(config, &server, &entry)? {
        warn(format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n",
            config.dir.join("config.json").display()
        ));
    }
    match text(&answer, "Status") {
        "" => Ok(()),
        status => say_line(status),
    }
}

fn server_of(call: &Call) -> String {
    let name = call.args().first().map_or("", String::as_str);
    let bare =
        name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    bare.split('/').next().unwrap_or_default().to_owned()
}

fn password(call: &Call) -> Result<String, Failure> {
    let given = &call.given;
    let on_line = given.text("password");
    if given.on("password-stdin") {
        if !on_line.is_empty() {
            return Err("--password and --password-stdin are mutually exclusive".into());
        }
        if given.text("username").is_empty() {
            return Err("Must provide --username with --password-stdin".into());
        }
        let mut secret = String::new();
        std::io::stdin().lock().read_to_string(&mut secret)?;
        return Ok(secret.trim_end_matches('\n').trim_end_matches('\r').to_owned());
    }
    if !on_line.is_empty() {
        return Ok(on_line.to_owned());
    }
    if !std::io::stdin().is_terminal() {
        return Err("Error: Cannot perform an interactive login from a non TTY device".into());
    }
    say("Password: ")?;
    let secret = {
        let _silent = NoEcho::enter(std::io::stdin())?;
        read_line()?
    };
    say("\n")?;
    match secret.is_empty() {
        true => Err("Error: Password Required".into()),
        false => Ok(secret),
    }
}

fn ask_user(known: &str) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err("Error: Cannot perform an interactive login from a non TTY device".into());
    }
    match known {
        "" => say("Username: ")?,
        known => say(format!("Username ({known}): "))?,
    }
    match read_line()?.as_str() {
        "" if known.is_empty() => Err("Error: Non-null Username Required".into()),
        "" => Ok(known.to_owned()),
        user => Ok(user.to_owned()),
    }
}

fn read_line() -> Result<String, Failure> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// `logout [SERVER]`
pub async fn logout(call: Call) -> Outcome {
    let server = server_of(&call);
    let shown = auth::key(&server);
    auth::erase(call.session.config(), &server)?;
    say_line(format!("Removing login credentials for {shown}"))
}
