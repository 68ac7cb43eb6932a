//! Connection tracking: forgetting flows whose translation is no longer true.

use std::net::IpAddr;

use super::{Batch, NLM_F_ACK};

/// Which tracked flows to forget. Every given part must match.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flows {
    /// Protocol number and destination port of the first packet.
    pub to_port: Option<(u8, u16)>,
    /// Destination of the first packet.
    pub to: Option<IpAddr>,
    /// Who answers, after translation.
    pub answered_by: Option<IpAddr>,
}

const CT_DELETE: u16 = 1 << 8 | 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
const FLAG_IP_SRC: u32 = 1;
const FLAG_IP_DST: u32 = 1 << 1;
const FLAG_PROTO_NUM: u32 = 1 << 3;
const FLAG_DST_PORT: u32 = 1 << 5;

impl Batch {
    /// Forgets the flows that match, in one pass of the kernel over its table. With nothing to match
    /// nothing is asked, because that would forget every flow of the host.
    pub fn forget_flows(&mut self, flows: &Flows, ipv6: bool) {
        let (orig, reply) = flags(flows);
        if orig == 0 && reply == 0 {
            return;
        }
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        let head = [u8::try_from(family).unwrap_or(0), 0, 0, 0];
        self.message("forget tracked flows", (CT_DELETE, NLM_F_ACK), &head, |a| {
            a.nest(TUPLE_ORIG, |t| {
                if let Some(ip) = flows.to {
                    t.nest(1, |n| address(n, ip, true));
                }
                if let Some((proto, port)) = flows.to_port {
                    t.nest(2, |n| {
                        n.u8(1, proto);
                        n.bytes(3, &port.to_be_bytes());
                    });
                }
            });
            a.nest(TUPLE_REPLY, |t| {
                if let Some(ip) = flows.answered_by {
                    t.nest(1, |n| address(n, ip, false));
                }
            });
            a.nest(FILTER, |f| {
                f.u32(FILTER_ORIG_FLAGS, orig);
                f.u32(FILTER_REPLY_FLAGS, reply);
            });
        });
    }
}

fn flags(flows: &Flows) -> (u32, u32) {
    let port = if flows.to_port.is_some() { FLAG_PROTO_NUM | FLAG_DST_PORT } else { 0 };
    let to = if flows.to.is_some() { FLAG_IP_DST } else { 0 };
    let reply = if flows.answered_by.is_some() { FLAG_IP_SRC } else { 0 };
    (port | to, reply)
}

fn address(a: &mut super::Attributes<'_>, ip: IpAddr, destination: bool) {
    match ip {
        IpAddr::V4(ip) => a.bytes(if destination { 2 } else { 1 }, &ip.octets()),
        IpAddr::V6(ip) => a.bytes(if destination { 4 } else { 3 }, &ip.octets()),
    }
}
