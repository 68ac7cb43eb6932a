//! Networks and a container's place in them.

use super::Map;

go_struct! { NetworkingConfig {
    endpoints_config: Option<Map<Option<EndpointSettings>>> = "EndpointsConfig";
} }

go_struct! { EndpointSettings {
    ipam_config: Option<EndpointIpamConfig> = "IPAMConfig";
    links: Option<Vec<String>> = "Links";
    aliases: Option<Vec<String>> = "Aliases";
    mac_address: String = "MacAddress";
    driver_opts: Option<Map<String>> = "DriverOpts";
    gw_priority: i64 = "GwPriority";
    network_id: String = "NetworkID";
    endpoint_id: String = "EndpointID";
    gateway: String = "Gateway";
    ip_address: String = "IPAddress";
    ip_prefix_len: i64 = "IPPrefixLen";
    ipv6_gateway: String = "IPv6Gateway";
    global_ipv6_address: String = "GlobalIPv6Address";
    global_ipv6_prefix_len: i64 = "GlobalIPv6PrefixLen";
    dns_names: Option<Vec<String>> = "DNSNames";
} }

go_struct! { EndpointIpamConfig {
    ipv4_address: String = "IPv4Address", omitempty;
    ipv6_address: String = "IPv6Address", omitempty;
    link_local_ips: Option<Vec<String>> = "LinkLocalIPs", omitempty;
} }

go_struct! { NetworkCreateRequest {
    name: String = "Name";
    check_duplicate: Option<bool> = "CheckDuplicate", omitempty;
    driver: String = "Driver";
    scope: String = "Scope";
    enable_ipv4: Option<bool> = "EnableIPv4", omitempty;
    enable_ipv6: Option<bool> = "EnableIPv6", omitempty;
    ipam: Option<Ipam> = "IPAM";
    internal: bool = "Internal";
    attachable: bool = "Attachable";
    ingress: bool = "Ingress";
    config_only: bool = "ConfigOnly";
    config_from: Option<ConfigReference> = "ConfigFrom";
    options: Option<Map<String>> = "Options";
    labels: Option<Map<String>> = "Labels";
} }

go_struct! { ConfigReference {
    network: String = "Network";
} }

go_struct! { Ipam {
    driver: String = "Driver";
    options: Option<Map<String>> = "Options";
    config: Option<Vec<IpamConfig>> = "Config";
} }

go_struct! { IpamConfig {
    subnet: String = "Subnet", omitempty;
    ip_range: String = "IPRange", omitempty;
    gateway: String = "Gateway", omitempty;
    auxiliary_addresses: Option<Map<String>> = "AuxiliaryAddresses", omitempty;
} }

go_struct! { NetworkCreateResponse {
    id: String = "Id";
    warning: String = "Warning";
} }

go_struct! { NetworkInspect {
    name: String = "Name";
    id: String = "Id";
    created: String = "Created";
    scope: String = "Scope";
    driver: String = "Driver";
    enable_ipv4: bool = "EnableIPv4";
    enable_ipv6: bool = "EnableIPv6";
    ipam: Ipam = "IPAM";
    internal: bool = "Internal";
    attachable: bool = "Attachable";
    ingress: bool = "Ingress";
    config_from: ConfigReference = "ConfigFrom";
    config_only: bool = "ConfigOnly";
    containers: Map<EndpointResource> = "Containers";
    options: Map<String> = "Options";
    labels: Map<String> = "Labels";
} }

go_struct! { EndpointResource {
    name: String = "Name";
    endpoint_id: String = "EndpointID";
    mac_address: String = "MacAddress";
    ipv4_address: String = "IPv4Address";
    ipv6_address: String = "IPv6Address";
} }

go_struct! { NetworkConnectRequest {
    container: String = "Container";
    endpoint_config: Option<EndpointSettings> = "EndpointConfig", omitempty;
} }

go_struct! { NetworkDisconnectRequest {
    container: String = "Container";
    force: bool = "Force";
} }

go_struct! { InterfaceAttachRequest {
    bridge: String = "Bridge";
    physical: String = "Physical";
    parent: String = "Parent";
    mode: String = "Mode";
    name: String = "Name";
    mac_address: String = "MacAddress";
    mtu: i64 = "Mtu";
    vlan: i64 = "Vlan";
    addresses: Option<Vec<String>> = "Addresses";
    gateways: Option<Vec<String>> = "Gateways";
    routes: Option<Vec<InterfaceRoute>> = "Routes";
} }

go_struct! { InterfaceRoute {
    destination: String = "Destination";
    via: String = "Via";
} }

go_struct! { InterfaceAttachResponse {
    name: String = "Name";
} }

go_struct! { NetworksPruneReport {
    networks_deleted: Option<Vec<String>> = "NetworksDeleted";
} }
