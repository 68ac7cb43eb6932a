//! The environment and the command line of a container's first process.

use wharf_spec::docker::ContainerConfig;

use crate::error::{EngineError, Result};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's environment: its defaults, each replaced or removed by what the container says.
pub fn environment(config: &ContainerConfig, hostname: &str, links: &[String]) -> Vec<String> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if config.tty {
        env.push("TERM=xterm".into());
    }
    env.extend_from_slice(links);
    merge(&mut env, config.env.as_deref().unwrap_or_default());
    env
}

/// Adds `HOME`, which depends on the user, unless it is set.
pub fn with_home(env: &mut Vec<String>, home: &str) {
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
}

/// Go's `ReplaceOrAppendEnvValues`: a name without `=` removes.
pub fn merge(env: &mut Vec<String>, over: &[String]) {
    for entry in over {
        let name = entry.split('=').next().unwrap_or_default();
        let same = |e: &String| e.split('=').next() == Some(name);
        match (entry.contains('='), env.iter().position(same)) {
            (true, Some(at)) => env[at].clone_from(entry),
            (true, None) => env.push(entry.clone()),
            (false, Some(at)) => _ = env.remove(at),
            (false, None) => (),
        }
    }
}

/// Entrypoint and command in one.
pub fn arguments(config: &ContainerConfig) -> Result<Vec<String>> {
    let part = |p: &Option<wharf_spec::docker::StrList>| {
        p.as_ref().map(|l| l.0.clone()).unwrap_or_default()
    };
    let mut args = part(&config.entrypoint);
    args.extend(part(&config.cmd));
    match args.first().map(String::as_str) {
        None | Some("") => Err(EngineError::invalid("no command specified")),
        Some(_) => match args.iter().chain(config.env.iter().flatten()).any(|a| a.contains('\0')) {
            true => Err(EngineError::invalid("command and environment must not contain NUL bytes")),
            false => Ok(args),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_values_replace_defaults_in_place() {
        let config = ContainerConfig {
            env: Some(vec!["PATH=/x".into(), "A=1".into(), "HOSTNAME".into(), "A=2".into()]),
            tty: true,
            ..ContainerConfig::default()
        };
        let mut env = environment(&config, "h", &["L=1".into()]);
        with_home(&mut env, "/root");
        assert_eq!(env, ["PATH=/x", "TERM=xterm", "L=1", "A=2", "HOME=/root"]);
    }

    #[test]
    fn a_command_is_needed() {
        let mut config = ContainerConfig::default();
        assert_eq!(arguments(&config).unwrap_err().message(), "no command specified");
        config.entrypoint = Some(wharf_spec::docker::StrList(vec!["a".into()]));
        config.cmd = Some(wharf_spec::docker::StrList(vec!["b".into()]));
        assert_eq!(arguments(&config).unwrap(), ["a", "b"]);
        config.env = Some(vec!["X=\0".into()]);
        assert!(arguments(&config).is_err());
    }
}
