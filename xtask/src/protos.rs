//! `cargo xtask protos`: Rust code from protocol definitions, committed so that building wharf compiles none.

use crate::sh::root;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Crates with a `proto` folder; what comes of it lies in their `src/proto`.
const CRATES: &[&str] = &["buildkit", "etcd"];

/// Writes the code of every crate anew.
pub(crate) fn run() -> Result<()> {
    for name in CRATES {
        let to = root().join("crates").join(name).join("src/proto");
        if to.exists() {
            fs::remove_dir_all(&to).with_context(|| format!("remove {}", to.display()))?;
        }
        fs::create_dir_all(&to).with_context(|| format!("create {}", to.display()))?;
        for (file, code) in generate(name)? {
            let path = to.join(file);
            fs::write(&path, code).with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(())
}

/// The crate that reads its definitions as it runs, to tell JSON from them, and the file that has them.
const DESCRIBED: (&str, &str) = ("etcd", "descriptors.bin");

/// The code of one crate, by file name.
fn generate(name: &str) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let from = root().join("crates").join(name).join("proto");
    let definitions = files(&from)?;
    let mut compiler = protox::Compiler::new([&from]).context("read the definitions")?;
    compiler.include_imports(true);
    compiler.open_files(&definitions).context("compile the definitions")?;
    let described = compiler.encode_file_descriptor_set();
    let set = compiler.include_source_info(true).file_descriptor_set();
    let scratch = root().join("target/protos").join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    tonic_prost_build::configure()
        .bytes(".")
        .emit_rerun_if_changed(false)
        .out_dir(&scratch)
        .compile_fds(set)
        .context("generate code")?;
    let mut written = read(&scratch)?;
    fs::remove_dir_all(&scratch)?;
    if name == DESCRIBED.0 {
        written.insert(DESCRIBED.1.into(), described);
    }
    Ok(written)
}

/// The files of a folder by name, with their content.
fn read(dir: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for path in files(dir)? {
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        found.insert(path.file_name().unwrap_or_default().to_owned(), text);
    }
    Ok(found)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        found.push(entry?.path());
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_code_is_in_step_with_the_definitions() {
        for name in CRATES {
            let committed = read(&root().join("crates").join(name).join("src/proto")).unwrap();
            let fresh = generate(name).unwrap();
            assert!(committed == fresh, "crates/{name}: run `cargo xtask protos` and commit");
        }
    }
}
