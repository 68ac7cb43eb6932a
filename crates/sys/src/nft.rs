//! nf_tables over nfnetlink: atomic transactions, listings, and events.
//!
//! A [`Transaction`] happens as a whole or not at all; packets see the rules before it or after it and
//! nothing in between. Expressions are in [`expr`].

pub mod expr;

use std::io;

use crate::netlink::{
    Attributes, Batch, Family, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NetlinkError,
    Received, Socket, attribute, attributes, text, u32_of,
};
pub use expr::{Cmp, CtKey, Expr, FibResult, MetaKey, Payload, Register, Reject};

/// The address family of tables that see IPv4 and IPv6.
const INET: u8 = 1;
const SUBSYSTEM: u16 = 10;
/// Multicast group of nf_tables events.
const EVENTS: u32 = 7;

const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
/// Elements per message: an attribute is at most 64 KiB, and an element at most some 200 bytes.
const CHUNK: usize = 256;

/// Where a base chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting = 0,
    /// To the host itself.
    Input = 1,
    /// Through the host.
    Forward = 2,
    /// From the host itself.
    Output = 3,
    /// After routing.
    Postrouting = 4,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Accept or drop.
    Filter,
    /// Translate; sees the first packet of each flow.
    Nat,
}

/// The call of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// What it may do.
    pub kind: ChainKind,
    /// Where it is called.
    pub hook: Hook,
    /// Order among chains of one hook; lower is earlier.
    pub priority: i32,
}

/// The type of a field of a key or of map data. The number is what `nft list` shows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// IPv4 address.
    Ipv4,
    /// IPv6 address.
    Ipv6,
    /// Protocol number.
    Proto,
    /// Port.
    Port,
    /// Interface name.
    Ifname,
    /// Packet mark.
    Mark,
}

impl Field {
    fn number(self) -> u32 {
        match self {
            Field::Ipv4 => 7,
            Field::Ipv6 => 8,
            Field::Proto => 12,
            Field::Port => 13,
            Field::Ifname => 41,
            Field::Mark => 19,
        }
    }

    fn len(self) -> usize {
        match self {
            Field::Ipv4 | Field::Mark => 4,
            Field::Ipv6 | Field::Ifname => 16,
            Field::Proto => 1,
            Field::Port => 2,
        }
    }
}

/// What a map maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// Nothing: a set.
    None,
    /// A value of these fields.
    Fields(&'a [Field]),
    /// A verdict.
    Verdict,
}

/// A set or map to create.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    /// Its name.
    pub name: &'a str,
    /// Fields of the key.
    pub key: &'a [Field],
    /// What it maps to.
    pub data: Data<'a>,
    /// Elements are ranges.
    pub interval: bool,
    /// Elements may expire.
    pub timeout: bool,
}

/// One element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Key, made by [`key`].
    pub key: Vec<u8>,
    /// Last key of the range, in sets with intervals.
    pub end: Option<Vec<u8>>,
    /// What it maps to.
    pub value: Value,
    /// Milliseconds to live, in sets with timeouts.
    pub timeout: Option<u64>,
}

/// What an element maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    None,
    /// Fields, made by [`key`].
    Fields(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No objection from this base chain; later ones may still drop.
    Accept,
    /// Gone.
    Drop,
    /// Back to the calling chain.
    Return,
    /// To another chain, and back.
    Jump(String),
    /// To another chain for good.
    Goto(String),
}

impl Element {
    /// A member of a set.
    pub fn member(key: Vec<u8>) -> Element {
        Element { key, end: None, value: Value::None, timeout: None }
    }
}

/// Lays fields out as the kernel wants a key: each padded to four bytes.
pub fn key(fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for f in fields {
        out.extend_from_slice(f);
        if fields.len() > 1 {
            out.resize(out.len().next_multiple_of(4), 0);
        }
    }
    out
}

/// An interface name as a 16-byte field.
pub fn ifname(name: &str) -> [u8; 16] {
    let mut out = [0; 16];
    let len = name.len().min(15);
    out[..len].copy_from_slice(&name.as_bytes()[..len]);
    out
}

