//! Debian packages as folders: unpacked under `target/tools`, never installed on the machine.
//!
//! apt resolves and downloads into state of its own, with the mirror, proxy and keys that the
//! machine's apt is configured for. No maintainer script runs and no service is started. Each
//! folder holds a package together with everything it depends on, libc included, so its programs
//! run by its own loader or in a chroot whatever the host's release.

use crate::sh::{cmd, read, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where packages come from.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Suite {
    /// The release that the machine runs.
    Configured,
    /// Debian's newest, from the mirror that the machine uses.
    Newest,
    /// A release by its code name, from the same mirror.
    Named(&'static str),
}

impl Suite {
    /// The name under which the mirror has it, where that is not the machine's own release.
    fn release(self) -> Option<&'static str> {
        match self {
            Suite::Configured => None,
            Suite::Newest => Some("sid"),
            Suite::Named(name) => Some(name),
        }
    }
}

/// apt with state of its own.
pub(crate) struct Apt {
    dir: PathBuf,
    suite: Suite,
}

impl Apt {
    /// Reads the package lists of `suite` into `cache`.
    pub(crate) fn open(cache: &Path, suite: Suite) -> Result<Apt> {
        let name = match suite {
            Suite::Configured => "configured",
            Suite::Newest => "newest",
            Suite::Named(name) => name,
        };
        let apt = Apt { dir: cache.join(format!("apt-{name}")), suite };
        for sub in ["lists/partial", "archives/partial", "none/partial", "sources"] {
            fs::create_dir_all(apt.dir.join(sub))?;
        }
        if let Some(release) = suite.release() {
            let sources = apt.dir.join(format!("sources/{name}.sources"));
            fs::write(&sources, source(release)?)
                .with_context(|| format!("write {}", sources.display()))?;
        }
        read(apt.get().arg("update"))?;
        Ok(apt)
    }

    /// Downloads `packages` with all they depend on, as if nothing were installed.
    fn download(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let install = ["install", "--yes", "--no-install-recommends"];
        // apt leaves out what it has downloaded before, so the plan is asked with no downloads.
        let none = format!("Dir::Cache::archives={}/none", self.dir.display());
        let plan = ["-o", &none, "--print-uris"];
        let plan = read(self.get().args(install).args(plan).args(packages))?;
        // Lines read: 'URI' FILE SIZE HASH
        let files: Vec<PathBuf> = plan
            .lines()
            .filter(|l| l.starts_with('\''))
            .filter_map(|l| l.split(' ').nth(1))
            .map(|file| self.dir.join("archives").join(file))
            .collect();
        read(self.get().args(install).arg("--download-only").args(packages))?;
        if let Some(lost) = files.iter().find(|f| !f.exists()) {
            bail!("apt did not leave {}", lost.display());
        }
        Ok(files)
    }

    fn get(&self) -> Command {
        let mut c = cmd("apt-get");
        let dir = self.dir.display();
        c.arg("--quiet=2").env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        for option in [
            format!("Dir::State={dir}"),
            format!("Dir::State::lists={dir}/lists"),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={dir}"),
            format!("Dir::Cache::archives={dir}/archives"),
            "Debug::NoLocking=true".to_owned(),
            // The downloads belong to us; apt's own user may not reach this folder.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=3".to_owned(),
        ] {
            c.arg("-o").arg(option);
        }
        if self.suite.release().is_some() {
            c.args(["-o", "Dir::Etc::sourcelist=/dev/null"]);
            c.arg("-o").arg(format!("Dir::Etc::sourceparts={dir}/sources"));
        }
        c
    }
}

/// Unpacks `packages` and what they depend on into `cache/name`, unless the folder already has them.
/// `keep` says which of the downloaded files to unpack.
pub(crate) fn folder(
    cache: &Path,
    name: &str,
    suite: Suite,
    packages: &[&str],
    keep: impl Fn(&str) -> bool,
) -> Result<PathBuf> {
    let root = cache.join(name);
    let stamp = cache.join(format!("{name}.packages"));
    let wanted = packages.join(" ");
    if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(root);
    }
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    }
    println!("  unpacking {wanted} into {name}");
    let files = Apt::open(cache, suite)?.download(packages)?;
    skeleton(&root)?;
    for file in files.iter().filter(|f| keep(&f.file_name().unwrap_or_default().to_string_lossy()))
    {
        unpack(file, &root)?;
    }
    alternatives(&root)?;
    fs::write(&stamp, wanted)?;
    Ok(root)
}

/// A source entry for another release, from the mirror that serves this one.
fn source(wanted: &str) -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no VERSION_CODENAME; the tests need Debian")?
        .trim_matches('"');
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
    let targets = read(cmd("apt-get").args(["indextargets", "--format", format]))?;
    let mirror = targets
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .find(|f| f.len() == 3 && f[1] == codename && f[2] == "main")
        .map(|f| f[0].to_owned())
        .with_context(|| format!("apt has no source for Debian {codename} main"))?;
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    Ok(format!(
        "Types: deb\nURIs: {mirror}\nSuites: {wanted}\nComponents: main\nSigned-By: {keys}\n"
    ))
}

/// The directories and accounts that Debian's base system makes by script.
fn skeleton(root: &Path) -> Result<()> {
    for dir in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(dir))?;
        symlink(format!("usr/{dir}"), root.join(dir))?;
    }
    for dir in ["etc", "proc", "sys", "dev", "run", "tmp", "var/lib", "var/log", "root"] {
        fs::create_dir_all(root.join(dir))?;
    }
    symlink("../run", root.join("var/run"))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n")?;
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    Ok(())
}

/// Adds one package. `tar` must follow the folder's `/bin -> usr/bin` links, not replace them.
fn unpack(deb: &Path, root: &Path) -> Result<()> {
    let mut list = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("start dpkg-deb")?;
    let tar = list.stdout.take().context("dpkg-deb without output")?;
    run(cmd("tar").arg("-xf-").arg("--keep-directory-symlink").arg("-C").arg(root).stdin(tar))?;
    let status = list.wait()?;
    if !status.success() {
        bail!("dpkg-deb --fsys-tarfile {}: {status}", deb.display());
    }
    Ok(())
}

/// The links that update-alternatives would make for the programs that the tests call.
fn alternatives(root: &Path) -> Result<()> {
    for (link, to) in [
        ("usr/sbin/iptables", "iptables-nft"),
        ("usr/sbin/ip6tables", "ip6tables-nft"),
        ("usr/sbin/iptables-save", "iptables-nft-save"),
        ("usr/sbin/ip6tables-save", "ip6tables-nft-save"),
        ("usr/bin/sh", "dash"),
    ] {
        let link = root.join(link);
        let target = link.with_file_name(to);
        if target.exists() && fs::symlink_metadata(&link).is_err() {
            symlink(to, &link)?;
        }
    }
    Ok(())
}
