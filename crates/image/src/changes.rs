//! `--change`: the Dockerfile instructions that import and commit accept.

use std::collections::BTreeMap;

use serde_json::json;
use wharf_spec::dockerfile::expand::Lexer;
use wharf_spec::image::{HealthCheck, RunConfig};

/// Why an instruction is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It does not belong in a change.
    #[error("{0} is not a valid change command")]
    Command(String),
    /// It needs arguments, or others.
    #[error("{command} {what}")]
    Arguments {
        /// The instruction.
        command: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// Applies `changes`, in order.
pub(crate) fn apply(config: &mut RunConfig, changes: &[String]) -> Result<(), ChangeError> {
    let lines = changes.iter().flat_map(|c| c.lines()).map(str::trim).filter(|l| !l.is_empty());
    for line in lines {
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        one(config, &command.to_ascii_uppercase(), rest.trim())?;
    }
    Ok(())
}

fn one(config: &mut RunConfig, command: &str, rest: &str) -> Result<(), ChangeError> {
    let wrong = |what| ChangeError::Arguments { command: command.to_owned(), what };
    if rest.is_empty() && !matches!(command, "CMD" | "ENTRYPOINT") {
        return if is_known(command) {
            Err(wrong("requires at least one argument"))
        } else {
            Err(ChangeError::Command(command.to_owned()))
        };
    }
    match command {
        "CMD" => config.cmd = Some(program(config, rest)),
        "ENTRYPOINT" => {
            config.entrypoint = Some(program(config, rest));
            // As in a Dockerfile: a CMD that came from below belongs to the old entrypoint.
            config.cmd = None;
        }
        "ENV" => {
            let pairs =
                pairs(rest, &config.env).ok_or_else(|| wrong("must have the form name=value"))?;
            for (key, value) in pairs {
                config.env.retain(|e| e.split('=').next() != Some(&key));
                config.env.push(format!("{key}={value}"));
            }
        }
        "LABEL" => {
            let pairs =
                pairs(rest, &config.env).ok_or_else(|| wrong("must have the form name=value"))?;
            config.labels.get_or_insert_default().extend(pairs);
        }
        "EXPOSE" => {
            let ports = words(rest, &config.env).ok_or_else(|| wrong("has a bad substitution"))?;
            for port in &ports {
                let port = expose(port).ok_or_else(|| wrong("needs ports such as 80 or 53/udp"))?;
                config.exposed_ports.get_or_insert_default().insert(port, json!({}));
            }
        }
        "VOLUME" => {
            let paths = exec_form(rest).or_else(|| words(rest, &config.env));
            let paths = paths.ok_or_else(|| wrong("has a bad substitution"))?;
            let volumes = config.volumes.get_or_insert_default();
            volumes.extend(paths.into_iter().map(|p| (p, json!({}))));
        }
        "USER" | "WORKDIR" | "STOPSIGNAL" => {
            let text = word(rest, &config.env).ok_or_else(|| wrong("has a bad substitution"))?;
            match command {
                "USER" => config.user = text,
                "WORKDIR" => config.working_dir = absolute(&config.working_dir, &text),
                _ => config.stop_signal = text,
            }
        }
        "ONBUILD" => config.on_build.get_or_insert_default().push(rest.to_owned()),
        "HEALTHCHECK" => {
            let check =
                health(rest).ok_or_else(|| wrong("must be NONE or [options] CMD command"))?;
            config.healthcheck = Some(check);
        }
        _ => return Err(ChangeError::Command(command.to_owned())),
    }
    Ok(())
}

fn is_known(command: &str) -> bool {
    matches!(
        command,
        "ENV"
            | "LABEL"
            | "EXPOSE"
            | "VOLUME"
            | "USER"
            | "WORKDIR"
            | "STOPSIGNAL"
            | "ONBUILD"
            | "HEALTHCHECK"
    )
}

fn program(config: &RunConfig, rest: &str) -> Vec<String> {
    if let Some(words) = exec_form(rest) {
        return words;
    }
    if rest.is_empty() {
        return Vec::new();
    }
    let default = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
    let mut shell = config.shell.clone().unwrap_or_else(default);
    shell.push(rest.to_owned());
    shell
}

fn exec_form(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// `a=b "c d"="e f"`, or the old form `name the rest`.
fn pairs(text: &str, env: &[String]) -> Option<Vec<(String, String)>> {
    let raw = Lexer::new('\\').split(text);
    if !raw.first()?.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(key.to_owned(), word(value.trim(), env)?)]);
    }
    let pair = |both: String| -> Option<(String, String)> {
        let both = word(&both, env)?;
        let (key, value) = both.split_once('=')?;
        (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
    };
    raw.into_iter().map(pair).collect()
}

