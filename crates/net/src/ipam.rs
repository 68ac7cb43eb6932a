//! Which subnet a network gets, and which address a container gets. No I/O.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use wharf_base::Id;

use crate::config::Pool;
use crate::error::NetError;
use crate::spec::IpamConfig;
use crate::subnet::Subnet;

/// The first subnet of `pools` that overlaps nothing in `taken`.
pub(crate) fn choose_subnet(pools: &[Pool], taken: &[Subnet]) -> Result<Subnet, NetError> {
    let mut taken: Vec<Subnet> = taken.iter().map(Subnet::network).collect();
    taken.sort();
    pools.iter().find_map(|pool| first_free(pool, &taken)).ok_or(NetError::PoolsExhausted)
}

/// A /64 under a unique local prefix made from the network's id (RFC 4193 asks for a random one).
pub(crate) fn choose_ula(id: &Id, taken: &[Subnet]) -> Result<Subnet, NetError> {
    let hex = id.as_str();
    // The id has 64 digits: every window of 14 is another candidate.
    (0..=hex.len() - 14)
        .filter_map(|at| {
            let bits = u128::from_str_radix(&hex[at..at + 14], 16).ok()?;
            Subnet::new(Ipv6Addr::from_bits(0xfd << 120 | bits << 64).into(), 64)
        })
        .find(|s| !taken.iter().any(|t| t.overlaps(s)))
        .ok_or(NetError::PoolsExhausted)
}

/// One pass over `taken`, which is sorted: with thousands of networks each choice stays cheap.
fn first_free(pool: &Pool, taken: &[Subnet]) -> Option<Subnet> {
    let mut rest = taken.iter().filter(|t| t.overlaps(&pool.base)).peekable();
    let mut at = pool.base.network().addr();
    let mut furthest = None;
    loop {
        let candidate = Subnet::new(at, pool.size)?;
        if !pool.base.covers(&candidate) {
            return None;
        }
        while let Some(t) = rest.next_if(|t| t.addr() <= candidate.last_addr()) {
            furthest = furthest.max(Some(t.last_addr()));
        }
        match furthest.filter(|last| *last >= at) {
            None => return Some(candidate),
            Some(last) => at = following(&pool.base, last.max(candidate.last_addr()), pool.size)?,
        }
    }
}

/// The first address after `last` on which a subnet of `size` may start.
fn following(base: &Subnet, last: IpAddr, size: u8) -> Option<IpAddr> {
    let next = base.nth(base.offset(last)?.checked_add(1)?)?;
    let aligned = Subnet::new(next, size)?.network();
    if aligned.addr() == next { Some(next) } else { following(base, aligned.last_addr(), size) }
}

/// Hands out the addresses of one subnet, lowest first.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    subnet: Subnet,
    range: Subnet,
    /// Never given, asked for or not.
    reserved: BTreeSet<IpAddr>,
    used: BTreeSet<IpAddr>,
    /// Every address of the range below this offset is used or reserved.
    low: u128,
}

impl Addresses {
    /// For a resolved subnet of a network.
    pub(crate) fn new(config: &IpamConfig) -> Option<Addresses> {
        let subnet = config.subnet?;
        let mut reserved: BTreeSet<IpAddr> = config.aux.values().copied().collect();
        reserved.extend(config.gateway);
        let has_edges = subnet.span() > 1;
        if has_edges {
            reserved.insert(subnet.network().addr());
            if subnet.is_ipv4() {
                reserved.insert(subnet.last_addr());
            }
        }
        let range = config.range.unwrap_or(subnet);
        Some(Addresses { subnet, range, reserved, used: BTreeSet::new(), low: 0 })
    }

    /// The subnet.
    pub(crate) fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Takes `wanted`, or the lowest free address.
    pub(crate) fn take(&mut self, wanted: Option<IpAddr>) -> Result<Subnet, NetError> {
        let ip = match wanted {
            Some(ip) => self.check(ip)?,
            None => self.lowest()?,
        };
        self.used.insert(ip);
        Subnet::new(ip, self.subnet.prefix()).ok_or(NetError::PoolsExhausted)
    }

    /// Gives an address back.
    pub(crate) fn free(&mut self, ip: IpAddr) {
        if self.used.remove(&ip)
            && let Some(offset) = self.range.offset(ip)
        {
            self.low = self.low.min(offset);
        }
    }

    fn check(&self, ip: IpAddr) -> Result<IpAddr, NetError> {
        if !self.subnet.contains(ip) {
            let why = format!("{ip} is not in {}", self.subnet);
            return Err(NetError::invalid("address", why));
        }
        if self.used.contains(&ip) || self.reserved.contains(&ip) {
            return Err(NetError::AddressTaken(ip));
        }
        Ok(ip)
    }

