//! nf_tables expressions: the steps of a rule.

use crate::netlink::Attributes;

use super::Verdict;

/// One of the sixteen 32-bit registers. A field longer than four bytes takes several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u32);

impl Register {
    /// Register `n` of 0 to 15.
    pub fn at(n: u32) -> Register {
        const FIRST: u32 = 8;
        Register(FIRST + n.min(15))
    }
}

/// Facts about a packet that are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum MetaKey {
    Mark = 3,
    IifName = 6,
    OifName = 7,
    /// 2 for IPv4, 10 for IPv6.
    NfProto = 15,
    L4Proto = 16,
}

/// Fields of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Payload {
    SourceV4,
    DestinationV4,
    SourceV6,
    DestinationV6,
    SourcePort,
    DestinationPort,
    IcmpType,
}

/// Facts about the packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum CtKey {
    State = 0,
    Status = 2,
    Mark = 3,
}

/// What a route lookup is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum FibResult {
    Oif = 1,
    OifName = 2,
    AddressType = 3,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Cmp {
    Equal = 0,
    NotEqual = 1,
    Less = 2,
    LessOrEqual = 3,
    Greater = 4,
    GreaterOrEqual = 5,
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// TCP reset.
    Reset,
    /// Port unreachable.
    Port,
    /// Administratively prohibited.
    Admin,
}

/// One step of a rule. A step that does not match ends the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are the registers and operands of the step")]
pub enum Expr {
    /// Loads a field of the packet.
    Payload { what: Payload, into: Register },
    /// Changes a field of the transport header. `checksum` is where in that header the checksum is.
    SetPayload { what: Payload, from: Register, checksum: u32 },
    /// Loads a fact about the packet.
    Meta { key: MetaKey, into: Register },
    /// Sets the packet's mark.
    SetMark { from: Register },
    /// Loads a fact about the flow.
    Ct { key: CtKey, into: Register },
    /// Sets the flow's mark.
    SetCtMark { from: Register },
    /// Looks the destination (or the source) up in the routing tables.
    Fib { source: bool, result: FibResult, into: Register },
    /// Compares.
    Cmp { register: Register, op: Cmp, with: Vec<u8> },
    /// `(value & mask) ^ xor`, in place.
    Bitwise { register: Register, mask: Vec<u8>, xor: Vec<u8> },
    /// Is (or, inverted, is not) in a set.
    Lookup { name: String, key: Register, invert: bool },
    /// Loads what a map has for a key.
    Map { name: String, key: Register, into: Register },
    /// Does what a verdict map has for a key.
    VerdictMap { name: String, key: Register },
    /// Loads a constant.
    Immediate { value: Vec<u8>, into: Register },
    /// Decides.
    Verdict(Verdict),
    /// Translates the destination.
    Dnat { ipv6: bool, address: Register, port: Option<Register> },
    /// Translates the source.
    Snat { ipv6: bool, address: Register },
    /// Translates the source to the address of the outgoing interface.
    Masquerade,
    /// Translates the destination to the host itself.
    Redirect { port: Register },
    /// Counts.
    Counter,
    /// Matches so many times a second.
    Limit { per_second: u64, burst: u32 },
    /// Refuses with an answer.
    Reject(Reject),
}

impl Expr {
    /// Matches when the register holds `value`.
    pub fn equals(register: Register, value: Vec<u8>) -> Expr {
        Expr::Cmp { register, op: Cmp::Equal, with: value }
    }

    /// Matches when the register holds anything else.
    pub fn not_equals(register: Register, value: Vec<u8>) -> Expr {
        Expr::Cmp { register, op: Cmp::NotEqual, with: value }
    }

    /// Loads the type of the destination address into register 0.
    pub fn fib_local() -> Expr {
        Expr::Fib { source: false, result: FibResult::AddressType, into: Register::at(0) }
    }

    /// After [`Expr::fib_local`]: matches addresses of this host, or all others.
    pub fn is_local(yes: bool) -> Expr {
        const LOCAL: u32 = 2;
        let op = if yes { Cmp::Equal } else { Cmp::NotEqual };
        Expr::Cmp { register: Register::at(0), op, with: LOCAL.to_ne_bytes().to_vec() }
    }

    /// Matches packets of known flows and their errors.
    pub fn ct_established() -> [Expr; 3] {
        const ESTABLISHED: u32 = 1 << 1;
        const RELATED: u32 = 1 << 2;
        Expr::ct_bits(CtKey::State, ESTABLISHED | RELATED)
    }

    /// Matches flows whose destination was translated.
    pub fn ct_dnat() -> [Expr; 3] {
        const DST_NAT: u32 = 1 << 5;
        Expr::ct_bits(CtKey::Status, DST_NAT)
    }

    fn ct_bits(key: CtKey, bits: u32) -> [Expr; 3] {
        let register = Register::at(0);
        let zero = vec![0; 4];
        [
            Expr::Ct { key, into: register },
            Expr::Bitwise { register, mask: bits.to_ne_bytes().to_vec(), xor: zero.clone() },
            Expr::not_equals(register, zero),
        ]
    }

    /// Writes the expression as name and data.
    pub(crate) fn encode(&self, a: &mut Attributes<'_>) {
        a.str(1, self.name());
        a.nest(2, |d| self.data(d));
    }

