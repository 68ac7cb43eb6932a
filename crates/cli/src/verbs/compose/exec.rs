//! `exec` and `attach`.

use std::io::IsTerminal;

use serde_json::{Value, json};
use wharf_spec::compose::Env;

use super::{pick, project_or_name};
use crate::api::{Payload, segment};
use crate::app::Call;
use crate::attach::{self, End, Streams, Window};
use crate::verbs::{Outcome, run, text};

/// `compose exec SERVICE COMMAND [ARGS...]`
pub async fn exec(call: Call) -> Outcome {
    let given = &call.given;
    let (project, name) = project_or_name(&call)?;
    let engine = super::engine(&call)?;
    let container = pick(&engine, &name, &call.args()[0], given.int_or("index", 0)).await?;
    let around = project.map(|p| p.environment).unwrap_or_default();
    let detached = given.on("detach");
    let stdin = given.on_or("interactive", true) && !detached;
    let tty = !given.on("no-TTY") && std::io::stdout().is_terminal() && !detached;
    attach::check_tty(stdin, tty)?;
    let client = call.client()?;
    let keys = run::keys(&call);
    let size = match wharf_sys::terminal::size(std::io::stdout()) {
        Some((rows, columns)) if tty => json!([rows, columns]),
        _ => Value::Null,
    };
    let body = json!({
        "User": given.text("user"), "Privileged": given.on("privileged"), "Tty": tty,
        "ConsoleSize": size, "AttachStdin": stdin, "AttachStderr": !detached,
        "AttachStdout": !detached, "DetachKeys": keys, "Env": variables(given.all("env"), &around),
        "WorkingDir": given.text("workdir"), "Cmd": call.args()[1..],
    });
    let path = format!("/containers/{}/exec", segment(&container.id));
    let made = client.post(&path, Payload::Json(body)).await?;
    let id = text(&made, "Id").to_owned();
    let start = json!({"Detach": detached, "Tty": tty, "ConsoleSize": size});
    let start_path = format!("/exec/{id}/start");
    if detached {
        client.post(&start_path, Payload::Json(start)).await?;
        return Ok(());
    }
    let (connection, _) = client.hijack(&start_path, Some(start)).await?;
    let streams = Streams { stdin, stdout: true, stderr: true, tty, detach_keys: keys };
    let follow = async {
        match tty {
            true => attach::follow_size(client, Window::Exec(&id)).await,
            false => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        end = attach::stream(connection, &streams) => end?,
        () = follow => End::Closed,
    };
    if end == End::Detached {
        return Ok(());
    }
    let state = client.get(&format!("/exec/{id}/json")).await?;
    let status = state["ExitCode"].as_i64().unwrap_or(0);
    run::exit_with(u8::try_from(status & 0xff).unwrap_or(125))
}

/// `--env`: a name alone takes its value from here; one that has none here is left out.
fn variables(given: &[String], around: &Env) -> Vec<String> {
    let complete = |text: &String| {
        if text.contains('=') {
            return Some(text.clone());
        }
        let value = around.get(text).cloned().or_else(|| std::env::var(text).ok())?;
        Some(format!("{text}={value}"))
    };
    given.iter().filter_map(complete).collect()
}

/// `compose attach SERVICE`
pub async fn attach(call: Call) -> Outcome {
    let given = &call.given;
    let (_, name) = project_or_name(&call)?;
    let engine = super::engine(&call)?;
    let container = pick(&engine, &name, &call.args()[0], given.int_or("index", 0)).await?;
    let client = call.client()?;
    let inspected = client.get(&format!("/containers/{}/json", segment(&container.id))).await?;
    let tty = inspected["Config"]["Tty"].as_bool().unwrap_or(false);
    let open = inspected["Config"]["OpenStdin"].as_bool().unwrap_or(false);
    let streams = Streams {
        stdin: open && !given.on("no-stdin"),
        stdout: true,
        stderr: true,
        tty,
        detach_keys: run::keys(&call),
    };
    let path = run::attach_path(&container.id, &streams);
    let (connection, _) = client.hijack(&path, None).await?;
    let proxied = given.on_or("sig-proxy", true);
    let stream = attach::stream(connection, &streams);
    attach::forwarding(client, &container.id, proxied, stream).await.map(drop)
}
