//! Random names and ids.

/// The letters of generated names: no vowels, so no words.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many of them.
const LENGTH: usize = 5;
/// The longest prefix that leaves room for them in a label.
const PREFIX: usize = 63 - LENGTH;

/// A name that begins with `prefix`.
pub fn name(prefix: &str) -> String {
    let mut bytes = [0u8; LENGTH];
    fill(&mut bytes);
    let end = (0..=prefix.len().min(PREFIX)).rev().find(|i| prefix.is_char_boundary(*i));
    let mut out = prefix[..end.unwrap_or(0)].to_owned();
    out.extend(bytes.iter().map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])));
    out
}

/// A version 4 UUID.
pub fn uid() -> String {
    let mut b = [0u8; 16];
    fill(&mut b);
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let h = hex::encode(b);
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}

/// Random bytes from the kernel.
pub fn fill(bytes: &mut [u8]) {
    // The kernel's source fails only before it is seeded, at boot.
    if let Err(e) = getrandom::fill(bytes) {
        tracing::error!(error = %e, "the kernel gives no random bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_have_their_form() {
        let n = name("web-");
        assert_eq!(n.len(), 9);
        assert!(n[4..].bytes().all(|b| LETTERS.contains(&b)));
        assert_eq!(name(&"x".repeat(90)).len(), 63);
        let u = uid();
        assert_eq!((u.len(), &u[14..15]), (36, "4"));
        assert_ne!(u, uid());
    }
}
