//! Writes a whole file in one pass: sizes first, then page after page.

use std::io::{self, Write};

use super::{
    BRANCH, BUCKET_HEADER, ELEMENT, FREE_LIST, IS_BUCKET, LEAF, MAGIC, META, META_SUM, PAGE,
    PAGE_HEADER, VERSION, fnv,
};

/// The pairs of a bucket, in the order of their keys.
pub(crate) trait Rows {
    fn len(&self) -> usize;
    /// Bytes of key and value.
    fn size(&self, n: usize) -> (usize, usize);
    fn key(&self, n: usize, to: &mut Vec<u8>);
    fn value(&self, n: usize, to: &mut Vec<u8>);
}

/// A named set of pairs.
pub(crate) struct Bucket<'a> {
    pub(crate) name: &'a str,
    pub(crate) rows: &'a dyn Rows,
}

/// Writes `buckets`, which are in the order of their names.
pub(crate) fn write(buckets: &[Bucket<'_>], to: &mut dyn Write) -> io::Result<()> {
    // Pages 0 and 1 are the metas, 2 is the list of free pages, 3 names the buckets.
    const ROOT: u64 = 3;
    let root = root_page(ROOT, buckets, &vec![0; buckets.len()]);
    let mut next = ROOT + (root.len() / PAGE) as u64;
    let mut trees = Vec::new();
    for bucket in buckets {
        let tree = Tree::plan(bucket.rows, next);
        next = tree.end;
        trees.push(tree);
    }
    let roots: Vec<u64> = trees.iter().map(|t| t.root).collect();
    for txid in [0, 1] {
        to.write_all(&meta(txid, ROOT, next))?;
    }
    to.write_all(&Page::new(2, FREE_LIST, 0).finish())?;
    to.write_all(&root_page(ROOT, buckets, &roots))?;
    trees.iter().zip(buckets).try_for_each(|(tree, bucket)| tree.write(bucket.rows, to))
}

/// Where the pages of a bucket go.
struct Tree {
    leaves: Vec<Node>,
    /// From the leaves up; the last level has one node. Children are counted in the level below.
    branches: Vec<Vec<Node>>,
    root: u64,
    end: u64,
}

/// A page, with the rows or children that it holds.
struct Node {
    page: u64,
    first: usize,
    count: usize,
}

impl Tree {
    fn plan(rows: &dyn Rows, start: u64) -> Tree {
        let mut next = start;
        let leaves = pack(rows.len(), &mut next, |n| {
            let (key, value) = rows.size(n);
            key + value
        });
        let mut branches: Vec<Vec<Node>> = Vec::new();
        loop {
            let below = branches.last().unwrap_or(&leaves);
            if below.len() == 1 {
                let root = below[0].page;
                return Tree { leaves, branches, root, end: next };
            }
            let heads = first_rows(&leaves, &branches);
            let level = pack(below.len(), &mut next, |n| rows.size(heads[n]).0);
            branches.push(level);
        }
    }

    fn write(&self, rows: &dyn Rows, to: &mut dyn Write) -> io::Result<()> {
        let mut scratch = Vec::new();
        for leaf in &self.leaves {
            let mut page = Page::new(leaf.page, LEAF, leaf.count);
            for n in leaf.first..leaf.first + leaf.count {
                scratch.clear();
                rows.key(n, &mut scratch);
                let key = scratch.len();
                rows.value(n, &mut scratch);
                page.leaf(0, &scratch, key);
            }
            to.write_all(&page.finish())?;
        }
        for (height, level) in self.branches.iter().enumerate() {
            let below = height.checked_sub(1).map_or(&self.leaves, |h| &self.branches[h]);
            let heads = first_rows(&self.leaves, &self.branches[..height]);
            for branch in level {
                let mut page = Page::new(branch.page, BRANCH, branch.count);
                for n in branch.first..branch.first + branch.count {
                    scratch.clear();
                    rows.key(heads[n], &mut scratch);
                    page.branch(below[n].page, &scratch);
                }
                to.write_all(&page.finish())?;
            }
        }
        Ok(())
    }
}

/// The row that each node of the highest level begins with.
fn first_rows(leaves: &[Node], branches: &[Vec<Node>]) -> Vec<usize> {
    let lowest = leaves.iter().map(|leaf| leaf.first).collect();
    branches.iter().fold(lowest, |below: Vec<usize>, level| {
        level.iter().map(|node| below[node.first]).collect()
    })
}

/// Puts elements of given sizes into pages, as many as go; a large one gets pages of its own.
fn pack(count: usize, next: &mut u64, size: impl Fn(usize) -> usize) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut first = 0;
    loop {
        let mut bytes = PAGE_HEADER;
        let mut n = first;
        while n < count {
            let more = bytes + ELEMENT + size(n);
            if more > PAGE && n > first {
                break;
            }
            bytes = more;
            n += 1;
        }
        nodes.push(Node { page: *next, first, count: n - first });
        *next += bytes.div_ceil(PAGE) as u64;
        first = n;
        if first == count {
            return nodes;
        }
    }
}

