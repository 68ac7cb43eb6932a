//! IP subnets: an address and a prefix length, of either family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address with a prefix length, such as `172.17.0.0/16` or `172.17.0.1/16`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    addr: IpAddr,
    prefix: u8,
}

/// A string that is not a [`Subnet`].
#[derive(Debug, thiserror::Error)]
#[error("invalid subnet {0:?}: want an address and a prefix length such as 172.28.0.0/16")]
pub struct SubnetError(String);

impl Subnet {
    /// `addr/prefix`; `None` if the prefix is longer than the address.
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Subnet> {
        let s = Subnet { addr, prefix };
        (prefix <= s.width()).then_some(s)
    }

    /// The address as written, host bits included.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// The prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether this is IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.addr.is_ipv4()
    }

    /// The same subnet with host bits cleared.
    pub fn network(&self) -> Subnet {
        Subnet { addr: from_bits(self.first(), self.is_ipv4()), prefix: self.prefix }
    }

    /// Whether host bits are clear.
    pub fn is_network(&self) -> bool {
        self.network().addr == self.addr
    }

    /// Whether `ip` is inside.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_ipv4() && (self.first()..=self.last()).contains(&to_bits(ip))
    }

    /// Whether any address is in both.
    pub fn overlaps(&self, other: &Subnet) -> bool {
        self.is_ipv4() == other.is_ipv4()
            && self.first() <= other.last()
            && other.first() <= self.last()
    }

    /// Whether all of `other` is inside.
    pub fn covers(&self, other: &Subnet) -> bool {
        self.contains(other.network().addr()) && self.prefix <= other.prefix
    }

    /// The last address.
    pub fn last_addr(&self) -> IpAddr {
        from_bits(self.last(), self.is_ipv4())
    }

    /// The `n`th address counted from the first, if it is inside.
    pub fn nth(&self, n: u128) -> Option<IpAddr> {
        let bits = self.first().checked_add(n)?;
        (bits <= self.last()).then(|| from_bits(bits, self.is_ipv4()))
    }

    /// How far `ip` is from the first address, if it is inside.
    pub fn offset(&self, ip: IpAddr) -> Option<u128> {
        self.contains(ip).then(|| to_bits(ip) - self.first())
    }

    /// Number of addresses minus one, so that `::/0` does not overflow.
    pub fn span(&self) -> u128 {
        self.last() - self.first()
    }

    fn width(&self) -> u8 {
        if self.is_ipv4() { 32 } else { 128 }
    }

    fn host_mask(&self) -> u128 {
        let host = u32::from(self.width() - self.prefix);
        if host == 128 { u128::MAX } else { (1 << host) - 1 }
    }

    fn first(&self) -> u128 {
        to_bits(self.addr) & !self.host_mask()
    }

    fn last(&self) -> u128 {
        self.first() | self.host_mask()
    }
}

fn to_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn from_bits(bits: u128, v4: bool) -> IpAddr {
    match u32::try_from(bits) {
        Ok(b) if v4 => Ipv4Addr::from_bits(b).into(),
        _ => Ipv6Addr::from_bits(bits).into(),
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(s: &str) -> Result<Subnet, SubnetError> {
        let wrong = || SubnetError(s.to_owned());
        let (addr, prefix) = s.split_once('/').ok_or_else(wrong)?;
        let addr = addr.parse().map_err(|_| wrong())?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix =
            if digits { prefix.parse().map_err(|_| wrong())? } else { return Err(wrong()) };
        Subnet::new(addr, prefix).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(s: String) -> Result<Subnet, SubnetError> {
        s.parse()
    }
}

impl From<Subnet> for String {
    fn from(s: Subnet) -> String {
        s.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn knows_its_bounds() {
        let net = s("172.17.0.1/16");
        assert_eq!(net.network(), s("172.17.0.0/16"));
        assert_eq!(net.last_addr().to_string(), "172.17.255.255");
        assert_eq!(net.nth(2).unwrap().to_string(), "172.17.0.2");
        assert_eq!(net.nth(65536), None);
        assert_eq!(s("::/0").span(), u128::MAX);
        assert_eq!(s("fd00::/64").nth(1).unwrap().to_string(), "fd00::1");
        assert_eq!(s("::/96").nth(1).unwrap().to_string(), "::1");
    }

    #[test]
    fn overlap_is_symmetric_and_per_family() {
        assert!(s("10.0.0.0/8").overlaps(&s("10.1.2.0/24")));
        assert!(s("10.1.2.0/24").overlaps(&s("10.0.0.0/8")));
        assert!(!s("10.0.0.0/24").overlaps(&s("10.0.1.0/24")));
        assert!(!s("0.0.0.0/0").overlaps(&s("::/0")));
        assert!(s("10.0.0.0/8").covers(&s("10.0.0.0/8")));
        assert!(!s("10.1.0.0/16").covers(&s("10.0.0.0/8")));
    }

    #[test]
    fn refuses_what_is_not_a_subnet() {
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/+8", "10.0.0/8", "10.0.0.0/"]
        {
            bad.parse::<Subnet>().unwrap_err();
        }
    }
}
