//! The daemon's settings, one line each: the key in daemon.json, the flag, its form, and what becomes of it.

/// One setting.
#[derive(Debug)]
pub(super) struct Setting {
    /// In daemon.json.
    pub(super) key: &'static str,
    /// On the command line, without dashes.
    pub(super) flag: &'static str,
    /// One-letter flag.
    pub(super) short: Option<char>,
    /// How it is written.
    pub(super) form: Form,
    /// What wharf does with it.
    pub(super) fate: Fate,
    /// For `--help`.
    pub(super) help: &'static str,
}

/// How a setting is written as a flag; in the file it is the JSON of the same meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Text.
    Text,
    /// `--x`, `--x=true`, `--x=false`.
    Truth,
    /// A whole number.
    Number,
    /// Repeatable; an array in the file.
    List,
    /// `key=value`, repeatable; an object in the file.
    Pairs,
    /// `name=soft[:hard]`, repeatable; an object of objects in the file.
    Ulimits,
    /// `base=CIDR,size=N`, repeatable; an array of objects in the file.
    Pools,
    /// `driver=key=value`, repeatable; an object of objects in the file.
    DriverPairs,
    /// In the file only.
    FileOnly,
}

/// What wharf does with a setting.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// It has dockerd's meaning.
    Used,
    /// It is accepted and changes nothing, for this reason.
    Moot(&'static str),
    /// It is refused, for this reason.
    Refused(&'static str),
    /// It is refused unless it has one of these values; then it changes nothing.
    Only(&'static [&'static str], &'static str),
}

const fn s(
    key: &'static str,
    flag: &'static str,
    form: Form,
    fate: Fate,
    help: &'static str,
) -> Setting {
    Setting { key, flag, short: None, form, fate, help }
}

const fn short(mut setting: Setting, letter: char) -> Setting {
    setting.short = Some(letter);
    setting
}

use Fate::{Moot, Only, Refused, Used};
use Form::{DriverPairs, FileOnly, List, Number, Pairs, Pools, Text, Truth, Ulimits};

const SWARM: Fate = Refused("wharf has no swarm mode");
const CONTAINERD: Fate = Refused("wharf needs no containerd");
const BUILT_IN: Fate = Refused("the runtime is built in");

/// Every setting that dockerd 28 and 29 know, in the order of `--help`.
pub(super) const SETTINGS: &[Setting] = &[
    short(
        s(
            "hosts",
            "host",
            List,
            Used,
            "Address to listen on: unix://PATH, tcp://IP:PORT, fd:// (default: unix://EXEC-ROOT/docker.sock)",
        ),
        'H',
    ),
    s(
        "data-root",
        "data-root",
        Text,
        Used,
        "Directory of everything that survives a reboot (default: /var/lib/wharf)",
    ),
    s(
        "exec-root",
        "exec-root",
        Text,
        Used,
        "Directory of everything that does not (default: /run/wharf)",
    ),
    short(
        s(
            "pidfile",
            "pidfile",
            Text,
            Used,
            "File for the daemon's process id (default: EXEC-ROOT/wharf.pid)",
        ),
        'p',
    ),
    short(
        s(
            "group",
            "group",
            Text,
            Used,
            "Group that may use the unix socket (default: docker, if it exists)",
        ),
        'G',
    ),
    short(s("debug", "debug", Truth, Used, "Log debug messages"), 'D'),
    short(
        s(
            "log-level",
            "log-level",
            Text,
            Used,
            "debug, info, warn, error or fatal (default: info)",
        ),
        'l',
    ),
    s("log-format", "log-format", Text, Used, "text or json (default: text)"),
    s("raw-logs", "raw-logs", Truth, Used, "Log without colours"),
    s("tls", "tls", Truth, Used, "Use TLS on TCP addresses; --tls=false allows plain TCP"),
    s("tlsverify", "tlsverify", Truth, Used, "Use TLS, and demand a certificate of clients"),
    s(
        "tlscacert",
        "tlscacert",
        Text,
        Used,
        "Authority of client certificates (default: ~/.docker/ca.pem)",
    ),
    s("tlscert", "tlscert", Text, Used, "The daemon's certificate (default: ~/.docker/cert.pem)"),
    s("tlskey", "tlskey", Text, Used, "The daemon's key (default: ~/.docker/key.pem)"),
    s(
        "log-driver",
        "log-driver",
        Text,
        Used,
        "Log driver of containers that name none (default: json-file)",
    ),
    s("log-opts", "log-opt", Pairs, Used, "Options of that log driver"),
    s("labels", "label", List, Used, "Label of the daemon, key=value"),
    s(
        "insecure-registries",
        "insecure-registry",
        List,
        Used,
        "Registry (host, host:port or CIDR) that may be used without TLS",
    ),
    s("registry-mirrors", "registry-mirror", List, Used, "Mirror of Docker Hub"),
    s(
        "max-concurrent-downloads",
        "max-concurrent-downloads",
        Number,
        Used,
        "Layers downloaded at a time per pull (default: 3)",
    ),
    s(
        "max-download-attempts",
        "max-download-attempts",
        Number,
        Used,
        "Attempts per download (default: 5)",
    ),
    s(
        "registry-addr",
        "registry-addr",
        Text,
        Used,
        "Address of a registry over the engine's own images, ADDR:PORT (default: none)",
    ),
    s(
        "registry-config",
        "registry-config",
        Text,
        Used,
        "Settings of that registry: a file as for wharf registry serve",
    ),
    s("http-proxy", "http-proxy", Text, Used, "Proxy for HTTP"),
    s("https-proxy", "https-proxy", Text, Used, "Proxy for HTTPS"),
    s("no-proxy", "no-proxy", Text, Used, "Hosts that need no proxy, separated by commas"),
    s("proxies", "", FileOnly, Used, "Object with http-proxy, https-proxy and no-proxy"),
    short(
        s(
            "bridge",
            "bridge",
            Text,
            Used,
            "Bridge of the default network, or none (default: docker0)",
        ),
        'b',
    ),
    s("bip", "bip", Text, Used, "IPv4 address and prefix of that bridge"),
    s("bip6", "bip6", Text, Used, "IPv6 address and prefix of that bridge"),
    s("fixed-cidr", "fixed-cidr", Text, Used, "IPv4 range for containers on that bridge"),
    s("fixed-cidr-v6", "fixed-cidr-v6", Text, Used, "IPv6 subnet of that bridge"),
    s("default-gateway", "default-gateway", Text, Used, "IPv4 gateway when it is not the bridge"),
    s(
        "default-gateway-v6",
        "default-gateway-v6",
        Text,
        Used,
        "IPv6 gateway when it is not the bridge",
    ),
    s("ipv6", "ipv6", Truth, Used, "Give containers on that bridge IPv6 addresses"),
    s(
        "icc",
        "icc",
        Truth,
        Used,
        "Let containers on that bridge talk to each other (default: true)",
    ),
    s("ip-masq", "ip-masq", Truth, Used, "Masquerade what containers send out (default: true)"),
    s("ip-forward", "ip-forward", Truth, Used, "Turn on IP forwarding (default: true)"),
    s("ip", "ip", Text, Used, "Host address of published ports that name none (default: all)"),
    s("mtu", "mtu", Number, Used, "MTU of bridge networks (default: that of the default route)"),
    s(
        "default-address-pools",
        "default-address-pool",
        Pools,
        Used,
        "Where subnets come from: base=CIDR,size=PREFIX",
    ),
    s("dns", "dns", List, Used, "Name server of containers that name none"),
    s("dns-opts", "dns-opt", List, Used, "Resolver option"),
    s("dns-search", "dns-search", List, Used, "Search domain"),
    s("host-gateway-ips", "host-gateway-ip", List, Used, "What host-gateway means in --add-host"),
    s("host-gateway-ip", "", FileOnly, Used, "Older name of host-gateway-ips"),
    s(
        "cgroup-parent",
        "cgroup-parent",
        Text,
        Used,
        "Cgroup under which containers get theirs (default: /docker)",
    ),
    s("default-cgroupns-mode", "default-cgroupns-mode", Text, Used, "private or host"),
    s(
        "default-ipc-mode",
        "default-ipc-mode",
        Text,
        Used,
        "private or shareable (default: private)",
    ),
    s("default-shm-size", "default-shm-size", Text, Used, "Size of /dev/shm (default: 64M)"),
    s("default-ulimits", "default-ulimit", Ulimits, Used, "Limit of containers: name=soft[:hard]"),
    s("init", "init", Truth, Used, "Put an init before every container's program"),
    s(
        "no-new-privileges",
        "no-new-privileges",
        Truth,
        Used,
        "Set no-new-privileges on every container",
    ),
    s(
        "seccomp-profile",
        "seccomp-profile",
        Text,
        Used,
        "File with a seccomp profile, builtin, or unconfined",
    ),
    s("cdi-spec-dirs", "cdi-spec-dir", List, Used, "Directory with CDI device descriptions"),
    s(
        "shutdown-timeout",
        "shutdown-timeout",
        Number,
        Used,
        "Seconds that clients get to finish at shutdown (default: 15)",
    ),
    s("experimental", "experimental", Truth, Used, "Report experimental features as enabled"),
    s(
        "live-restore",
        "live-restore",
        Truth,
        Moot("containers always outlive the daemon"),
        "Containers always outlive the daemon",
    ),
    s(
        "userland-proxy",
        "userland-proxy",
        Truth,
        Moot("ports need no proxy process"),
        "Published ports never need a proxy process",
    ),
    s(
        "userland-proxy-path",
        "userland-proxy-path",
        Text,
        Moot("ports need no proxy process"),
        "Published ports never need a proxy process",
    ),
    s("init-path", "init-path", Text, Moot("the init is built in"), "The init is built in"),
    s("default-init", "", FileOnly, Moot("the init is built in"), "The init is built in"),
    s(
        "features",
        "feature",
        Pairs,
        Moot("wharf has no feature switches"),
        "Feature switches have no effect",
    ),
    s(
        "builder",
        "",
        FileOnly,
        Used,
        "Object with gc: enabled, defaultKeepStorage (default: a tenth of the disk)",
    ),
    s(
        "max-concurrent-uploads",
        "max-concurrent-uploads",
        Number,
        Used,
        "Blobs uploaded at a time per push (default: 5)",
    ),
    s(
        "ip-forward-no-drop",
        "ip-forward-no-drop",
        Truth,
        Moot("wharf does not touch the host's forward policy"),
        "The host's forward policy is never changed",
    ),
    s(
        "containerd-namespace",
        "containerd-namespace",
        Text,
        Moot("wharf needs no containerd"),
        "There is no containerd",
    ),
    s(
        "containerd-plugin-namespace",
        "containerd-plugins-namespace",
        Text,
        Moot("wharf needs no containerd"),
        "There is no containerd",
    ),
    s(
        "iptables",
        "iptables",
        Truth,
        Only(
            &["true"],
            "published ports and network isolation are wharf's own nf_tables rules; wharf never touches rules of others",
        ),
        "Firewall rules cannot be turned off",
    ),
    s(
        "ip6tables",
        "ip6tables",
        Truth,
        Only(
            &["true"],
            "published ports and network isolation are wharf's own nf_tables rules; wharf never touches rules of others",
        ),
        "Firewall rules cannot be turned off",
    ),
    s(
        "firewall-backend",
        "firewall-backend",
        Text,
        Only(&["", "nftables"], "wharf speaks nf_tables only"),
        "nftables",
    ),
    s(
        "default-runtime",
        "default-runtime",
        Text,
        Only(&["", "runc", "io.containerd.runc.v2", "wharf"], "the runtime is built in"),
        "The runtime is built in",
    ),
    s(
        "storage-driver",
        "storage-driver",
        Text,
        Only(&["", "overlay2", "overlayfs"], "wharf stores layers for overlayfs only"),
        "overlay2",
    ),
    s(
        "exec-opts",
        "exec-opt",
        List,
        Only(&["native.cgroupdriver=cgroupfs"], "wharf manages cgroups itself"),
        "native.cgroupdriver=cgroupfs",
    ),
    s("runtimes", "add-runtime", Pairs, BUILT_IN, "Not supported: the runtime is built in"),
    s("storage-opts", "storage-opt", List, Refused("overlayfs takes no options"), "Not supported"),
    s(
        "selinux-enabled",
        "selinux-enabled",
        Truth,
        Only(
            &["false"],
            "wharf does not label containers for SELinux by default; use --security-opt label=",
        ),
        "Not supported",
    ),
    s(
        "userns-remap",
        "userns-remap",
        Text,
        Only(&[""], "use --userns or user namespaces per container"),
        "Not supported",
    ),
    s(
        "rootless",
        "rootless",
        Truth,
        Only(&["false"], "wharf's daemon runs as root"),
        "Not supported",
    ),
    s(
        "metrics-addr",
        "metrics-addr",
        Text,
        Only(&[""], "this version serves no metrics"),
        "Not supported yet",
    ),
    s(
        "authorization-plugins",
        "authorization-plugin",
        List,
        Refused("wharf has no plugins"),
        "Not supported",
    ),
    s(
        "default-network-opts",
        "default-network-opt",
        DriverPairs,
        Used,
        "Option of every new network of a driver, driver=key=value",
    ),
    s(
        "default-stop-timeout",
        "default-stop-timeout",
        Number,
        Only(&["10"], "give a timeout to each container: docker run --stop-timeout"),
        "Not supported",
    ),
    s("network-control-plane-mtu", "network-control-plane-mtu", Number, SWARM, "Not supported"),
    s("network-diagnostic-port", "network-diagnostic-port", Number, SWARM, "Not supported"),
    s(
        "allow-direct-routing",
        "allow-direct-routing",
        Truth,
        Only(
            &["false"],
            "use the network option com.docker.network.bridge.gateway_mode_ipv4=routed",
        ),
        "Not supported",
    ),
    s(
        "bridge-accept-fwmark",
        "bridge-accept-fwmark",
        Text,
        Only(&[""], "this version does not accept packets by mark"),
        "Not supported",
    ),
    s("swarm-default-advertise-addr", "swarm-default-advertise-addr", Text, SWARM, "Not supported"),
    s("swarm-raft-heartbeat-tick", "", FileOnly, SWARM, "Not supported"),
    s("swarm-raft-election-tick", "", FileOnly, SWARM, "Not supported"),
    s("node-generic-resources", "node-generic-resource", List, SWARM, "Not supported"),
    s("containerd", "containerd", Text, CONTAINERD, "Not supported"),
    s("cri-containerd", "cri-containerd", Truth, CONTAINERD, "Not supported"),
    s(
        "cpu-rt-period",
        "cpu-rt-period",
        Number,
        Only(&["0"], "real-time groups are set per container"),
        "Not supported",
    ),
    s(
        "cpu-rt-runtime",
        "cpu-rt-runtime",
        Number,
        Only(&["0"], "real-time groups are set per container"),
        "Not supported",
    ),
    s("resolv-conf", "", FileOnly, Refused("wharf reads /etc/resolv.conf"), "Not supported"),
    s(
        "min-api-version",
        "",
        FileOnly,
        Only(&["1.24"], "wharf serves API versions from 1.24 on"),
        "Not supported",
    ),
    s("nri-opts", "nri-opts", Text, Refused("wharf has no NRI"), "Not supported"),
];

/// The setting of a key in daemon.json.
pub(super) fn by_key(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_flags_are_unique() {
        let mut keys: Vec<_> = SETTINGS.iter().map(|s| s.key).collect();
        let mut flags: Vec<_> = SETTINGS.iter().map(|s| s.flag).filter(|f| !f.is_empty()).collect();
        for list in [&mut keys, &mut flags] {
            let all = list.len();
            list.sort_unstable();
            list.dedup();
            assert_eq!(list.len(), all);
        }
    }

    #[test]
    fn what_has_no_flag_is_for_the_file_only() {
        for s in SETTINGS {
            assert_eq!(s.flag.is_empty(), s.form == Form::FileOnly, "{}", s.key);
        }
    }
}