/// Changes that happen together or not at all. All tables are of the family `inet`.
#[derive(Clone, Debug)]
pub struct Transaction {
    batch: Batch,
    set_id: u32,
}

impl Default for Transaction {
    fn default() -> Transaction {
        Transaction::new()
    }
}

impl Transaction {
    /// No changes.
    pub fn new() -> Transaction {
        let mut batch = Batch::new();
        batch.message("begin nf_tables transaction", (0x10, 0), &bounds_head(), |_| ());
        Transaction { batch, set_id: 0 }
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.batch.len() <= 1
    }

    /// Makes a table, if it is not there.
    pub fn add_table(&mut self, table: &str) {
        self.put(format!("create table {table}"), (NEWTABLE, NLM_F_CREATE), |a| a.str(1, table));
    }

    /// Removes a table with all that is in it. It must exist.
    pub fn delete_table(&mut self, table: &str) {
        self.put(format!("delete table {table}"), (DELTABLE, 0), |a| a.str(1, table));
    }

    /// Removes a table with all that is in it, if it is there.
    pub fn drop_table(&mut self, table: &str) {
        // DESTROYTABLE is younger (6.3) than the kernels that wharf runs on.
        self.add_table(table);
        self.delete_table(table);
    }

    /// Makes a chain, called by the kernel if `base` is given. Its policy is to accept.
    pub fn add_chain(&mut self, table: &str, chain: &str, base: Option<Base>) {
        const ACCEPT: u32 = 1;
        self.put(format!("create chain {table} {chain}"), (NEWCHAIN, NLM_F_CREATE), |a| {
            a.str(1, table);
            a.str(3, chain);
            let Some(base) = base else { return };
            a.nest(4, |h| {
                h.be32(1, base.hook as u32);
                h.be32(2, base.priority.cast_unsigned());
            });
            a.be32(5, ACCEPT);
            a.str(7, if base.kind == ChainKind::Nat { "nat" } else { "filter" });
        });
    }

    /// Appends a rule to a chain. `comment` is shown by `nft list`.
    pub fn add_rule(&mut self, table: &str, chain: &str, comment: &str, expressions: &[Expr]) {
        let flags = NLM_F_CREATE | NLM_F_APPEND;
        self.put(format!("add rule to {table} {chain} ({comment})"), (NEWRULE, flags), |a| {
            a.str(1, table);
            a.str(2, chain);
            a.nest(4, |list| {
                for e in expressions {
                    list.nest(1, |item| e.encode(item));
                }
            });
            if !comment.is_empty() {
                let len = u8::try_from(comment.len() + 1).unwrap_or(128).min(128);
                let mut data = vec![0, len];
                data.extend_from_slice(&comment.as_bytes()[..usize::from(len) - 1]);
                data.push(0);
                a.bytes(7, &data);
            }
        });
    }

    /// Makes a set or map.
    pub fn add_set(&mut self, table: &str, set: &Set<'_>) {
        self.set_id += 1;
        let id = self.set_id;
        let action = format!("create set {table} {}", set.name);
        self.put(action, (NEWSET, NLM_F_CREATE), |a| set_attributes(a, table, set, id));
    }

    /// Adds elements. One that is there already is no error unless it has another value.
    pub fn add_elements(&mut self, table: &str, set: &Set<'_>, elements: &[Element]) {
        self.elements(table, set, elements, (NEWSETELEM, NLM_F_CREATE), "add to");
    }

    /// Removes elements, all of which must be there.
    pub fn delete_elements(&mut self, table: &str, set: &Set<'_>, elements: &[Element]) {
        self.elements(table, set, elements, (DELSETELEM, 0), "remove from");
    }

    fn elements(
        &mut self,
        table: &str,
        set: &Set<'_>,
        elements: &[Element],
        kind: (u16, u16),
        verb: &str,
    ) {
        for chunk in elements.chunks(CHUNK) {
            self.put(format!("{verb} set {table} {}", set.name), kind, |a| {
                a.str(1, table);
                a.str(2, set.name);
                a.nest(3, |list| {
                    for e in chunk {
                        element_attributes(list, set, e);
                    }
                });
            });
        }
    }

