//! Connection tracking: forgetting flows whose translation is no longer true.

use std::net::IpAddr;

use super::{Attributes, Batch, NLM_F_ACK, NLM_F_DUMP, NetlinkError, Socket, attribute};

/// Which tracked flows to forget. Every given part must match.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flows {
    /// Of IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Protocol number and destination port of the first packet.
    pub to_port: Option<(u8, u16)>,
    /// Destination of the first packet.
    pub to: Option<IpAddr>,
    /// Who answers, after translation.
    pub answered_by: Option<IpAddr>,
}

const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
/// What marks an attribute that holds others.
const NESTED: u16 = 1 << 15;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
const FLAG_IP_SRC: u32 = 1;
const FLAG_IP_DST: u32 = 1 << 1;
const FLAG_PROTO_NUM: u32 = 1 << 3;
const FLAG_DST_PORT: u32 = 1 << 5;

/// Forgets every flow that one of `all` describes. With nothing to match nothing is asked, because that would forget
/// every flow of the host.
///
/// # Errors
///
/// The kernel refused; the other descriptions were tried as well. That no flow matched is an error, too
/// ([`NetlinkError::is_absent`]).
pub fn forget(socket: &mut Socket, all: &[Flows]) -> Result<(), NetlinkError> {
    let all: Vec<&Flows> = all.iter().filter(|f| flags(f) != (0, 0)).collect();
    let mut batch = Batch::new();
    for flows in &all {
        batch.message("forget tracked flows", (CT_DELETE, NLM_F_ACK), &flows.head(), |a| {
            flows.describe(a);
        });
    }
    match socket.execute(batch) {
        // Older kernels (6.1 is one) filter a listing only; a deletion needs a whole flow.
        Err(e) if matches!(e.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            all.iter().try_for_each(|flows| forget_one_by_one(socket, flows))
        }
        done => done,
    }
}

fn forget_one_by_one(socket: &mut Socket, flows: &Flows) -> Result<(), NetlinkError> {
    let mut list = Batch::new();
    list.message("list tracked flows", (CT_GET, NLM_F_DUMP), &flows.head(), |a| flows.describe(a));
    for found in socket.query(&list)? {
        let Some(tuple) = found.body.get(4..).and_then(|b| attribute(b, TUPLE_ORIG)) else {
            continue;
        };
        let mut one = Batch::new();
        one.message("forget a tracked flow", (CT_DELETE, NLM_F_ACK), &flows.head(), |a| {
            a.bytes(TUPLE_ORIG | NESTED, tuple);
        });
        match socket.execute(one) {
            // It has ended by itself.
            Err(e) if e.is_absent() => (),
            other => other?,
        }
    }
    Ok(())
}

impl Flows {
    /// The header of netfilter's messages.
    fn head(&self) -> [u8; 4] {
        let family = if self.ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        [u8::try_from(family).unwrap_or(0), 0, 0, 0]
    }

    fn describe(&self, a: &mut Attributes<'_>) {
        let (orig, reply) = flags(self);
        a.nest(TUPLE_ORIG, |t| {
            if let Some(ip) = self.to {
                t.nest(1, |n| address(n, ip, true));
            }
            if let Some((proto, port)) = self.to_port {
                t.nest(2, |n| {
                    n.u8(1, proto);
                    n.bytes(3, &port.to_be_bytes());
                });
            }
        });
        a.nest(TUPLE_REPLY, |t| {
            if let Some(ip) = self.answered_by {
                t.nest(1, |n| address(n, ip, false));
            }
        });
        a.nest(FILTER, |f| {
            f.u32(FILTER_ORIG_FLAGS, orig);
            f.u32(FILTER_REPLY_FLAGS, reply);
        });
    }
}

fn flags(flows: &Flows) -> (u32, u32) {
    let port = if flows.to_port.is_some() { FLAG_PROTO_NUM | FLAG_DST_PORT } else { 0 };
    let to = if flows.to.is_some() { FLAG_IP_DST } else { 0 };
    let reply = if flows.answered_by.is_some() { FLAG_IP_SRC } else { 0 };
    (port | to, reply)
}

fn address(a: &mut Attributes<'_>, ip: IpAddr, destination: bool) {
    match ip {
        IpAddr::V4(ip) => a.bytes(if destination { 2 } else { 1 }, &ip.octets()),
        IpAddr::V6(ip) => a.bytes(if destination { 4 } else { 3 }, &ip.octets()),
    }
}
