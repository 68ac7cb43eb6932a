//! An initramfs in the making: cpio's "newc" format.

use anyhow::{Context, Result};
use std::fs;
use std::io::Write;
use std::path::Path;

/// An archive that is written entry by entry.
pub(super) struct Cpio {
    file: std::io::BufWriter<fs::File>,
    inode: u32,
}

impl Cpio {
    pub(super) fn create(path: &Path) -> Result<Cpio> {
        let file = fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Cpio { file: std::io::BufWriter::new(file), inode: 1 })
    }

    /// Adds a file, a directory or a link, as `mode` says.
    pub(super) fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).context("a file beyond 4 GB")?;
        let length = u32::try_from(name.len() + 1).context("a name beyond 4 GB")?;
        self.inode += 1;
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        write!(self.file, "070701")?;
        for field in fields {
            write!(self.file, "{field:08X}")?;
        }
        write!(self.file, "{name}\0")?;
        self.pad(110 + name.len() + 1)?;
        self.file.write_all(content)?;
        self.pad(content.len())
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.add("TRAILER!!!", 0, &[])?;
        Ok(self.file.flush()?)
    }

    fn pad(&mut self, written: usize) -> Result<()> {
        let gap = written.next_multiple_of(4) - written;
        Ok(self.file.write_all(&[0; 3][..gap])?)
    }
}
