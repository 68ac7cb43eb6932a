//! `exec`.

use std::io::IsTerminal;

use serde_json::{Value, json};

use super::{Outcome, run, text};
use crate::api::{Payload, segment};
use crate::app::Call;
use crate::attach::{self, End, Streams, Window};
use crate::failure::Failure;
use crate::parse::files;

/// `exec CONTAINER COMMAND [ARG...]`
pub async fn exec(call: Call) -> Outcome {
    let given = &call.given;
    let (detached, tty) = (given.on("detach"), given.on("tty"));
    let stdin = given.on("interactive") && !detached;
    let lookup: files::Lookup = |name| std::env::var(name).ok();
    let env = files::read(given.all("env-file"), given.all("env"), lookup)?;
    let client = call.client()?;
    let path = format!("/containers/{}", segment(&call.args()[0]));
    if !detached && stdin && tty && !std::io::stdin().is_terminal() {
        // That there is no such container is the better message.
        client.get(&format!("{path}/json")).await?;
        attach::check_tty(stdin, tty)?;
    }
    let size = match wharf_sys::terminal::size(std::io::stdout()) {
        Some((rows, columns)) if tty => json!([rows, columns]),
        None if tty => json!([0, 0]),
        _ => Value::Null,
    };
    let keys = run::keys(&call);
    let body = json!({
        "User": given.text("user"), "Privileged": given.on("privileged"), "Tty": tty,
        "ConsoleSize": size, "AttachStdin": stdin, "AttachStderr": !detached,
        "AttachStdout": !detached, "DetachKeys": keys,
        "Env": if env.is_empty() { Value::Null } else { env.into() },
        "WorkingDir": given.text("workdir"), "Cmd": call.args()[1..],
    });
    let made = client.post(&format!("{path}/exec"), Payload::Json(body)).await?;
    let id = text(&made, "Id").to_owned();
    if id.is_empty() {
        return Err("exec ID empty".into());
    }
    let start = json!({"Detach": detached, "Tty": tty, "ConsoleSize": size});
    let start_path = format!("/exec/{id}/start");
    if detached {
        client.post(&start_path, Payload::Json(start)).await?;
        return Ok(());
    }
    let (connection, _) = client.hijack(&start_path, Some(start)).await?;
    let streams = Streams { stdin, stdout: true, stderr: true, tty, detach_keys: keys };
    let sized = tty && std::io::stdin().is_terminal();
    let follow = async {
        match sized {
            true => attach::follow_size(client, Window::Exec(&id)).await,
            false => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        end = attach::stream(connection, &streams) => end?,
        () = follow => End::Closed,
    };
    if end == End::Detached {
        return Err("exec attach failed: read escape sequence".into());
    }
    let done = client.get(&format!("/exec/{id}/json")).await?;
    match super::count(&done["ExitCode"]) {
        0 => Ok(()),
        status => Err(Failure::silent(u8::try_from(status & 0xff).unwrap_or(255))),
    }
}
