//! Reads a file page by page; nothing in it is trusted.

use super::{
    BRANCH, BUCKET_HEADER, ELEMENT, IS_BUCKET, LEAF, MAGIC, META_AT, META_SUM, PAGE_HEADER,
    VERSION, fnv,
};
use crate::disk::DiskFile;
use std::io;

/// A tree of this height has more pages than any file.
const DEEPEST: usize = 32;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BoltError {
    /// Reading failed.
    #[error("read at byte {at}")]
    Io { at: u64, source: io::Error },
    /// It is not such a file, or it is damaged.
    #[error("page {page}: {what}")]
    Damaged { page: u64, what: &'static str },
}

/// An open file.
pub(crate) struct Bolt<'a> {
    file: &'a dyn DiskFile,
    page: usize,
    pages: u64,
    root: u64,
}

/// Takes a key and its value.
type Take<'a> = dyn FnMut(&[u8], &[u8]) + 'a;

impl<'a> Bolt<'a> {
    /// Opens a file at its newest meta.
    pub(crate) fn open(file: &'a dyn DiskFile) -> Result<Bolt<'a>, BoltError> {
        let len = file.len().map_err(|source| BoltError::Io { at: 0, source })?;
        // The size of pages stands in the first meta; the second one lies a page behind it.
        let first = meta(file, 0);
        let page = match &first {
            Ok(meta) => meta.page,
            Err(_) => 4096,
        };
        let second = meta(file, page as u64);
        let newest = match (first, second) {
            (Ok(a), Ok(b)) => {
                if a.txid > b.txid {
                    a
                } else {
                    b
                }
            }
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => one,
            (Err(e), Err(_)) => return Err(e),
        };
        let page = newest.page;
        Ok(Bolt { file, page, pages: len / page as u64, root: newest.root })
    }

    /// Gives every pair of a bucket, in order; `false` says that there is no such bucket.
    pub(crate) fn each(&self, bucket: &str, take: &mut Take<'_>) -> Result<bool, BoltError> {
        let mut header = None;
        let mut budget = self.pages;
        self.walk(self.root, 0, &mut budget, &mut |flags, key, value| {
            if flags & IS_BUCKET != 0 && key == bucket.as_bytes() {
                header = Some(value.to_vec());
            }
        })?;
        let Some(header) = header else { return Ok(false) };
        let damaged = |what| BoltError::Damaged { page: self.root, what };
        let root = header.get(..8).ok_or(damaged("a bucket has no root"))?;
        let mut pairs = |flags: u32, key: &[u8], value: &[u8]| {
            if flags & IS_BUCKET == 0 {
                take(key, value);
            }
        };
        match long(root) {
            // A small bucket is a page in the place of its value.
            0 => leaf(header.get(BUCKET_HEADER..).unwrap_or_default(), &mut pairs)
                .ok_or(damaged("a bucket does not hold together"))?,
            root => {
                let mut budget = self.pages;
                self.walk(root, 0, &mut budget, &mut pairs)?;
            }
        }
        Ok(true)
    }

    fn walk(
        &self,
        number: u64,
        depth: usize,
        budget: &mut u64,
        take: &mut dyn FnMut(u32, &[u8], &[u8]),
    ) -> Result<(), BoltError> {
        let damaged = |what| BoltError::Damaged { page: number, what };
        // Each page is visited once, or the tree bites its tail.
        *budget = budget.checked_sub(1).ok_or(damaged("the tree has a loop"))?;
        if depth > DEEPEST {
            return Err(damaged("the tree is too deep"));
        }
        let page = self.read(number)?;
        match half(&page[8..]) & (BRANCH | LEAF) {
            LEAF => leaf(&page, take).ok_or(damaged("a leaf does not hold together")),
            BRANCH => {
                let children = children(&page).ok_or(damaged("a branch does not hold together"))?;
                children.into_iter().try_for_each(|c| self.walk(c, depth + 1, budget, take))
            }
            _ => Err(damaged("this is neither leaf nor branch")),
        }
    }

    /// A page with its overflow.
    fn read(&self, number: u64) -> Result<Vec<u8>, BoltError> {
        let damaged = |what| BoltError::Damaged { page: number, what };
        if number >= self.pages {
            return Err(damaged("the file ends before it"));
        }
        let at = number * self.page as u64;
        let failed = |source| BoltError::Io { at, source };
        let mut page = vec![0; self.page];
        self.file.read_at(&mut page, at).map_err(failed)?;
        let more = u64::from(word(&page[12..]));
        if number + more >= self.pages {
            return Err(damaged("the file ends within it"));
        }
        if more > 0 {
            let more = usize::try_from(more).map_err(|_| damaged("it is too long"))?;
            page.resize(self.page * (more + 1), 0);
            self.file.read_at(&mut page, at).map_err(failed)?;
        }
        Ok(page)
    }
}

struct Meta {
    page: usize,
    root: u64,
    txid: u64,
}

fn meta(file: &dyn DiskFile, at: u64) -> Result<Meta, BoltError> {
    let mut page = [0; META_AT + META_SUM + 8];
    file.read_at(&mut page, at).map_err(|source| BoltError::Io { at, source })?;
    let fields = &page[META_AT..];
    let damaged = |what| BoltError::Damaged { page: u64::from(at > 0), what };
    if word(fields) != MAGIC || word(&fields[4..]) != VERSION {
        return Err(damaged("this is not a bbolt database"));
    }
    if fnv(&fields[..META_SUM]) != long(&fields[META_SUM..]) {
        return Err(damaged("the checksum does not match"));
    }
    let page = word(&fields[8..]) as usize;
    if !page.is_power_of_two() || !(512..=65_536).contains(&page) {
        return Err(damaged("no page has this size"));
    }
    Ok(Meta { page, root: long(&fields[16..]), txid: long(&fields[48..]) })
}

/// Gives the pairs of a leaf; `None` if it points outside of itself.
fn leaf(page: &[u8], take: &mut dyn FnMut(u32, &[u8], &[u8])) -> Option<()> {
    for n in 0..usize::from(half(page.get(10..12)?)) {
        let at = PAGE_HEADER + n * ELEMENT;
        let element = page.get(at..at + ELEMENT)?;
        let [place, key, value] = [4, 8, 12].map(|i| word(&element[i..]) as usize);
        let pair = page.get(at + place..at + place + key + value)?;
        take(word(element), &pair[..key], &pair[key..]);
    }
    Some(())
}

fn children(page: &[u8]) -> Option<Vec<u64>> {
    let count = usize::from(half(page.get(10..12)?));
    let element = |n| page.get(PAGE_HEADER + n * ELEMENT..PAGE_HEADER + (n + 1) * ELEMENT);
    (0..count).map(|n| element(n).map(|e| long(&e[8..]))).collect()
}

fn half(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn long(bytes: &[u8]) -> u64 {
    u64::from(word(bytes)) | u64::from(word(&bytes[4..])) << 32
}
