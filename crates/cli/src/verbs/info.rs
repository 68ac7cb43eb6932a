//! `info`.

use serde_json::{Value, json};

use super::{Outcome, count, items, real, text};
use crate::app::{Call, say, say_line, warn};
use crate::failure::Failure;
use crate::out::table;
use crate::parse::size;

/// `info`
pub async fn info(call: Call) -> Outcome {
    let mut client = json!({"Debug": call.session.globals.on("debug")});
    if let Value::Object(own) = super::version::own(&call, None) {
        client.as_object_mut().into_iter().for_each(|c| c.extend(own.clone()));
    }
    client["Plugins"] = json!([]);
    client["Warnings"] = Value::Null;
    let server = call.client()?.get("/info").await;
    match call.given.text("format") {
        "" => plain(&client, &server),
        format => {
            let text = if format == "json" { "{{json .}}" } else { format };
            let template = table::parse(text).map_err(|f| f.with_status(64))?;
            let mut data = server.as_ref().cloned().unwrap_or_else(|_| json!({}));
            data["ClientInfo"] = client;
            if let Err(error) = &server {
                data["ServerErrors"] = json!([error.to_string()]);
            }
            say_line(template.execute(&data).map_err(table::parsing)?)?;
            server.map(drop).map_err(Failure::from)
        }
    }
}

fn plain(client: &Value, server: &Result<Value, crate::api::ApiError>) -> Outcome {
    let debug = client["Debug"].as_bool().unwrap_or(false);
    say(format!(
        "Client:\n Version:    {}\n Context:    {}\n Debug Mode: {debug}\n\nServer:\n",
        text(client, "Version"),
        text(client, "Context")
    ))?;
    match server {
        Ok(info) => {
            say(server_lines(info))?;
            for warning in items(&info["Warnings"]).iter().filter_map(Value::as_str) {
                warn(warning);
            }
            Ok(())
        }
        Err(error) => {
            warn(format!("ERROR: {error}"));
            Err("errors pretty printing info".into())
        }
    }
}

fn server_lines(info: &Value) -> String {
    let mut out = Lines { text: String::new(), info };
    for (label, name) in [
        (" Containers:", "Containers"),
        ("  Running:", "ContainersRunning"),
        ("  Paused:", "ContainersPaused"),
        ("  Stopped:", "ContainersStopped"),
        (" Images:", "Images"),
    ] {
        out.line(label, &count(&info[name]).to_string());
    }
    out.field(" Server Version:", "ServerVersion");
    out.field(" Storage Driver:", "Driver");
    for pair in items(&info["DriverStatus"]) {
        let part = |i: usize| pair[i].as_str().unwrap_or_default();
        out.line(&format!("  {}:", part(0)), part(1));
    }
    out.field(" Logging Driver:", "LoggingDriver");
    out.field(" Cgroup Driver:", "CgroupDriver");
    out.field(" Cgroup Version:", "CgroupVersion");
    out.text.push_str(" Plugins:\n");
    for kind in ["Volume", "Network", "Log"] {
        out.line(&format!("  {kind}:"), &words(&info["Plugins"][kind]));
    }
    out.listed(" CDI spec directories:", &info["CDISpecDirs"]);
    out.line(" Swarm:", text(&info["Swarm"], "LocalNodeState"));
    if let Some(runtimes) = info["Runtimes"].as_object().filter(|r| !r.is_empty()) {
        let names: Vec<&str> = runtimes.keys().map(String::as_str).collect();
        out.line(" Runtimes:", &names.join(" "));
        out.line(" Default Runtime:", text(info, "DefaultRuntime"));
    }
    out.line(" Init Binary:", text(info, "InitBinary"));
    for (label, name) in [
        (" containerd version:", "ContainerdCommit"),
        (" runc version:", "RuncCommit"),
        (" init version:", "InitCommit"),
    ] {
        out.line(label, text(&info[name], "ID"));
    }
    out.security();
    out.host();
    out.registries();
    out.text.push('\n');
    out.text
}

fn words(list: &Value) -> String {
    items(list).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

struct Lines<'a> {
    text: String,
    info: &'a Value,
}

impl Lines<'_> {
    fn line(&mut self, label: &str, value: &str) {
        self.text.push_str(&format!("{label} {value}\n"));
    }

    fn field(&mut self, label: &str, name: &str) {
        let value = text(self.info, name).to_owned();
        if !value.is_empty() {
            self.line(label, &value);
        }
    }

    fn bit(&mut self, label: &str, name: &str) {
        let value = self.info[name].as_bool().unwrap_or(false).to_string();
        self.line(label, &value);
    }

    fn security(&mut self) {
        let options = items(&self.info["SecurityOptions"]);
        if options.is_empty() {
            return;
        }
        self.text.push_str(" Security Options:\n");
        for option in options.iter().filter_map(Value::as_str) {
            for pair in option.split(',') {
                match pair.split_once('=') {
                    Some(("name", name)) => self.text.push_str(&format!("  {name}\n")),
                    Some(("profile", profile)) => self.line("   Profile:", profile),
                    _ => (),
                }
            }
        }
    }

    fn host(&mut self) {
        for (label, name) in [
            (" Kernel Version:", "KernelVersion"),
            (" Operating System:", "OperatingSystem"),
            (" OSType:", "OSType"),
            (" Architecture:", "Architecture"),
        ] {
            self.field(label, name);
        }
        self.line(" CPUs:", &count(&self.info["NCPU"]).to_string());
        self.line(" Total Memory:", &size::binary(real(&self.info["MemTotal"])));
        self.field(" Name:", "Name");
        self.field(" ID:", "ID");
        self.line(" Docker Root Dir:", text(self.info, "DockerRootDir"));
        self.bit(" Debug Mode:", "Debug");
        for (label, name) in [
            (" HTTP Proxy:", "HttpProxy"),
            (" HTTPS Proxy:", "HttpsProxy"),
            (" No Proxy:", "NoProxy"),
            (" Username:", "UserName"),
        ] {
            self.field(label, name);
        }
        self.listed(" Labels:", &self.info["Labels"]);
        self.bit(" Experimental:", "ExperimentalBuild");
    }

    fn listed(&mut self, title: &str, list: &Value) {
        let list: Vec<&str> = items(list).iter().filter_map(Value::as_str).collect();
        if !list.is_empty() {
            self.text.push_str(&format!("{title}\n  {}\n", list.join("\n  ")));
        }
    }

    fn registries(&mut self) {
        let registry = &self.info["RegistryConfig"];
        let indexes = registry["IndexConfigs"].as_object();
        let insecure: Vec<Value> = indexes
            .into_iter()
            .flatten()
            .filter(|(_, i)| i["Secure"] == false)
            .map(|(name, _)| name.as_str().into())
            .chain(items(&registry["InsecureRegistryCIDRs"]).iter().cloned())
            .collect();
        self.listed(" Insecure Registries:", &insecure.into());
        self.listed(" Registry Mirrors:", &registry["Mirrors"]);
        self.bit(" Live Restore Enabled:", "LiveRestoreEnabled");
        let pools = items(&self.info["DefaultAddressPools"]);
        if !pools.is_empty() {
            self.text.push_str(" Default Address Pools:\n");
        }
        for pool in pools {
            let line = format!("   Base: {}, Size: {}\n", text(pool, "Base"), count(&pool["Size"]));
            self.text.push_str(&line);
        }
    }
}
