//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A six-byte Ethernet address, written `02:42:ac:11:00:02`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A string that is not a [`Mac`].
#[derive(Debug, thiserror::Error)]
#[error("invalid MAC address {0:?}: want six hex bytes such as 02:42:ac:11:00:02, not multicast")]
pub struct MacError(String);

impl Mac {
    /// A random, locally administered unicast address.
    pub fn random() -> Mac {
        let id = wharf_base::Id::random();
        let mut bytes = [0u8; 6];
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = u8::from_str_radix(&id.as_str()[i * 2..i * 2 + 2], 16).unwrap_or(0);
        }
        bytes[0] = (bytes[0] & 0xfc) | 0x02;
        Mac(bytes)
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(s: &str) -> Result<Mac, MacError> {
        let wrong = || MacError(s.to_owned());
        let mut bytes = [0u8; 6];
        let mut parts = s.split([':', '-']);
        for b in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            *b = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        let unicast = bytes[0] & 1 == 0 && bytes != [0; 6];
        if parts.next().is_some() || !unicast { Err(wrong()) } else { Ok(Mac(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(s: String) -> Result<Mac, MacError> {
        s.parse()
    }
}

impl From<Mac> for String {
    fn from(m: Mac) -> String {
        m.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_docker_accepts() {
        assert_eq!("02:42:AC:11:00:02".parse::<Mac>().unwrap().to_string(), "02:42:ac:11:00:02");
        for bad in
            ["", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "01:00:5e:00:00:01", "0:0:0:0:0:0"]
        {
            bad.parse::<Mac>().unwrap_err();
        }
        assert_eq!(Mac::random().0[0] & 3, 2);
    }
}