    fn lowest(&mut self) -> Result<IpAddr, NetError> {
        let exhausted = || NetError::AddressesExhausted(self.range.to_string());
        let mut at = self.low;
        loop {
            let ip = self.range.nth(at).ok_or_else(exhausted)?;
            if !self.used.contains(&ip) && !self.reserved.contains(&ip) {
                self.low = at;
                return Ok(ip);
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn config(subnet: &str, gateway: &str) -> IpamConfig {
        IpamConfig {
            subnet: Some(s(subnet)),
            range: None,
            gateway: Some(gateway.parse().unwrap()),
            aux: [].into(),
        }
    }

    #[test]
    fn the_first_subnets_are_dockers_and_thousands_follow() {
        let pools = Pool::defaults();
        let mut taken = Vec::new();
        for _ in 0..2000 {
            let next = choose_subnet(&pools, &taken).unwrap();
            assert!(!taken.iter().any(|t: &Subnet| t.overlaps(&next)));
            taken.push(next);
        }
        assert_eq!(taken[0], s("172.17.0.0/16"));
        assert_eq!(taken[14], s("172.31.0.0/16"));
        assert_eq!(taken[15], s("192.168.0.0/20"));
        assert_eq!(taken[30], s("192.168.240.0/20"));
        assert_eq!(taken[31], s("100.64.0.0/24"));
    }

    #[test]
    fn host_routes_are_stepped_over() {
        let taken = [s("172.16.0.0/12"), s("192.168.1.0/24")];
        assert_eq!(choose_subnet(&Pool::defaults(), &taken).unwrap(), s("192.168.16.0/20"));
        let all = [s("0.0.0.0/0")];
        assert!(matches!(choose_subnet(&Pool::defaults(), &all), Err(NetError::PoolsExhausted)));
    }

    #[test]
    fn ula_is_unique_local_and_avoids_others() {
        let id = Id::random();
        let first = choose_ula(&id, &[]).unwrap();
        assert!(s("fd00::/8").covers(&first) && first.prefix() == 64 && first.is_network());
        assert_ne!(choose_ula(&id, &[first]).unwrap(), first);
    }

    #[test]
    fn addresses_run_out_and_come_back() {
        let mut a = Addresses::new(&config("10.0.0.0/29", "10.0.0.1")).unwrap();
        let got: Vec<_> = (0..5).map(|_| a.take(None).unwrap().to_string()).collect();
        assert_eq!(
            got,
            ["10.0.0.2/29", "10.0.0.3/29", "10.0.0.4/29", "10.0.0.5/29", "10.0.0.6/29"]
        );
        assert!(matches!(a.take(None), Err(NetError::AddressesExhausted(_))));
        a.free("10.0.0.4".parse().unwrap());
        assert_eq!(a.take(None).unwrap(), s("10.0.0.4/29"));
    }

    #[test]
    fn static_addresses_are_checked() {
        let mut a = Addresses::new(&config("10.0.0.0/24", "10.0.0.1")).unwrap();
        for bad in ["10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.1.2"] {
            a.take(Some(bad.parse().unwrap())).unwrap_err();
        }
        a.take(Some("10.0.0.9".parse().unwrap())).unwrap();
        assert!(matches!(
            a.take(Some("10.0.0.9".parse().unwrap())),
            Err(NetError::AddressTaken(_))
        ));
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(
            prefix in 22u8..=30,
            steps in proptest::collection::vec((any::<bool>(), any::<u16>()), 1..200),
        ) {
            let net = Subnet::new([10, 1, 0, 0].into(), prefix).unwrap();
            let mut a = Addresses::new(&config(&net.to_string(), "10.1.0.1")).unwrap();
            let mut held: Vec<IpAddr> = Vec::new();
            for (take, n) in steps {
                if take {
                    if let Ok(got) = a.take(None) {
                        prop_assert!(net.contains(got.addr()));
                        prop_assert!(!held.contains(&got.addr()));
                        prop_assert_ne!(got.addr(), IpAddr::from([10, 1, 0, 1]));
                        // Lowest first: nothing free lies below.
                        let below = net.offset(got.addr()).unwrap();
                        for o in 2..below {
                            prop_assert!(held.contains(&net.nth(o).unwrap()));
                        }
                        held.push(got.addr());
                    } else {
                        prop_assert_eq!(held.len() as u128, net.span() - 2);
                    }
                } else if !held.is_empty() {
                    let ip = held.swap_remove(usize::from(n) % held.len());
                    a.free(ip);
                }
            }
        }

        #[test]
        fn chosen_subnets_never_overlap(routes in proptest::collection::vec((any::<u32>(), 8u8..=32), 0..40)) {
            let taken: Vec<_> = routes
                .into_iter()
                .map(|(a, p)| Subnet::new(std::net::Ipv4Addr::from_bits(a).into(), p).unwrap().network())
                .collect();
            if let Ok(got) = choose_subnet(&Pool::defaults(), &taken) {
                prop_assert!(got.is_network());
                prop_assert!(!taken.iter().any(|t| t.overlaps(&got)));
                prop_assert!(Pool::defaults().iter().any(|p| p.base.covers(&got) && p.size == got.prefix()));
            }
        }
    }
}
