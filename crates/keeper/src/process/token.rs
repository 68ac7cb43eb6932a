//! What a ready descriptor of the keeper's event loop is, packed into the 64 bits that epoll carries.

use crate::log::Stream;

/// One descriptor's meaning. Numbers of pumps, clients and connections are never used twice, so
/// that news of something that has just gone is never taken for news of something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Listener,
    Signals,
    Oom,
    /// The process apart that writes the log.
    Log,
    Connection(u32),
    Output(u32, Stream),
    Input(u32),
    /// Pump (at most 24 bits) and client of it.
    Client(u32, u32),
}

impl Token {
    pub(super) fn pack(self) -> u64 {
        let (kind, high, low) = match self {
            Token::Listener => (0, 0, 0),
            Token::Signals => (1, 0, 0),
            Token::Oom => (2, 0, 0),
            Token::Connection(id) => (3, 0, id),
            Token::Output(pump, Stream::Stdout) => (4, pump, 0),
            Token::Output(pump, Stream::Stderr) => (5, pump, 0),
            Token::Input(pump) => (6, pump, 0),
            Token::Client(pump, client) => (7, pump, client),
            Token::Log => (8, 0, 0),
        };
        kind << 56 | u64::from(high) << 32 | u64::from(low)
    }

    pub(super) fn unpack(packed: u64) -> Option<Token> {
        let high = u32::try_from(packed >> 32 & 0x00ff_ffff).ok()?;
        let low = u32::try_from(packed & 0xffff_ffff).ok()?;
        Some(match packed >> 56 {
            0 => Token::Listener,
            1 => Token::Signals,
            2 => Token::Oom,
            3 => Token::Connection(low),
            4 => Token::Output(high, Stream::Stdout),
            5 => Token::Output(high, Stream::Stderr),
            6 => Token::Input(high),
            7 => Token::Client(high, low),
            8 => Token::Log,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        for token in [
            Token::Listener,
            Token::Signals,
            Token::Oom,
            Token::Log,
            Token::Connection(u32::MAX),
            Token::Output(0xff_ffff, Stream::Stdout),
            Token::Output(1, Stream::Stderr),
            Token::Input(9),
            Token::Client(0xff_ffff, u32::MAX),
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
    }
}