    fn put(
        &mut self,
        action: String,
        (kind, flags): (u16, u16),
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.batch.message(action, (SUBSYSTEM << 8 | kind, flags), &[INET, 0, 0, 0], fill);
    }

    fn finish(mut self) -> Batch {
        // One acknowledgement, of the last change: it is sent after the commit.
        self.batch.acknowledge(self.batch.len() - 1);
        self.batch.message("commit nf_tables transaction", (0x11, 0), &bounds_head(), |_| ());
        self.batch
    }
}

/// A change that somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Port of the socket that asked for it.
    pub port: u32,
    /// Its table; empty for a new generation.
    pub table: String,
    /// Something was taken away.
    pub removed: bool,
}

impl Socket {
    /// Applies a transaction.
    pub fn commit(&mut self, transaction: Transaction) -> Result<(), NetlinkError> {
        if transaction.is_empty() {
            return Ok(());
        }
        self.execute(transaction.finish())
    }

    /// Names of the tables of family `inet`.
    pub fn tables(&mut self) -> Result<Vec<String>, NetlinkError> {
        let answer = self.list("list tables", GETTABLE, |_| ())?;
        Ok(answer.iter().filter_map(|m| attribute(m.body.get(4..)?, 1).map(text)).collect())
    }

    /// Elements of a set: keys, and values of maps to fields. Ends of intervals are elements with no value.
    pub fn set_elements(&mut self, table: &str, set: &str) -> Result<Vec<Element>, NetlinkError> {
        let answer = self.list(&format!("list set {table} {set}"), GETSETELEM, |a| {
            a.str(1, table);
            a.str(2, set);
        })?;
        let lists = answer.iter().filter_map(|m| attribute(m.body.get(4..)?, 3));
        Ok(lists.flat_map(attributes).filter_map(|(_, e)| parse_element(e)).collect())
    }

    fn list(
        &mut self,
        action: &str,
        kind: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) -> Result<Vec<Received>, NetlinkError> {
        let mut batch = Batch::new();
        let kind = (SUBSYSTEM << 8 | kind, NLM_F_DUMP | NLM_F_ACK);
        batch.message(action, kind, &[INET, 0, 0, 0], fill);
        self.query(&batch)
    }
}

/// Opens a socket on which nf_tables events arrive.
pub fn subscribe() -> io::Result<Socket> {
    Socket::subscribe(Family::Netfilter, &[EVENTS])
}

/// Reads events out of received messages.
pub fn events(messages: &[Received]) -> impl Iterator<Item = Event> {
    messages.iter().filter(|m| m.kind >> 8 == SUBSYSTEM).filter_map(|m| {
        let removed = matches!(m.kind & 0xff, DELTABLE | DELCHAIN | DELRULE | DELSET | DELSETELEM);
        let inet = *m.body.first()? == INET;
        let name = attribute(m.body.get(4..)?, 1).map(text).filter(|_| inet);
        Some(Event { port: m.port, table: name.unwrap_or_default(), removed })
    })
}

fn bounds_head() -> [u8; 4] {
    let [a, b] = SUBSYSTEM.to_be_bytes();
    [0, 0, a, b]
}

fn set_attributes(a: &mut Attributes<'_>, table: &str, set: &Set<'_>, id: u32) {
    const INTERVAL: u32 = 0x4;
    const MAP: u32 = 0x8;
    const TIMEOUT: u32 = 0x10;
    const CONCAT: u32 = 0x80;
    const VERDICT_TYPE: u32 = 0xffff_ff00;
    let concat = set.key.len() > 1;
    let mut flags = 0;
    flags |= if set.interval { INTERVAL } else { 0 };
    flags |= if set.data == Data::None { 0 } else { MAP };
    flags |= if set.timeout { TIMEOUT } else { 0 };
    flags |= if concat { CONCAT } else { 0 };
    a.str(1, table);
    a.str(2, set.name);
    a.be32(3, flags);
    a.be32(4, type_number(set.key));
    a.be32(5, width(set.key));
    match set.data {
        Data::None => (),
        Data::Fields(fields) => {
            a.be32(6, type_number(fields));
            a.be32(7, width(fields));
        }
        Data::Verdict => {
            a.be32(6, VERDICT_TYPE);
            a.be32(7, 0);
        }
    }
    a.be32(10, id);
    if let [only] = set.key {
        // Userdata that the kernel keeps for `nft list`: without the byte order it shows no names.
        const HOST: u32 = 1;
        const BIG: u32 = 2;
        let order = if matches!(only, Field::Ifname | Field::Mark) { HOST } else { BIG };
        let mut data = vec![0, 4];
        data.extend_from_slice(&order.to_ne_bytes());
        a.bytes(13, &data);
    }
    if concat {
        a.nest(9, |desc| {
            desc.nest(2, |list| {
                for f in set.key {
                    list.nest(1, |field| field.be32(1, u32::try_from(f.len()).unwrap_or(0)));
                }
            });
        });
    }
}

