//! Which devices a container may use: lines for v1, a BPF program for v2.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::CgroupError;

/// A rule with everything optional resolved.
struct Rule {
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;

impl Rule {
    fn of(spec: &LinuxDeviceCgroup) -> Result<Self, CgroupError> {
        let bad =
            |what: String| CgroupError::Unsupported(format!("device rule \"{spec}\": {what}"));
        let number = |value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(n) => {
                u32::try_from(n).map(Some).map_err(|_| bad(format!("{n} is no device number")))
            }
        };
        let mut access = 0;
        for letter in spec.access().as_deref().unwrap_or("").chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                other => return Err(bad(format!("{other:?} is none of r, w and m"))),
            };
        }
        let kind = match spec.typ().unwrap_or_default() {
            LinuxDeviceType::U => LinuxDeviceType::C,
            LinuxDeviceType::P => return Err(bad("a fifo is no device".into())),
            kind => kind,
        };
        Ok(Self {
            allow: spec.allow(),
            kind,
            major: number(spec.major())?,
            minor: number(spec.minor())?,
            access: if access == 0 { ALL } else { access },
        })
    }

    fn is_everything(&self) -> bool {
        self.kind == LinuxDeviceType::A
            && self.major.is_none()
            && self.minor.is_none()
            && self.access == ALL
    }
}

/// Lines for `devices.allow` and `devices.deny`, in order.
pub(super) fn v1_lines(
    rules: &[LinuxDeviceCgroup],
) -> Result<Vec<(&'static str, String)>, CgroupError> {
    let mut lines = Vec::with_capacity(rules.len());
    for rule in rules {
        let rule = Rule::of(rule)?;
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        let star = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        if rule.is_everything() {
            // The kernel's special line: it also forgets every rule before it.
            lines.clear();
            lines.push((file, "a".to_owned()));
        } else {
            let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
                .into_iter()
                .filter_map(|(bit, letter)| (rule.access & bit != 0).then_some(letter))
                .collect();
            let at = format!("{}:{}", star(rule.major), star(rule.minor));
            // "a" with numbers is read as everything by the kernel: say both kinds.
            let kinds: &[&str] = match rule.kind {
                LinuxDeviceType::A => &["b", "c"],
                LinuxDeviceType::B => &["b"],
                _ => &["c"],
            };
            lines.extend(kinds.iter().map(|kind| (file, format!("{kind} {at} {access}"))));
        }
    }
    Ok(lines)
}

/// The program for the same rules. The last rule that matches decides, so they are emitted in
/// reverse; what matches none is refused, as in an empty v1 list after "deny a".
pub fn program(rules: &[LinuxDeviceCgroup]) -> Result<Vec<u64>, CgroupError> {
    let mut code = Code::default();
    code.load_request();
    let mut decided = false;
    for rule in rules.iter().rev() {
        let rule = Rule::of(rule)?;
        if rule.is_everything() {
            code.answer(rule.allow);
            decided = true;
            break;
        }
        code.rule(&rule);
    }
    if !decided {
        code.answer(false);
    }
    Ok(code.0)
}

/// eBPF being assembled. Registers: 1 context, 2 kind, 3 access, 4 major, 5 minor.
#[derive(Default)]
struct Code(Vec<u64>);

const LOAD_WORD: u8 = 0x61;
const AND32: u8 = 0x54;
const SHIFT_RIGHT32: u8 = 0x74;
const MOVE32: u8 = 0xbc;
const MOVE64: u8 = 0xb7;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_NOT_EQUAL_REG: u8 = 0x5d;
const EXIT: u8 = 0x95;

impl Code {
    fn push(&mut self, op: u8, (to, from): (u8, u8), offset: i16, value: u32) {
        let registers = to | from << 4;
        let bytes = u64::from(op)
            | u64::from(registers) << 8
            | u64::from(offset.cast_unsigned()) << 16
            | u64::from(value) << 32;
        self.0.push(bytes);
    }

    /// `bpf_cgroup_dev_ctx`: kind in the low half of the first word, access in the high half.
    fn load_request(&mut self) {
        self.push(LOAD_WORD, (2, 1), 0, 0);
        self.push(MOVE32, (3, 2), 0, 0);
        self.push(AND32, (2, 0), 0, 0xffff);
        self.push(SHIFT_RIGHT32, (3, 0), 0, 16);
        self.push(LOAD_WORD, (4, 1), 4, 0);
        self.push(LOAD_WORD, (5, 1), 8, 0);
    }

