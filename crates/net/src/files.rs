//! The text of `/etc/hosts` and `/etc/resolv.conf` for containers. Pure functions.
