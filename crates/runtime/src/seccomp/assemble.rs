//! Filters as classic BPF: dispatch by architecture, then a binary search over ranges of call
//! numbers, so that a common call is decided in some ten instructions and the kernel's own test of
//! every number (its bitmap of always-allowed calls) is quick.

use std::collections::BTreeMap;

use oci_spec::runtime::LinuxSeccompOperator as Op;
use wharf_sys::security::Insn;

/// The calls of one architecture.
pub(super) struct ArchTable {
    /// The kernel's word for the architecture.
    pub(super) audit: u32,
    pub(super) calls: BTreeMap<u32, Leaf>,
    pub(super) default: u32,
    /// From this number on another answer than the default.
    pub(super) beyond: Option<(u32, u32)>,
}

/// What happens at one call: the first rule that holds, or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leaf {
    rules: Vec<(Vec<Condition>, u32)>,
    always: Option<u32>,
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) op: Op,
    pub(super) value: u64,
    pub(super) value_two: u64,
}

impl Leaf {
    pub(super) fn add(&mut self, conditions: Vec<Condition>, action: u32) {
        if conditions.is_empty() {
            self.always = Some(action);
        } else {
            self.rules.push((conditions, action));
        }
    }
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in `seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// The kernel takes no longer program.
const LONGEST: usize = 4096;

const KILL: u32 = 0;

pub(super) fn program(tables: &[ArchTable]) -> Result<Vec<Insn>, String> {
    let mut out = vec![op(LOAD, ARCH)];
    for table in tables {
        let body = table.body();
        // Another architecture skips this one's body, by a jump of any length.
        out.push(Insn { code: JUMP_EQ, jt: 1, jf: 0, k: table.audit });
        out.push(op(JUMP, u32::try_from(body.len()).unwrap_or(u32::MAX)));
        out.extend(body);
    }
    out.push(op(RETURN, KILL));
    if out.len() > LONGEST {
        return Err(format!(
            "the filter has {} instructions, and the kernel takes {LONGEST}",
            out.len()
        ));
    }
    Ok(out)
}

impl ArchTable {
    fn body(&self) -> Vec<Insn> {
        let segments = self.segments();
        let mut body = vec![op(LOAD, NUMBER)];
        body.extend(self.search(&segments));
        body
    }

    /// Where the answer changes, with the answer from there on.
    fn segments(&self) -> Vec<(u32, Leaf)> {
        let plain = |action| Leaf { rules: Vec::new(), always: Some(action) };
        let mut marks: BTreeMap<u32, Leaf> = BTreeMap::new();
        marks.insert(0, plain(self.default));
        if let Some((from, action)) = self.beyond {
            marks.insert(from, plain(action));
        }
        for (&number, leaf) in &self.calls {
            let mut leaf = leaf.clone();
            leaf.always.get_or_insert(self.default);
            marks.insert(number, leaf);
            let next = number + 1;
            if !self.calls.contains_key(&next) && self.beyond.is_none_or(|(from, _)| from != next) {
                marks.entry(next).or_insert_with(|| plain(self.default));
            }
        }
        let mut out: Vec<(u32, Leaf)> = Vec::new();
        for (number, leaf) in marks {
            if out.last().is_none_or(|(_, last)| *last != leaf) {
                out.push((number, leaf));
            }
        }
        out
    }

    fn search(&self, segments: &[(u32, Leaf)]) -> Vec<Insn> {
        if let [(_, leaf)] = segments {
            return leaf.code();
        }
        let (low, high) = segments.split_at(segments.len() / 2);
        let (low_code, high_code) = (self.search(low), self.search(high));
        let first = high[0].0;
        let mut out = match u8::try_from(low_code.len()) {
            Ok(skip) => vec![Insn { code: JUMP_GE, jt: skip, jf: 0, k: first }],
            Err(_) => vec![
                Insn { code: JUMP_GE, jt: 0, jf: 1, k: first },
                op(JUMP, u32::try_from(low_code.len()).unwrap_or(u32::MAX)),
            ],
        };
        out.extend(low_code);
        out.extend(high_code);
        out
    }
}

impl Leaf {
    fn code(&self) -> Vec<Insn> {
        let mut out = Vec::new();
        for (conditions, action) in &self.rules {
            out.extend(rule(conditions, *action));
        }
        out.push(op(RETURN, self.always.unwrap_or(KILL)));
        out
    }
}

/// Where a test goes on.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// The condition holds.
    Pass,
    /// The rule does not hold.
    Fail,
}

type Step = (u16, u32, To, To);

/// All conditions, then the answer; when one fails, on behind it.
fn rule(conditions: &[Condition], action: u32) -> Vec<Insn> {
    let parts: Vec<Vec<Step>> = conditions.iter().map(Condition::steps).collect();
    let length: usize = parts.iter().map(Vec::len).sum();
    let mut out = Vec::with_capacity(length + 1);
    let mut end_of_part = 0;
    for part in &parts {
        end_of_part += part.len();
        for &(code, k, yes, no) in part {
            let here = out.len();
            let jump = |to| {
                let target = match to {
                    To::Next => here + 1,
                    To::Pass => end_of_part,
                    To::Fail => length + 1,
                };
                // Six conditions of seven instructions are the most there can be.
                u8::try_from(target - here - 1).unwrap_or(u8::MAX)
            };
            let is_jump = code & 7 == 5;
            let (jt, jf) = if is_jump { (jump(yes), jump(no)) } else { (0, 0) };
            out.push(Insn { code, jt, jf, k });
        }
    }
    out.push(op(RETURN, action));
    out
}

impl Condition {
    /// A 64-bit comparison in two halves, the high one first.
    fn steps(&self) -> Vec<Step> {
        use To::{Fail, Next, Pass};
        let low_at = ARGS + 8 * self.index;
        let load = |at| (LOAD, at, Next, Next);
        let (high, low) = halves(self.value);
        let ordered = |low_test: u16, bigger: To, smaller: To, low_yes: To, low_no: To| {
            vec![
                load(low_at + 4),
                (JUMP_GT, high, bigger, Next),
                (JUMP_EQ, high, Next, smaller),
                load(low_at),
                (low_test, low, low_yes, low_no),
            ]
        };
        match self.op {
            Op::ScmpCmpEq => vec![
                load(low_at + 4),
                (JUMP_EQ, high, Next, Fail),
                load(low_at),
                (JUMP_EQ, low, Pass, Fail),
            ],
            Op::ScmpCmpNe => vec![
                load(low_at + 4),
                (JUMP_EQ, high, Next, Pass),
                load(low_at),
                (JUMP_EQ, low, Fail, Pass),
            ],
            Op::ScmpCmpGt => ordered(JUMP_GT, Pass, Fail, Pass, Fail),
            Op::ScmpCmpGe => ordered(JUMP_GE, Pass, Fail, Pass, Fail),
            Op::ScmpCmpLt => ordered(JUMP_GE, Fail, Pass, Fail, Pass),
            Op::ScmpCmpLe => ordered(JUMP_GT, Fail, Pass, Fail, Pass),
            Op::ScmpCmpMaskedEq => {
                let (want_high, want_low) = halves(self.value_two);
                vec![
                    load(low_at + 4),
                    (AND, high, Next, Next),
                    (JUMP_EQ, want_high, Next, Fail),
                    load(low_at),
                    (AND, low, Next, Next),
                    (JUMP_EQ, want_low, Pass, Fail),
                ]
            }
        }
    }
}

fn halves(value: u64) -> (u32, u32) {
    let bytes = value.to_le_bytes();
    let half = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    (half(&bytes[4..]), half(&bytes[..4]))
}

fn op(code: u16, k: u32) -> Insn {
    Insn { code, jt: 0, jf: 0, k }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Runs a filter as the kernel would.
    pub(in crate::seccomp) fn ask(program: &[Insn], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend([0; 8]);
        args.iter().for_each(|a| data.extend(a.to_le_bytes()));
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let i = program[at];
            at += 1;
            let mut test = |holds: bool| at += usize::from(if holds { i.jt } else { i.jf });
            match i.code {
                LOAD => {
                    let from = i.k as usize;
                    a = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                }
                AND => a &= i.k,
                JUMP => at += i.k as usize,
                JUMP_EQ => test(a == i.k),
                JUMP_GT => test(a > i.k),
                JUMP_GE => test(a >= i.k),
                RETURN => return i.k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn ranges_are_searched_to_the_edges() {
        let mut calls = BTreeMap::new();
        for n in [0, 1, 2, 7, 9, 10, 300, 0x4000_0001] {
            let mut leaf = Leaf::default();
            leaf.add(Vec::new(), 100 + n % 3);
            calls.insert(n, leaf);
        }
        let table =
            ArchTable { audit: 5, calls: calls.clone(), default: 1, beyond: Some((301, 2)) };
        let program = program(&[table]).unwrap();
        for n in (0..400).chain([0x4000_0000, 0x4000_0001, 0x4000_0002, u32::MAX]) {
            let wanted = match calls.get(&n) {
                Some(_) => 100 + n % 3,
                None if (301..0x4000_0000).contains(&n) => 2,
                None if n < 301 => 1,
                None => ask(&program, 5, n, [0; 6]),
            };
            assert_eq!(ask(&program, 5, n, [0; 6]), wanted, "{n}");
        }
        assert_eq!(ask(&program, 6, 0, [0; 6]), KILL);
    }

    #[test]
    fn long_bodies_are_jumped_over() {
        let calls = (0..2000u32)
            .map(|n| {
                let mut leaf = Leaf::default();
                leaf.add(Vec::new(), n % 7);
                (n, leaf)
            })
            .collect();
        let table = ArchTable { audit: 5, calls, default: 9, beyond: None };
        let program_ = program(&[table]).unwrap();
        for n in 0..2000 {
            assert_eq!(ask(&program_, 5, n, [0; 6]), n % 7);
        }
    }
}
