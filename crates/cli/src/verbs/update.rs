//! `update`.

use serde_json::{Value, json};

use super::{Outcome, items};
use crate::api::{Payload, segment};
use crate::app::{Call, say_line, warn};
use crate::failure::Failure;
use crate::parse::size;

/// `update CONTAINER...`
pub async fn update(call: Call) -> Outcome {
    let body = body(&call)?;
    let client = call.client()?;
    let (mut failures, mut warnings) = (Vec::new(), Vec::new());
    for name in call.args() {
        let path = format!("/containers/{}/update", segment(name));
        match client.post(&path, Payload::Json(body.clone())).await {
            Ok(answer) => {
                say_line(name)?;
                let said = items(&answer["Warnings"]).iter().filter_map(Value::as_str);
                warnings.extend(said.map(str::to_owned));
            }
            Err(error) => failures.push(error.into()),
        }
    }
    if !warnings.is_empty() {
        warn(warnings.join("\n"));
    }
    Failure::join(failures)
}

fn body(call: &Call) -> Result<Value, Failure> {
    let given = &call.given;
    if call.verb.sorted_flags().iter().all(|f| !given.changed(f.long)) {
        return Err("you must provide one or more flags when using this command".into());
    }
    let policy = match given.last("restart") {
        Some(text) => super::create_options::restart_policy(text)?,
        None => json!({"Name": "", "MaximumRetryCount": 0}),
    };
    let mut body = json!({
        "BlkioWeight": given.int_or("blkio-weight", 0),
        "CpusetCpus": given.text("cpuset-cpus"),
        "CpusetMems": given.text("cpuset-mems"),
        "CpuShares": given.int_or("cpu-shares", 0),
        "Memory": given.bytes("memory"),
        "MemoryReservation": given.bytes("memory-reservation"),
        "MemorySwap": given.bytes("memory-swap"),
        "CpuPeriod": given.int_or("cpu-period", 0),
        "CpuQuota": given.int_or("cpu-quota", 0),
        "CpuRealtimePeriod": given.int_or("cpu-rt-period", 0),
        "CpuRealtimeRuntime": given.int_or("cpu-rt-runtime", 0),
        "NanoCpus": given.last("cpus").map_or(Ok(0), size::cpus)?,
        "RestartPolicy": policy,
    });
    if given.changed("pids-limit") {
        body["PidsLimit"] = given.int_or("pids-limit", 0).into();
    }
    if given.changed("kernel-memory") {
        body["KernelMemory"] = given.bytes("kernel-memory").into();
    }
    Ok(body)
}
