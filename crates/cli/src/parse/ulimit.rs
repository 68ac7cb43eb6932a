//! `--ulimit type=soft[:hard]`.

use serde_json::{Value, json};

const NAMES: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// One limit as the API takes it.
pub fn parse(text: &str) -> Result<Value, String> {
    let (name, limits) =
        text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    if hard.contains(':') {
        return Err(format!(
            "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
        ));
    }
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 {
        if soft == -1 {
            return Err(format!(
                "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
            ));
        }
        if soft > hard {
            return Err(format!(
                "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
            ));
        }
    }
    Ok(json!({"Name": name, "Hard": hard, "Soft": soft}))
}

fn number(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| format!("strconv.ParseInt: parsing {}: invalid syntax", super::quote(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked() {
        assert_eq!(parse("nofile=10").unwrap(), json!({"Name": "nofile", "Hard": 10, "Soft": 10}));
        assert_eq!(parse("core=1:-1").unwrap(), json!({"Name": "core", "Hard": -1, "Soft": 1}));
        assert_eq!(parse("zz").unwrap_err(), "invalid ulimit argument: zz");
        assert_eq!(parse("zz=1").unwrap_err(), "invalid ulimit type: zz");
        assert!(parse("core=2:1").is_err());
        assert!(parse("core=1:2:3").is_err());
        assert!(parse("core=x").is_err());
    }
}