    fn name(&self) -> &'static str {
        match self {
            Expr::Payload { .. } | Expr::SetPayload { .. } => "payload",
            Expr::Meta { .. } | Expr::SetMark { .. } => "meta",
            Expr::Ct { .. } | Expr::SetCtMark { .. } => "ct",
            Expr::Fib { .. } => "fib",
            Expr::Cmp { .. } => "cmp",
            Expr::Bitwise { .. } => "bitwise",
            Expr::Lookup { .. } | Expr::Map { .. } | Expr::VerdictMap { .. } => "lookup",
            Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
            Expr::Dnat { .. } | Expr::Snat { .. } => "nat",
            Expr::Masquerade => "masq",
            Expr::Redirect { .. } => "redir",
            Expr::Counter => "counter",
            Expr::Limit { .. } => "limit",
            Expr::Reject(_) => "reject",
        }
    }

    fn data(&self, d: &mut Attributes<'_>) {
        const VERDICT_REGISTER: u32 = 0;
        match self {
            Expr::Payload { what, into } => {
                d.be32(1, into.0);
                place(d, *what);
            }
            Expr::SetPayload { what, from, checksum } => {
                const INTERNET_CHECKSUM: u32 = 1;
                place(d, *what);
                d.be32(5, from.0);
                d.be32(6, INTERNET_CHECKSUM);
                d.be32(7, *checksum);
            }
            Expr::Meta { key, into } => {
                d.be32(1, into.0);
                d.be32(2, *key as u32);
            }
            Expr::SetMark { from } => {
                d.be32(2, MetaKey::Mark as u32);
                d.be32(3, from.0);
            }
            Expr::Ct { key, into } => {
                d.be32(1, into.0);
                d.be32(2, *key as u32);
            }
            Expr::SetCtMark { from } => {
                d.be32(2, CtKey::Mark as u32);
                d.be32(4, from.0);
            }
            Expr::Fib { source, result, into } => {
                d.be32(1, into.0);
                d.be32(2, *result as u32);
                d.be32(3, if *source { 1 } else { 2 });
            }
            Expr::Cmp { register, op, with } => {
                d.be32(1, register.0);
                d.be32(2, *op as u32);
                d.nest(3, |v| v.bytes(1, with));
            }
            Expr::Bitwise { register, mask, xor } => bitwise(d, *register, mask, xor),
            Expr::Lookup { name, key, invert } => {
                d.str(1, name);
                d.be32(2, key.0);
                if *invert {
                    d.be32(5, 1);
                }
            }
            Expr::Map { name, key, into } => map(d, name, *key, into.0),
            Expr::VerdictMap { name, key } => map(d, name, *key, VERDICT_REGISTER),
            Expr::Immediate { value, into } => {
                d.be32(1, into.0);
                d.nest(2, |v| v.bytes(1, value));
            }
            Expr::Verdict(v) => {
                d.be32(1, VERDICT_REGISTER);
                d.nest(2, |n| verdict(n, v));
            }
            Expr::Dnat { ipv6, address, port } => nat(d, (1, *ipv6), *address, *port),
            Expr::Snat { ipv6, address } => nat(d, (0, *ipv6), *address, None),
            Expr::Masquerade | Expr::Counter => (),
            Expr::Redirect { port } => d.be32(1, port.0),
            Expr::Limit { per_second, burst } => {
                d.be64(1, *per_second);
                d.be64(2, 1);
                d.be32(3, *burst);
            }
            Expr::Reject(how) => reject(d, *how),
        }
    }
}

/// Writes a verdict as data.
pub(crate) fn verdict(d: &mut Attributes<'_>, v: &Verdict) {
    const JUMP: i32 = -3;
    const GOTO: i32 = -4;
    const RETURN: i32 = -5;
    let (code, chain) = match v {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Return => (RETURN, None),
        Verdict::Jump(c) => (JUMP, Some(c)),
        Verdict::Goto(c) => (GOTO, Some(c)),
    };
    d.nest(2, |n| {
        n.be32(1, code.cast_unsigned());
        if let Some(chain) = chain {
            n.str(2, chain);
        }
    });
}

fn place(d: &mut Attributes<'_>, what: Payload) {
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let (base, offset, len) = match what {
        Payload::SourceV4 => (NETWORK, 12, 4),
        Payload::DestinationV4 => (NETWORK, 16, 4),
        Payload::SourceV6 => (NETWORK, 8, 16),
        Payload::DestinationV6 => (NETWORK, 24, 16),
        Payload::SourcePort => (TRANSPORT, 0, 2),
        Payload::DestinationPort => (TRANSPORT, 2, 2),
        Payload::IcmpType => (TRANSPORT, 0, 1),
    };
    d.be32(2, base);
    d.be32(3, offset);
    d.be32(4, len);
}

fn bitwise(d: &mut Attributes<'_>, register: Register, mask: &[u8], xor: &[u8]) {
    d.be32(1, register.0);
    d.be32(2, register.0);
    d.be32(3, u32::try_from(mask.len()).unwrap_or(0));
    d.nest(4, |v| v.bytes(1, mask));
    d.nest(5, |v| v.bytes(1, xor));
}

fn map(d: &mut Attributes<'_>, name: &str, key: Register, into: u32) {
    d.str(1, name);
    d.be32(2, key.0);
    d.be32(3, into);
}

fn nat(
    d: &mut Attributes<'_>,
    (kind, ipv6): (u32, bool),
    address: Register,
    port: Option<Register>,
) {
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    d.be32(1, kind);
    d.be32(2, family.cast_unsigned());
    d.be32(3, address.0);
    if let Some(port) = port {
        d.be32(5, port.0);
    }
}

fn reject(d: &mut Attributes<'_>, how: Reject) {
    let (kind, code) = match how {
        Reject::Reset => (1, None),
        Reject::Port => (2, Some(1)),
        Reject::Admin => (2, Some(3)),
    };
    d.be32(1, kind);
    if let Some(code) = code {
        d.u8(2, code);
    }
}