fn type_number(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |n, f| n << 6 | f.number())
}

fn width(fields: &[Field]) -> u32 {
    let bytes = match fields {
        [one] => one.len(),
        many => many.iter().map(|f| f.len().next_multiple_of(4)).sum(),
    };
    u32::try_from(bytes).unwrap_or(0)
}

fn element_attributes(list: &mut Attributes<'_>, set: &Set<'_>, e: &Element) {
    const INTERVAL_END: u32 = 1;
    // Ranges over several fields carry both ends in one element; ranges over one field are
    // a start and, one past the range, an end.
    let concat = set.key.len() > 1;
    list.nest(1, |a| {
        a.nest(1, |k| k.bytes(1, &e.key));
        if set.interval && concat {
            a.nest(10, |k| k.bytes(1, e.end.as_ref().unwrap_or(&e.key)));
        }
        match &e.value {
            Value::None => (),
            Value::Fields(bytes) => a.nest(2, |d| d.bytes(1, bytes)),
            Value::Verdict(v) => a.nest(2, |d| expr::verdict(d, v)),
        }
        if let Some(ms) = e.timeout {
            a.be64(4, ms);
        }
    });
    if set.interval
        && !concat
        && let Some(past) = successor(e.end.as_ref().unwrap_or(&e.key))
    {
        list.nest(1, |a| {
            a.nest(1, |k| k.bytes(1, &past));
            a.be32(3, INTERVAL_END);
        });
    }
}

/// The key after `key` in big-endian order; none after the last.
fn successor(key: &[u8]) -> Option<Vec<u8>> {
    let mut out = key.to_vec();
    for b in out.iter_mut().rev() {
        *b = b.wrapping_add(1);
        if *b != 0 {
            return Some(out);
        }
    }
    None
}