/// The page that names the buckets and their roots.
fn root_page(number: u64, buckets: &[Bucket<'_>], roots: &[u64]) -> Vec<u8> {
    let mut page = Page::new(number, LEAF, buckets.len());
    for (bucket, root) in buckets.iter().zip(roots) {
        let mut pair = bucket.name.as_bytes().to_vec();
        pair.extend(root.to_le_bytes());
        pair.extend([0; BUCKET_HEADER - 8]);
        page.leaf(IS_BUCKET, &pair, bucket.name.len());
    }
    page.finish()
}

fn meta(txid: u64, root: u64, end: u64) -> Vec<u8> {
    let mut fields = Vec::with_capacity(META_SUM + 8);
    for n in [MAGIC, VERSION, page_size(), 0] {
        fields.extend(n.to_le_bytes());
    }
    // Root and sequence of the top bucket, the list of free pages, the first page never used.
    for n in [root, 0, 2, end, txid] {
        fields.extend(n.to_le_bytes());
    }
    fields.extend(fnv(&fields).to_le_bytes());
    let mut page = Page::new(txid, META, 0);
    page.content = fields;
    page.finish()
}

fn page_size() -> u32 {
    u32::try_from(PAGE).unwrap_or(u32::MAX)
}

/// A page while it is filled: elements first, then the pairs that they point to.
struct Page {
    number: u64,
    flags: u16,
    count: usize,
    elements: Vec<u8>,
    content: Vec<u8>,
}

impl Page {
    fn new(number: u64, flags: u16, count: usize) -> Page {
        Page { number, flags, count, elements: Vec::new(), content: Vec::new() }
    }

    /// Adds `pair`, of which the first `key` bytes are the key.
    fn leaf(&mut self, flags: u32, pair: &[u8], key: usize) {
        let at = self.place();
        for n in [flags, at, small(key), small(pair.len() - key)] {
            self.elements.extend(n.to_le_bytes());
        }
        self.content.extend_from_slice(pair);
    }

    fn branch(&mut self, child: u64, key: &[u8]) {
        let at = self.place();
        for n in [at, small(key.len())] {
            self.elements.extend(n.to_le_bytes());
        }
        self.elements.extend(child.to_le_bytes());
        self.content.extend_from_slice(key);
    }

    /// How far the next pair lies behind the start of its element.
    fn place(&self) -> u32 {
        small(self.count * ELEMENT - self.elements.len() + self.content.len())
    }

    fn finish(self) -> Vec<u8> {
        let used = PAGE_HEADER + self.elements.len() + self.content.len();
        let pages = used.div_ceil(PAGE);
        let mut page = Vec::with_capacity(pages * PAGE);
        page.extend(self.number.to_le_bytes());
        page.extend(self.flags.to_le_bytes());
        // Elements take 16 bytes and pages of many elements are 4 KiB, so 16 bits are enough.
        page.extend(u16::try_from(self.count).unwrap_or(u16::MAX).to_le_bytes());
        page.extend(small(pages - 1).to_le_bytes());
        page.extend(self.elements);
        page.extend(self.content);
        page.resize(pages * PAGE, 0);
        page
    }
}

/// Sizes within a page and its overflow: bounded by the largest request.
fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
