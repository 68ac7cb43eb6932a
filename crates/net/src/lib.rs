//! Container networks: bridges, addresses, published ports, firewall rules.
#![forbid(unsafe_code)]
