//! Files in the format of bbolt, the database under etcd.
//!
//! The store's checkpoints are such files, laid out in buckets as etcd does it and followed by a SHA-256, as
//! in etcd's snapshots. So a checkpoint is a snapshot: etcd's own tools read it, and wharf reads theirs.
//!
//! A file is a sequence of pages: two metas, a list of free pages (always empty here), and a tree for each
//! bucket. Numbers are little-endian.

mod read;
mod write;

pub(crate) use read::{Bolt, BoltError};
pub(crate) use write::{Bucket, Rows, write};

/// Pages that wharf writes.
const PAGE: usize = 4096;
/// Page number, flags, count, overflow.
const PAGE_HEADER: usize = 16;
/// An element of a leaf or a branch, before its key.
const ELEMENT: usize = 16;
/// Root page and sequence of a bucket.
const BUCKET_HEADER: usize = 16;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREE_LIST: u16 = 0x10;

/// Marks a leaf's element as a bucket.
const IS_BUCKET: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// Where a meta's fields begin in its page, and where its checksum lies behind that.
const META_AT: usize = PAGE_HEADER;
const META_SUM: usize = 56;

/// FNV-1a with 64 bits: the checksum of a meta.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| {
        (sum ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DiskFile;

    /// Pairs in order.
    struct Pairs(Vec<(Vec<u8>, Vec<u8>)>);

    impl Rows for Pairs {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn size(&self, n: usize) -> (usize, usize) {
            (self.0[n].0.len(), self.0[n].1.len())
        }
        fn key(&self, n: usize, to: &mut Vec<u8>) {
            to.extend(&self.0[n].0);
        }
        fn value(&self, n: usize, to: &mut Vec<u8>) {
            to.extend(&self.0[n].1);
        }
    }

    fn file(bytes: &[u8]) -> Box<dyn DiskFile> {
        let file = tempfile::tempfile().unwrap();
        let mut file: Box<dyn DiskFile> = Box::new(file);
        file.write_at(bytes, 0).unwrap();
        file
    }

    fn pairs(n: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let value = |i: usize| vec![u8::try_from(i % 251).unwrap(); i * 7919 % 700];
        let mut pairs: Vec<_> =
            (0..n).map(|i| ((i as u64).to_be_bytes().to_vec(), value(i))).collect();
        if n > 2 {
            // Values of many pages.
            pairs[n / 2].1 = vec![7; 100_000];
            pairs[n - 1].1 = vec![8; 5_000];
        }
        pairs
    }

    #[test]
    fn what_is_written_is_read() {
        for n in [0, 1, 3, 40, 5_000] {
            let (big, small) = (Pairs(pairs(n)), Pairs(pairs(1)));
            let mut bytes = Vec::new();
            let buckets =
                [Bucket { name: "key", rows: &big }, Bucket { name: "meta", rows: &small }];
            write(&buckets, &mut bytes).unwrap();
            assert_eq!(bytes.len() % PAGE, 0);
            let file = file(&bytes);
            let bolt = Bolt::open(&*file).unwrap();
            let mut found = Vec::new();
            let mut take = |k: &[u8], v: &[u8]| found.push((k.to_vec(), v.to_vec()));
            assert!(bolt.each("key", &mut take).unwrap());
            assert_eq!(found, big.0);
            assert!(!bolt.each("absent", &mut |_, _| ()).unwrap());
        }
    }

    #[test]
    fn mangled_files_are_refused_or_read_but_never_panic() {
        let rows = Pairs(pairs(60));
        let mut bytes = Vec::new();
        write(&[Bucket { name: "key", rows: &rows }], &mut bytes).unwrap();
        // Every few bytes of what holds the file together, and some of the content.
        let frame = (0..PAGE * 4).step_by(3).filter(|at| at % PAGE < 256);
        for at in frame.chain((PAGE * 4..bytes.len()).step_by(499)) {
            let mut mangled = bytes.clone();
            mangled[at] ^= 0xff;
            let file = file(&mangled);
            if let Ok(bolt) = Bolt::open(&*file) {
                drop(bolt.each("key", &mut |_, _| ()));
            }
        }
        let short = file(&bytes[..PAGE * 2 + 100]);
        let result = Bolt::open(&*short).and_then(|bolt| bolt.each("key", &mut |_, _| ()));
        result.unwrap_err();
    }
}
