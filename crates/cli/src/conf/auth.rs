//! Credentials for registries: in `config.json`, or kept by a helper program.

use std::io::Write;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};

use super::Config;
use crate::failure::Failure;

/// Docker Hub's name in the credential store.
pub const HUB: &str = "https://index.docker.io/v1/";

/// The key under which a registry's credentials are kept.
pub fn key(registry: &str) -> &str {
    match registry {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB,
        other => other,
    }
}

/// Credentials as the API takes them; an empty object when there are none.
pub fn lookup(config: &Config, registry: &str) -> Result<Value, Failure> {
    let key = key(registry);
    if let Some(helper) = helper_for(config, key) {
        return ask(&helper, key);
    }
    let auths = &config.json["auths"];
    let entry = match &auths[key] {
        Value::Null => &auths[&format!("https://{key}")],
        entry => entry,
    };
    let mut found = json!({"serveraddress": key});
    if let Some(auth) = entry["auth"].as_str() {
        let decoded = STANDARD.decode(auth).ok().and_then(|b| String::from_utf8(b).ok());
        let Some((user, password)) = decoded.as_deref().and_then(|d| d.split_once(':')) else {
            let path = config.dir.join("config.json");
            return Err(Failure::new(format!(
                "{}: the entry for {key} is damaged",
                path.display()
            )));
        };
        found["username"] = user.into();
        found["password"] = password.trim_matches('\0').into();
    }
    for name in ["identitytoken", "registrytoken"] {
        if let Some(token) = entry[name].as_str() {
            found[name] = token.into();
        }
    }
    let empty = found.as_object().is_some_and(|o| o.len() == 1);
    Ok(if empty { json!({}) } else { found })
}

/// The `X-Registry-Auth` header for a registry.
pub fn header(config: &Config, registry: &str) -> Result<String, Failure> {
    Ok(URL_SAFE.encode(lookup(config, registry)?.to_string()))
}

/// Stores credentials; says whether they lie unencrypted in the file.
pub fn store(config: &Config, registry: &str, auth: &Value) -> Result<bool, Failure> {
    let key = key(registry);
    let text = |name: &str| auth[name].as_str().unwrap_or_default();
    if let Some(helper) = helper_for(config, key) {
        let (user, secret) = match text("identitytoken") {
            "" => (text("username"), text("password")),
            token => ("<token>", token),
        };
        let entry = json!({"ServerURL": key, "Username": user, "Secret": secret});
        run(&helper, "store", entry.to_string().as_bytes())?;
        config.save(|map| {
            put(map, key, json!({}));
        })?;
        return Ok(false);
    }
    let pair = match text("identitytoken") {
        "" => format!("{}:{}", text("username"), text("password")),
        _ => format!("{}:", text("username")),
    };
    let mut entry = json!({"auth": STANDARD.encode(pair)});
    if !text("identitytoken").is_empty() {
        entry["identitytoken"] = text("identitytoken").into();
    }
    config.save(|map| put(map, key, entry))?;
    Ok(true)
}

fn put(map: &mut serde_json::Map<String, Value>, key: &str, entry: Value) {
    let auths = map.entry("auths").or_insert_with(|| json!({}));
    auths[key] = entry;
}

/// Forgets credentials, if there are any.
pub fn erase(config: &Config, registry: &str) -> Result<(), Failure> {
    let key = key(registry);
    let known = config.json["auths"].get(key).is_some();
    if known && let Some(helper) = helper_for(config, key) {
        run(&helper, "erase", key.as_bytes())?;
    }
    config.save(|map| {
        if let Some(auths) = map.get_mut("auths").and_then(Value::as_object_mut) {
            auths.remove(key);
        }
    })
}

fn helper_for(config: &Config, key: &str) -> Option<String> {
    let named = config.json["credHelpers"][key].as_str().filter(|h| !h.is_empty());
    named.or_else(|| Some(config.text("credsStore")).filter(|h| !h.is_empty())).map(str::to_owned)
}

fn ask(helper: &str, key: &str) -> Result<Value, Failure> {
    let answer = match run(helper, "get", key.as_bytes()) {
        Ok(answer) => answer,
        Err(failure) if failure.text.contains("credentials not found") => return Ok(json!({})),
        Err(failure) => return Err(failure),
    };
    let answer: Value = serde_json::from_slice(&answer)
        .map_err(|e| Failure::new(format!("docker-credential-{helper} answered no JSON: {e}")))?;
    let (user, secret) = (&answer["Username"], &answer["Secret"]);
    Ok(match user.as_str() {
        Some("<token>") => json!({"serveraddress": key, "identitytoken": secret}),
        _ => json!({"serveraddress": key, "username": user, "password": secret}),
    })
}

/// Runs a credential helper. They are programs of the user's, found by name, as docker finds them.
#[expect(clippy::disallowed_methods, reason = "a helper wants the user's own environment")]
fn run(helper: &str, verb: &str, input: &[u8]) -> Result<Vec<u8>, Failure> {
    let name = format!("docker-credential-{helper}");
    let failed = |e: std::io::Error| {
        Failure::new(format!("error getting credentials: cannot run {name}: {e}"))
    };
    let mut child = std::process::Command::new(&name)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    Err(Failure::new(format!("error getting credentials: {name} {verb}: {}", said.trim())))
}
