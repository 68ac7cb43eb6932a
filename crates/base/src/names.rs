//! Friendly names for containers that were not given one.

/// An adjective and a harbour word, such as `brisk_pier`; `attempt` beyond the first few adds digits.
pub fn random(attempt: u32) -> String {
    let mut seed = [0u8; 4];
    // Without entropy names merely repeat, and the caller tries again with a higher `attempt`.
    getrandom::fill(&mut seed).unwrap_or_default();
    let pick = |list: &'static [&str], a: u8, b: u8| {
        list[usize::from(u16::from_le_bytes([a, b])) % list.len()]
    };
    let (left, right) = (pick(LEFT, seed[0], seed[1]), pick(RIGHT, seed[2], seed[3]));
    match attempt {
        0..=4 => format!("{left}_{right}"),
        _ => format!("{left}_{right}{}", u32::from(seed[0]) * 256 + u32::from(seed[3])),
    }
}

const LEFT: &[&str] = &[
    "able", "agile", "amber", "azure", "bold", "brave", "breezy", "bright", "brisk", "calm",
    "candid", "clear", "clever", "cobalt", "cosy", "crisp", "daring", "deft", "dapper", "eager",
    "early", "easy", "fair", "fearless", "fleet", "fond", "frank", "fresh", "gentle", "gifted",
    "glad", "golden", "grand", "happy", "hardy", "hearty", "honest", "humble", "jolly", "keen",
    "kind", "lively", "loyal", "lucid", "mellow", "merry", "mighty", "modest", "neat", "nimble",
    "noble", "patient", "placid", "plucky", "polite", "proud", "quick", "quiet", "rapid", "ready",
    "robust", "rosy", "serene", "sharp", "silver", "sleek", "smart", "snug", "solid", "spry",
    "steady", "stoic", "sturdy", "sunny", "swift", "tidy", "tranquil", "trusty", "upbeat", "vivid",
    "warm", "wise", "witty", "zesty",
];

const RIGHT: &[&str] = &[
    "anchor",
    "ballast",
    "barge",
    "barque",
    "beacon",
    "berth",
    "bilge",
    "boatswain",
    "bollard",
    "boom",
    "bow",
    "breakwater",
    "bridge",
    "brig",
    "bulkhead",
    "buoy",
    "cabin",
    "cable",
    "canal",
    "capstan",
    "catamaran",
    "channel",
    "chart",
    "cleat",
    "clipper",
    "cog",
    "compass",
    "coxswain",
    "crane",
    "current",
    "cutter",
    "davit",
    "deck",
    "dinghy",
    "dock",
    "dory",
    "estuary",
    "fairway",
    "ferry",
    "fjord",
    "fleet",
    "foghorn",
    "frigate",
    "galley",
    "gangway",
    "gantry",
    "gull",
    "halyard",
    "harbour",
    "hatch",
    "haven",
    "hawser",
    "helm",
    "hold",
    "hull",
    "jetty",
    "jib",
    "junk",
    "keel",
    "ketch",
    "knot",
    "lagoon",
    "landing",
    "lantern",
    "lighter",
    "lighthouse",
    "lock",
    "log",
    "mainsail",
    "marina",
    "mast",
    "mooring",
    "oar",
    "packet",
    "pelican",
    "pier",
    "pilot",
    "pontoon",
    "port",
    "prow",
    "punt",
    "quay",
    "reef",
    "rigging",
    "rudder",
    "sail",
    "schooner",
    "sextant",
    "shoal",
    "skiff",
    "slipway",
    "sloop",
    "sounding",
    "spar",
    "spinnaker",
    "stern",
    "strait",
    "tackle",
    "tender",
    "tide",
    "tiller",
    "trawler",
    "tug",
    "wake",
    "winch",
    "yawl",
];

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_valid_container_names() {
        for attempt in 0..20 {
            let name = super::random(attempt);
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name}");
        }
    }
}