/// Words apart by blanks outside quotes, with the variables of `env` in them.
fn words(text: &str, env: &[String]) -> Option<Vec<String>> {
    Lexer::new('\\').split(text).iter().map(|w| word(w, env)).collect()
}

fn word(text: &str, env: &[String]) -> Option<String> {
    let value = |name: &str| {
        let mut pairs = env.iter().filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    };
    Lexer::new('\\').word(text, &value).ok().map(|expanded| expanded.text)
}

fn absolute(base: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    format!("{}/{path}", base.trim_end_matches('/'))
}

/// `80` → `80/tcp`; a range stays one.
fn expose(text: &str) -> Option<String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number = |p: &str| p.parse::<u16>().is_ok();
    let fine = match ports.split_once('-') {
        Some((low, high)) => number(low) && number(high),
        None => number(ports),
    };
    let protocol = protocol.to_ascii_lowercase();
    (fine && matches!(protocol.as_str(), "tcp" | "udp" | "sctp"))
        .then(|| format!("{ports}/{protocol}"))
}

fn health(text: &str) -> Option<HealthCheck> {
    if text.eq_ignore_ascii_case("none") {
        return Some(HealthCheck { test: vec!["NONE".into()], ..HealthCheck::default() });
    }
    let mut check = HealthCheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace)?;
        let (key, value) = option.split_once('=')?;
        match key {
            "interval" => check.interval = duration(value)?,
            "timeout" => check.timeout = duration(value)?,
            "start-period" => check.start_period = duration(value)?,
            "start-interval" => check.start_interval = duration(value)?,
            "retries" => check.retries = value.parse().ok().filter(|n| *n > 0)?,
            _ => return None,
        }
        rest = after.trim_start();
    }
    let (cmd, command) = rest.split_once(char::is_whitespace)?;
    if !cmd.eq_ignore_ascii_case("cmd") {
        return None;
    }
    let command = command.trim();
    check.test = match exec_form(command) {
        Some(words) => [vec!["CMD".to_owned()], words].concat(),
        None => vec!["CMD-SHELL".into(), command.into()],
    };
    Some(check)
}

/// Go's durations: `1m30s`, in nanoseconds.
fn duration(text: &str) -> Option<i64> {
    let units: BTreeMap<&str, f64> = BTreeMap::from([
        ("ns", 1.0),
        ("us", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 60e9),
        ("h", 3600e9),
    ]);
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.');
        let end = unit_end.map_or(rest.len(), |n| digits + n);
        sum += rest[..digits].parse::<f64>().ok()? * units.get(&rest[digits..end])?;
        rest = &rest[end..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked against the range")]
    (sum > 0.0 && sum < 9.2e18).then_some(sum as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(changes: &[&str]) -> Result<RunConfig, ChangeError> {
        let mut config = RunConfig { env: vec!["PATH=/bin".into()], ..RunConfig::default() };
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        apply(&mut config, &changes).map(|()| config)
    }

    #[test]
    fn instructions_set_the_config() {
        let config = applied(&[
            "ENTRYPOINT [\"/e\"]",
            "cmd echo hi",
            "ENV A=1 B=\"two words\"",
            "ENV PATH /usr/bin:/bin",
            "EXPOSE 80 53/UDP",
            "LABEL a.b=c",
            "USER me",
            "WORKDIR /srv",
            "WORKDIR app",
            "VOLUME [\"/data\"]",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN x",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f /",
        ])
        .unwrap();
        assert_eq!(config.entrypoint.unwrap(), ["/e"]);
        assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "echo hi"]);
        assert_eq!(config.env, ["A=1", "B=two words", "PATH=/usr/bin:/bin"]);
        assert!(config.exposed_ports.unwrap().keys().eq(["53/udp", "80/tcp"]));
        assert_eq!(config.labels.unwrap()["a.b"], "c");
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("me", "/srv/app"));
        let health = config.healthcheck.unwrap();
        assert_eq!((health.interval, health.retries), (90_000_000_000, 2));
        assert_eq!(health.test, ["CMD-SHELL", "curl -f /"]);
    }

    #[test]
    fn variables_of_the_image_are_known() {
        let config = applied(&["ENV PATH=/usr/bin:$PATH Q='$PATH'", "WORKDIR ${PATH}/x"]).unwrap();
        assert_eq!(config.env, ["PATH=/usr/bin:/bin", "Q=$PATH"]);
        assert_eq!(config.working_dir, "/usr/bin:/bin/x");
    }

    #[test]
    fn what_does_not_belong_is_refused() {
        assert_eq!(applied(&["RUN x"]), Err(ChangeError::Command("RUN".into())));
        for bad in ["ENV", "ENV A", "EXPOSE x", "EXPOSE 70000", "HEALTHCHECK curl", "LABEL"] {
            assert!(matches!(applied(&[bad]), Err(ChangeError::Arguments { .. })), "{bad}");
        }
    }
}