    fn rule(&mut self, rule: &Rule) {
        let kind = match rule.kind {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(1),
            _ => Some(2),
        };
        let tests: Vec<(u8, u32)> = [(2, kind), (4, rule.major), (5, rule.minor)]
            .into_iter()
            .filter_map(|(register, value)| Some((register, value?)))
            .collect();
        let masked = rule.access != ALL;
        // Instructions from the first test to the end of this rule.
        let mut left = i16::try_from(tests.len()).unwrap_or(0) + if masked { 3 } else { 0 } + 2;
        if masked {
            // A request matches when all it asks for is in the rule.
            self.push(MOVE32, (1, 3), 0, 0);
            self.push(AND32, (1, 0), 0, rule.access);
            self.push(JUMP_NOT_EQUAL_REG, (1, 3), left - 3, 0);
            left -= 3;
        }
        for (register, value) in tests {
            left -= 1;
            self.push(JUMP_NOT_EQUAL, (register, 0), left, value);
        }
        self.answer(rule.allow);
    }

    fn answer(&mut self, allow: bool) {
        self.push(MOVE64, (0, 0), 0, u32::from(allow));
        self.push(EXIT, (0, 0), 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).unwrap()
    }

    /// Runs a program as the kernel would.
    fn ask(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [kind | access << 16, major, minor];
        let mut r = [0u64; 6];
        let mut at = 0;
        loop {
            let insn = program[at];
            let (op, to, from) =
                ((insn & 0xff) as u8, (insn >> 8 & 15) as usize, (insn >> 12 & 15) as usize);
            let offset = i64::from((insn >> 16 & 0xffff) as i16);
            let value = insn >> 32;
            at += 1;
            let mut jump = |taken: bool| {
                if taken {
                    at = usize::try_from(i64::try_from(at).unwrap() + offset).unwrap();
                }
            };
            match op {
                LOAD_WORD => r[to] = u64::from(context[usize::try_from(offset / 4).unwrap()]),
                MOVE32 => r[to] = r[from],
                MOVE64 => r[to] = value,
                AND32 => r[to] &= value,
                SHIFT_RIGHT32 => r[to] >>= value,
                JUMP_NOT_EQUAL => jump(r[to] != value),
                JUMP_NOT_EQUAL_REG => jump(r[to] != r[from]),
                EXIT => return r[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    const DOCKER: &str = r#"[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
        {"allow":true,"type":"c","access":"m"},
        {"allow":true,"type":"c","major":136,"minor":-1,"access":"rw"}]"#;

    #[test]
    fn program_answers_like_the_list() {
        let program = program(&rules(DOCKER)).unwrap();
        assert!(ask(&program, 2, READ | WRITE, 1, 3), "null may be used");
        assert!(ask(&program, 2, MKNOD, 9, 9), "any character node may be made");
        assert!(!ask(&program, 2, READ, 9, 9), "but not read");
        assert!(!ask(&program, 1, MKNOD, 8, 0), "no block node may be made");
        assert!(ask(&program, 2, READ, 136, 77));
        assert!(!ask(&program, 2, READ | MKNOD, 136, 77), "all of the request must be allowed");
    }

    #[test]
    fn later_rule_wins_and_default_is_refusal() {
        let list =
            r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"access":"w"}]"#;
        let program_ = program(&rules(list)).unwrap();
        assert!(!ask(&program_, 1, WRITE, 8, 1));
        assert!(ask(&program_, 1, READ, 8, 1));
        assert!(!ask(&program(&[]).unwrap(), 2, READ, 1, 3));
    }

    #[test]
    fn v1_lines_forget_what_a_general_rule_overrides() {
        let lines = v1_lines(&rules(DOCKER)).unwrap();
        assert_eq!(lines[0], ("devices.deny", "a".to_owned()));
        assert_eq!(lines[1], ("devices.allow", "c 1:3 rwm".to_owned()));
        assert_eq!(lines[2], ("devices.allow", "c *:* m".to_owned()));
        let list = r#"[{"allow":true,"type":"c","access":"r"},{"allow":true}]"#;
        assert_eq!(v1_lines(&rules(list)).unwrap(), [("devices.allow", "a".to_owned())]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(program(&rules(r#"[{"allow":true,"access":"x"}]"#)).is_err());
        assert!(program(&rules(r#"[{"allow":true,"type":"c","major":-7}]"#)).is_err());
    }
}
