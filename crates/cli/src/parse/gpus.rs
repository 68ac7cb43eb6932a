//! `--gpus all`, `--gpus 2`, `--gpus '"device=0,1"'`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// One device request as the API takes it.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut seen = BTreeSet::new();
    let (mut driver, mut count, mut ids) = (String::new(), 0, Value::Null);
    let (mut capabilities, mut options) = (json!([["gpu"]]), json!({}));
    for field in super::csv(text)? {
        let (key, value) =
            field.split_once('=').map_or((field.as_str(), None), |(k, v)| (k, Some(v)));
        if !seen.insert(key.to_owned()) {
            return Err(format!("gpu request key '{key}' can be specified only once"));
        }
        let Some(value) = value else {
            seen.insert("count".to_owned());
            count = parse_count(key)?;
            continue;
        };
        match key {
            "driver" => value.clone_into(&mut driver),
            "count" => count = parse_count(value)?,
            "device" => ids = value.split(',').collect(),
            "capabilities" => {
                let mut list: Vec<&str> = value.split(',').collect();
                list.push("gpu");
                capabilities = json!([list]);
            }
            "options" => {
                let fields =
                    super::csv(value).map_err(|e| format!("failed to read gpu options: {e}"))?;
                options = super::pairs(&fields).into();
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if !seen.contains("count") && ids.is_null() {
        count = 1;
    }
    Ok(json!({
        "Driver": driver, "Count": count, "DeviceIDs": ids,
        "Capabilities": capabilities, "Options": options,
    }))
}

fn parse_count(text: &str) -> Result<i64, String> {
    if text == "all" {
        return Ok(-1);
    }
    text.parse().map_err(|_| {
        format!(
            "invalid count ({text}): value must be either \"all\" or an integer: invalid syntax"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        assert_eq!(parse("all").unwrap()["Count"], -1);
        assert_eq!(parse("2").unwrap()["Count"], 2);
        assert_eq!(parse("\"device=0,1\"").unwrap()["DeviceIDs"], json!(["0", "1"]));
        assert_eq!(parse("driver=nvidia").unwrap()["Count"], 1);
        assert_eq!(parse("zz=1").unwrap_err(), "unexpected key 'zz' in 'zz=1'");
        assert!(parse("x").unwrap_err().starts_with("invalid count (x)"));
    }
}
