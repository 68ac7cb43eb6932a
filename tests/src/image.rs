//! Fixture images, made without any image tool: busybox, and any folder.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// An image in memory: one uncompressed layer and a configuration.
pub struct Image {
    /// `name:tag`.
    pub name: String,
    layer: Vec<u8>,
    config: Vec<u8>,
}

impl Image {
    /// An image of `layer` whose configuration has `config` as its `config` member.
    pub fn new(name: &str, layer: Vec<u8>, config: &Value) -> Image {
        let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        let config = json!({
            "created": "2024-01-02T03:04:05Z",
            "architecture": arch,
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
            "history": [{ "created": "2024-01-02T03:04:05Z", "created_by": "wharf test fixture" }],
        });
        Image { name: name.to_owned(), layer, config: serde_json::to_vec(&config).unwrap() }
    }

    /// The image id that engines with Docker's classic store show.
    pub fn id(&self) -> String {
        digest(&self.config)
    }

    /// The manifest's bytes.
    pub fn manifest(&self) -> Vec<u8> {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &self.config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &self.layer)],
        });
        serde_json::to_vec(&manifest).unwrap()
    }

    /// What a registry or a layout stores: digest and bytes of manifest, configuration and layer.
    pub fn blobs(&self) -> Vec<(String, Vec<u8>)> {
        [self.manifest(), self.config.clone(), self.layer.clone()]
            .into_iter()
            .map(|b| (digest(&b), b))
            .collect()
    }

    /// The image as `docker save` of old wrote it.
    pub fn docker_archive(&self) -> Vec<u8> {
        let config = format!("{}.json", self.id().trim_start_matches("sha256:"));
        let manifest =
            json!([{ "Config": config, "RepoTags": [self.name], "Layers": ["layer.tar"] }]);
        let mut tar = Tar::default();
        tar.file(&config, 0o644, &self.config);
        tar.file("layer.tar", 0o644, &self.layer);
        tar.file("manifest.json", 0o644, &serde_json::to_vec(&manifest).unwrap());
        tar.finish()
    }

    /// The image as an OCI image layout in a tar.
    pub fn oci_archive(&self) -> Vec<u8> {
        let manifest = self.manifest();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({
            "io.containerd.image.name": format!("docker.io/library/{}", self.name),
            "org.opencontainers.image.ref.name": self.name.rsplit(':').next().unwrap(),
        });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        let mut tar = Tar::default();
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        tar.file("index.json", 0o644, &serde_json::to_vec(&index).unwrap());
        tar.dir("blobs", 0o755);
        tar.dir("blobs/sha256", 0o755);
        for (digest, blob) in self.blobs() {
            tar.file(&digest.replace("sha256:", "blobs/sha256/"), 0o644, &blob);
        }
        tar.finish()
    }
}

/// `busybox:latest`: Debian's static busybox with a link for each of its commands.
pub fn busybox() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Image::new("busybox:latest", busybox_layer(), &json!({ "Cmd": ["sh"], "Env": [path] }))
    })
}

/// An image on busybox's files with a configuration of its own.
pub fn on_busybox(name: &str, config: &Value) -> Image {
    let mut all = json!({ "Cmd": ["sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    Image::new(name, busybox_layer(), &all)
}

/// `nginx:latest`: Debian's nginx, with the configuration that the well-known image has.
pub fn nginx() -> Image {
    let root = crate::tools::path("nginx");
    let config = json!({
        "Entrypoint": ["nginx"],
        "Cmd": ["-g", "daemon off;"],
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "ExposedPorts": { "80/tcp": {} },
        "StopSignal": "SIGQUIT",
    });
    Image::new("nginx:latest", folder_layer(&root), &config)
}

/// A layer of everything under `root`, owned by root.
pub fn folder_layer(root: &Path) -> Vec<u8> {
    let out = Command::new("tar")
        .args(["-c", "--numeric-owner", "--owner=0", "--group=0", "--sort=name", "-C"])
        .arg(root)
        .arg(".")
        .output()
        .expect("start tar");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// Bytes in tar's format.
#[derive(Default)]
pub struct Tar {
    entries: Vec<(tar::Header, Vec<u8>)>,
}

impl Tar {
    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.add(path, tar::EntryType::Regular, mode, content, None);
    }

    /// Adds a directory.
    pub fn dir(&mut self, path: &str, mode: u32) {
        self.add(path, tar::EntryType::Directory, mode, &[], None);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, to: &str) {
        self.add(path, tar::EntryType::Symlink, 0o777, &[], Some(to));
    }

    /// Adds a hard link.
    pub fn hardlink(&mut self, path: &str, to: &str) {
        self.add(path, tar::EntryType::Link, 0o644, &[], Some(to));
    }

    /// The whole archive.
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::new();
        for (header, content) in self.entries {
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(&content);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }

    /// Writes the name as it is: fixtures for hostile archives need names that a polite writer refuses.
    fn add(
        &mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        content: &[u8],
        to: Option<&str>,
    ) {
        let mut header = tar::Header::new_gnu();
        put(&mut header.as_gnu_mut().unwrap().name, path);
        if let Some(to) = to {
            put(&mut header.as_gnu_mut().unwrap().linkname, to);
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.entries.push((header, content.to_vec()));
    }
}

/// `sha256:…` of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(blob), "size": blob.len() })
}

fn put(mut field: &mut [u8], text: &str) {
    field.write_all(text.as_bytes()).expect("the name fits into a tar header");
}

/// The files of `busybox:latest`, as a tar.
pub fn busybox_layer() -> Vec<u8> {
    let busybox = crate::tools::path("busybox");
    let list = Command::new(&busybox).arg("--list").output().expect("run busybox");
    let mut tar = Tar::default();
    for dir in ["bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "var"] {
        tar.dir(dir, 0o755);
    }
    tar.dir("tmp", 0o1777);
    tar.file("bin/busybox", 0o755, &fs::read(&busybox).unwrap());
    for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|a| *a != "busybox") {
        tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/usr/sbin:/bin/false\n\
                  alice:x:1000:1000::/home/alice:/bin/sh\n";
    tar.file("etc/passwd", 0o644, passwd.as_bytes());
    tar.file("etc/group", 0o644, b"root:x:0:\ndaemon:x:1:\nalice:x:1000:\nstaff:x:50:alice\n");
    tar.finish()
}
