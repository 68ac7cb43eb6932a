//! `--mount type=bind,source=…,target=…`.

use serde_json::{Map, Value, json};

use super::{boolean, csv, size};

/// One mount as the API takes it.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut mount = Mount { kind: "volume".to_owned(), ..Mount::default() };
    for field in csv(text)? {
        mount.set(&field)?;
    }
    mount.check()?;
    Ok(mount.into_json())
}

#[derive(Default)]
struct Mount {
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    consistency: String,
    bind: Option<Map<String, Value>>,
    volume: Option<Volume>,
    image: Option<Map<String, Value>>,
    tmpfs: Option<Map<String, Value>>,
}

#[derive(Default)]
struct Volume {
    no_copy: bool,
    subpath: String,
    labels: Map<String, Value>,
    driver: String,
    options: Map<String, Value>,
}

impl Mount {
    fn set(&mut self, field: &str) -> Result<(), String> {
        let Some((key, value)) = field.split_once('=') else {
            return self.set_word(field);
        };
        let key = key.to_ascii_lowercase();
        let invalid = || format!("invalid value for {key}: {value}");
        match key.as_str() {
            "type" => self.kind = value.to_ascii_lowercase(),
            "source" | "src" if value.starts_with('.') => self.source = super::absolute(value),
            "source" | "src" => value.clone_into(&mut self.source),
            "target" | "dst" | "destination" => value.clone_into(&mut self.target),
            "readonly" | "ro" => self.read_only = boolean(value).ok_or_else(invalid)?,
            "consistency" => self.consistency = value.to_ascii_lowercase(),
            key if key.starts_with("bind-") => self.set_bind(key, value, field)?,
            key if key.starts_with("volume-") => self.set_volume(key, value, field)?,
            "image-subpath" => {
                self.image.get_or_insert_default().insert("Subpath".into(), value.into());
            }
            "tmpfs-size" => {
                let bytes = size::memory(value).map_err(|_| invalid())?;
                self.tmpfs.get_or_insert_default().insert("SizeBytes".into(), bytes.into());
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).map_err(|_| invalid())?;
                self.tmpfs.get_or_insert_default().insert("Mode".into(), mode.into());
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
        Ok(())
    }

    fn set_word(&mut self, field: &str) -> Result<(), String> {
        match field.to_ascii_lowercase().as_str() {
            "readonly" | "ro" => self.read_only = true,
            "volume-nocopy" => self.volume.get_or_insert_default().no_copy = true,
            "bind-nonrecursive" => {
                self.bind.get_or_insert_default().insert("NonRecursive".into(), true.into());
            }
            _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
        }
        Ok(())
    }

    fn set_bind(&mut self, key: &str, value: &str, field: &str) -> Result<(), String> {
        let invalid = || format!("invalid value for {key}: {value}");
        let (name, value) = match (key, value) {
            ("bind-propagation", value) => ("Propagation", Value::from(value.to_ascii_lowercase())),
            ("bind-nonrecursive", value) => {
                ("NonRecursive", boolean(value).ok_or_else(invalid)?.into())
            }
            ("bind-recursive", "enabled") => return Ok(()),
            ("bind-recursive", "disabled") => ("NonRecursive", true.into()),
            ("bind-recursive", "writable") => ("ReadOnlyNonRecursive", true.into()),
            ("bind-recursive", "readonly") => ("ReadOnlyForceRecursive", true.into()),
            ("bind-recursive", _) => {
                return Err(format!(
                    "invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                ));
            }
            ("bind-create-src", value) => {
                ("CreateMountpoint", boolean(value).ok_or_else(invalid)?.into())
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        };
        self.bind.get_or_insert_default().insert(name.to_owned(), value);
        Ok(())
    }

    fn set_volume(&mut self, key: &str, value: &str, field: &str) -> Result<(), String> {
        let pair = || {
            let (k, v) = value.split_once('=').unwrap_or((value, ""));
            (!k.is_empty()).then(|| (k.to_owned(), Value::from(v)))
        };
        let volume = self.volume.get_or_insert_default();
        match key {
            "volume-subpath" => value.clone_into(&mut volume.subpath),
            "volume-nocopy" => {
                volume.no_copy = boolean(value)
                    .ok_or_else(|| format!("invalid value for volume-nocopy: {value}"))?;
            }
            "volume-label" => volume.labels.extend(pair()),
            "volume-driver" => value.clone_into(&mut volume.driver),
            "volume-opt" => volume.options.extend(pair()),
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if self.kind.is_empty() {
            return Err("type is required".to_owned());
        }
        if self.target.is_empty() {
            return Err("target is required".to_owned());
        }
        for (given, kind) in [
            (self.volume.is_some(), "volume"),
            (self.image.is_some(), "image"),
            (self.bind.is_some(), "bind"),
            (self.tmpfs.is_some(), "tmpfs"),
        ] {
            if given && self.kind != kind {
                return Err(format!(
                    "cannot mix '{kind}-*' options with mount type '{}'",
                    self.kind
                ));
            }
        }
        let bind = |key: &str| self.bind.as_ref().and_then(|b| b.get(key));
        let needs = |option: &str, what: &str| {
            Err(format!(
                "option 'bind-recursive={option}' requires '{what}' to be specified in conjunction"
            ))
        };
        if bind("ReadOnlyNonRecursive").is_some() && !self.read_only {
            return needs("writable", "readonly");
        }
        if bind("ReadOnlyForceRecursive").is_some() {
            if !self.read_only {
                return needs("readonly", "readonly");
            }
            if bind("Propagation").and_then(Value::as_str) != Some("rprivate") {
                return needs("readonly", "bind-propagation=rprivate");
            }
        }
        Ok(())
    }

    fn into_json(self) -> Value {
        let mut out = Map::new();
        out.insert("Type".into(), self.kind.into());
        if !self.source.is_empty() {
            out.insert("Source".into(), self.source.into());
        }
        out.insert("Target".into(), self.target.into());
        if self.read_only {
            out.insert("ReadOnly".into(), true.into());
        }
        if !self.consistency.is_empty() {
            out.insert("Consistency".into(), self.consistency.into());
        }
        for (name, options) in [
            ("BindOptions", self.bind),
            ("VolumeOptions", self.volume.map(Volume::into_json)),
            ("ImageOptions", self.image),
            ("TmpfsOptions", self.tmpfs),
        ] {
            if let Some(options) = options {
                out.insert(name.into(), options.into());
            }
        }
        out.into()
    }
}

impl Volume {
    fn into_json(self) -> Map<String, Value> {
        let mut out = Map::new();
        if self.no_copy {
            out.insert("NoCopy".into(), true.into());
        }
        if !self.labels.is_empty() {
            out.insert("Labels".into(), self.labels.into());
        }
        if !self.subpath.is_empty() {
            out.insert("Subpath".into(), self.subpath.into());
        }
        let mut driver = Map::new();
        if !self.driver.is_empty() {
            driver.insert("Name".into(), json!(self.driver));
        }
        if !self.options.is_empty() {
            driver.insert("Options".into(), self.options.into());
        }
        out.insert("DriverConfig".into(), driver.into());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_become_api_objects() {
        let check = |text: &str, want: Value| assert_eq!(parse(text).unwrap(), want, "{text}");
        check(
            "type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave",
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true,
                   "BindOptions": {"Propagation": "rslave"}}),
        );
        check("dst=/v", json!({"Type": "volume", "Target": "/v"}));
        check(
            "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770",
            json!({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1_048_576, "Mode": 0o1770}}),
        );
        check(
            "src=v,dst=/v,volume-opt=type=nfs,volume-driver=local",
            json!({"Type": "volume", "Source": "v", "Target": "/v",
                   "VolumeOptions": {"DriverConfig": {"Name": "local", "Options": {"type": "nfs"}}}}),
        );
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, want: &str| assert_eq!(parse(text).unwrap_err(), want, "{text}");
        check("zz", "invalid field 'zz' must be a key=value pair");
        check("type=bind", "target is required");
        check("type=bind,dst=/a,foo=1", "unexpected key 'foo' in 'foo=1'");
        check(
            "type=bind,dst=/a,tmpfs-size=1",
            "cannot mix 'tmpfs-*' options with mount type 'bind'",
        );
        check(
            "type=bind,dst=/a,bind-recursive=writable",
            "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction",
        );
    }
}