fn parse_element(body: &[u8]) -> Option<Element> {
    let value_of = |kind| attribute(body, kind).and_then(|d| attribute(d, 1)).map(<[u8]>::to_vec);
    let timeout = attribute(body, 4).and_then(|t| t.try_into().ok()).map(u64::from_be_bytes);
    let is_end = attribute(body, 3).and_then(u32_of).is_some_and(|f| u32::from_be(f) & 1 != 0);
    let value = value_of(2).filter(|_| !is_end).map_or(Value::None, Value::Fields);
    Some(Element { key: value_of(1)?, end: value_of(10), value, timeout })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::netns;

    fn in_new_netns(f: impl FnOnce() + Send + 'static) {
        std::thread::spawn(|| {
            netns::unshare().unwrap();
            f();
        })
        .join()
        .unwrap();
    }

    /// What Debian's `nft` reads back. The child inherits the thread's network namespace.
    #[allow(
        clippy::disallowed_methods,
        reason = "nft is the oracle; its environment does not matter"
    )]
    fn nft_list() -> String {
        let out = std::process::Command::new(nft_program())
            .args(["-nn", "list", "ruleset"])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Debian's nft: the one that the tests brought along, or the machine's own.
    fn nft_program() -> std::ffi::OsString {
        let brought = std::env::var_os("WHARF_TEST_NFT").unwrap_or_default();
        if std::path::Path::new(&brought).is_file() { brought } else { "nft".into() }
    }

    const PORTS: Set<'static> = Set {
        name: "ports",
        key: &[Field::Ipv4, Field::Proto, Field::Port],
        data: Data::Fields(&[Field::Ipv4, Field::Port]),
        interval: false,
        timeout: false,
    };
    const RANGES: Set<'static> = Set {
        name: "ranges",
        key: &[Field::Proto, Field::Port],
        data: Data::Fields(&[Field::Ipv4]),
        interval: true,
        timeout: false,
    };
    const SUBNETS: Set<'static> = Set {
        name: "subnets",
        key: &[Field::Ipv4],
        data: Data::None,
        interval: true,
        timeout: false,
    };
    const BRIDGES: Set<'static> = Set {
        name: "bridges",
        key: &[Field::Ifname],
        data: Data::Verdict,
        interval: false,
        timeout: false,
    };
    const SEEN: Set<'static> =
        Set { name: "seen", key: &[Field::Ipv6], data: Data::None, interval: false, timeout: true };

    fn base(kind: ChainKind, hook: Hook, priority: i32) -> Option<Base> {
        Some(Base { kind, hook, priority })
    }

    fn port_element(ip: [u8; 4], port: u16) -> Element {
        Element {
            key: key(&[&ip, &[6], &port.to_be_bytes()]),
            end: None,
            value: Value::Fields(key(&[&[172, 17, 0, 2], &80u16.to_be_bytes()])),
            timeout: None,
        }
    }

    fn sample() -> Transaction {
        let mut t = Transaction::new();
        t.add_table("w");
        for set in [&PORTS, &RANGES, &SUBNETS, &SEEN] {
            t.add_set("w", set);
        }
        t.add_chain("w", "to-bridge", None);
        t.add_set("w", &BRIDGES);
        t.add_elements("w", &PORTS, &[port_element([10, 0, 0, 1], 8080)]);
        t.add_elements(
            "w",
            &RANGES,
            &[Element {
                key: key(&[&[17], &5000u16.to_be_bytes()]),
                end: Some(key(&[&[17], &5999u16.to_be_bytes()])),
                value: Value::Fields(vec![172, 17, 0, 3]),
                timeout: None,
            }],
        );
        let subnet =
            Element { end: Some(vec![172, 17, 255, 255]), ..Element::member(vec![172, 17, 0, 0]) };
        t.add_elements("w", &SUBNETS, &[subnet]);
        let jump = Value::Verdict(Verdict::Jump("to-bridge".into()));
        let br = Element { value: jump, ..Element::member(ifname("docker0").to_vec()) };
        t.add_elements("w", &BRIDGES, &[br]);
        let seen = Element { timeout: Some(60_000), ..Element::member(vec![0xfd; 16]) };
        t.add_elements("w", &SEEN, &[seen]);
        t
    }

    #[test]
    fn sets_and_maps_read_back_through_nft() {
        in_new_netns(|| {
            let mut s = Socket::open(Family::Netfilter).unwrap();
            s.commit(sample()).unwrap();
            let text = nft_list();
            for want in [
                "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
                "10.0.0.1 . 6 . 8080 : 172.17.0.2 . 80",
                "type inet_proto . inet_service : ipv4_addr",
                "17 . 5000-5999 : 172.17.0.3",
                "172.17.0.0/16",
                "\"docker0\" : jump to-bridge",
                "timeout 60s",
            ] {
                assert!(text.contains(want), "want {want} in\n{text}");
            }
            assert_eq!(s.tables().unwrap(), ["w"]);
            let listed = s.set_elements("w", "ports").unwrap();
            assert_eq!(listed, [port_element([10, 0, 0, 1], 8080)]);
        });
    }

    #[test]
    fn rules_read_back_through_nft() {
        in_new_netns(|| {
            let mut t = sample();
            t.add_chain("w", "pre", base(ChainKind::Nat, Hook::Prerouting, -100));
            t.add_chain("w", "post", base(ChainKind::Nat, Hook::Postrouting, 100));
            t.add_chain("w", "fwd", base(ChainKind::Filter, Hook::Forward, 0));
            let r = Register::at;
            t.add_rule(
                "w",
                "pre",
                "published",
                &[
                    Expr::fib_local(),
                    Expr::is_local(true),
                    Expr::Meta { key: MetaKey::NfProto, into: r(0) },
                    Expr::equals(r(0), vec![2]),
                    Expr::Payload { what: Payload::DestinationV4, into: r(0) },
                    Expr::Meta { key: MetaKey::L4Proto, into: r(1) },
                    Expr::Payload { what: Payload::DestinationPort, into: r(2) },
                    Expr::Map { name: "ports".into(), key: r(0), into: r(0) },
                    Expr::Dnat { ipv6: false, address: r(0), port: Some(r(1)) },
                ],
            );
            t.add_rule(
                "w",
                "post",
                "outgoing",
                &[
                    Expr::Meta { key: MetaKey::OifName, into: r(0) },
                    Expr::not_equals(r(0), ifname("docker0").to_vec()),
                    Expr::Meta { key: MetaKey::NfProto, into: r(0) },
                    Expr::equals(r(0), vec![2]),
                    Expr::Payload { what: Payload::SourceV4, into: r(0) },
                    Expr::Lookup { name: "subnets".into(), key: r(0), invert: false },
                    Expr::Masquerade,
                ],
            );
            let mut established = Expr::ct_established().to_vec();
            established.extend([Expr::Counter, Expr::Verdict(Verdict::Accept)]);
            t.add_rule("w", "fwd", "", &established);
            let limit = Expr::Limit { per_second: 5, burst: 7 };
            t.add_rule("w", "fwd", "", &[limit, Expr::Reject(Reject::Admin)]);
            Socket::open(Family::Netfilter).unwrap().commit(t).unwrap();
            let text = nft_list();
            for want in [
                "type nat hook prerouting priority -100; policy accept;",
                "fib daddr type 2 ",
                "dnat ip to ip daddr . meta l4proto . th dport map @ports comment \"published\"",
                "oifname != \"docker0\" ip saddr @subnets masquerade comment \"outgoing\"",
                "ct state 0x2,0x4 counter packets 0 bytes 0 accept",
                "limit rate 5/second burst 7 packets reject with icmpx 3",
            ] {
                assert!(text.contains(want), "want {want} in\n{text}");
            }
        });
    }

    #[test]
    fn a_transaction_is_all_or_nothing() {
        in_new_netns(|| {
            let mut s = Socket::open(Family::Netfilter).unwrap();
            let mut t = sample();
            t.add_rule("w", "absent", "", &[Expr::Counter]);
            let e = s.commit(t).unwrap_err();
            assert!(e.to_string().starts_with("add rule to w absent"), "{e}");
            assert!(s.tables().unwrap().is_empty());
            s.commit(sample()).unwrap();
            let mut t = Transaction::new();
            t.delete_elements("w", &PORTS, &[port_element([10, 0, 0, 1], 8080)]);
            s.commit(t).unwrap();
            assert!(s.set_elements("w", "ports").unwrap().is_empty());
        });
    }

    #[test]
    fn a_thousand_elements_go_in_at_once() {
        in_new_netns(|| {
            let mut s = Socket::open(Family::Netfilter).unwrap();
            let mut t = sample();
            let many: Vec<_> = (1..=5000).map(|p| port_element([127, 0, 0, 1], p)).collect();
            t.add_elements("w", &PORTS, &many);
            s.commit(t).unwrap();
            assert_eq!(s.set_elements("w", "ports").unwrap().len(), 5001);
        });
    }

    #[test]
    fn a_foreign_flush_is_seen() {
        in_new_netns(|| {
            let mut events_socket = subscribe().unwrap();
            let mut s = Socket::open(Family::Netfilter).unwrap();
            s.commit(sample()).unwrap();
            while events_socket.receive_now().unwrap().is_some() {}
            let mut other = Socket::open(Family::Netfilter).unwrap();
            let mut t = Transaction::new();
            t.delete_table("w");
            other.commit(t).unwrap();
            let messages = events_socket.receive().unwrap();
            let seen: Vec<_> = events(&messages).collect();
            let ours = |e: &&Event| e.removed && e.table == "w" && e.port == other.port();
            assert!(seen.iter().any(|e| ours(&e)), "{seen:?}");
        });
    }
}
