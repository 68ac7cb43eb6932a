//! The flags of `wharf kube serve`; those that the reference server has are called as it calls them.

use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Serve {
    /// Directory of the store and the certificates
    #[arg(long, value_name = "DIR", default_value = "/var/lib/wharf/kube")]
    pub(super) data_root: PathBuf,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6443")]
    pub(super) bind: SocketAddr,
    /// Write the administrator's kubeconfig to this file
    #[arg(long, value_name = "FILE")]
    pub(super) write_kubeconfig: Option<PathBuf>,
    /// Add the administrator's context to this kubeconfig, which may exist
    #[arg(long, value_name = "FILE")]
    pub(super) merge_kubeconfig: Option<PathBuf>,
    /// More names and addresses by which clients reach the server
    #[arg(long, value_name = "NAME")]
    pub(super) tls_san: Vec<String>,
    /// Nodes without a runtime to pretend: pods on them are said to run
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) fake_nodes: usize,
    /// The controllers that run: * is all, a name is one, -name all but that one; nothing runs none, so that others can
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "*",
        allow_hyphen_values = true,
        long_help = controllers()
    )]
    pub(super) controllers: Vec<String>,
    #[command(flatten)]
    pub(super) store: Store,
    #[command(flatten)]
    pub(super) auth: Auth,
    /// The policy that says what the audit log keeps
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub(super) audit_policy_file: Option<PathBuf>,
    /// Where the audit log is written; - is standard output
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub(super) audit_log_path: Option<PathBuf>,
    /// Requests that read, worked on at once
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub(super) max_requests_inflight: usize,
    /// Requests that change something, worked on at once
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(super) max_mutating_requests_inflight: usize,
}

/// What `--help` says of the controllers.
fn controllers() -> String {
    let names: Vec<&str> = wharf_controllers::choice::names().collect();
    format!(
        "The controllers that run, separated by commas: * is all, a name is one, and -name is one that does not. With nothing \
         (--controllers=) there is the API alone, for tests and for controllers that run elsewhere. The first word that names a \
         controller counts.\n\nAll controllers: {}",
        names.join(", ")
    )
}

/// Where objects are kept, if not in this process.
#[derive(clap::Args)]
pub(super) struct Store {
    /// Keep objects in this etcd cluster: URLs of its members, separated by commas
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(super) etcd: Vec<String>,
    /// The authority that signed the certificates of the members
    #[arg(long, value_name = "FILE", requires = "etcd")]
    pub(super) etcd_cafile: Option<PathBuf>,
    /// The certificate to show to the members
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile", requires = "etcd")]
    pub(super) etcd_certfile: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub(super) etcd_keyfile: Option<PathBuf>,
}

/// Who is believed besides the server's own authority.
#[derive(clap::Args)]
pub(super) struct Auth {
    /// A file of tokens: token,user,uid,"group1,group2"
    #[arg(long, value_name = "FILE")]
    pub(super) token_auth_file: Option<PathBuf>,
    /// An OpenID Connect issuer whose tokens are taken
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub(super) oidc_issuer_url: Option<String>,
    /// The audience that its tokens must be for
    #[arg(long, value_name = "ID", requires = "oidc_issuer_url")]
    pub(super) oidc_client_id: Option<String>,
    /// The claim that names the user
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    pub(super) oidc_username_claim: String,
    /// What user names begin with; - is nothing [default: the issuer and #, unless the claim is email]
    #[arg(long, value_name = "PREFIX")]
    pub(super) oidc_username_prefix: Option<String>,
    /// The claim that lists groups
    #[arg(long, value_name = "CLAIM", default_value = "")]
    pub(super) oidc_groups_claim: String,
    /// What groups begin with
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub(super) oidc_groups_prefix: String,
    /// A claim that tokens must have, with its value
    #[arg(long, value_name = "CLAIM=VALUE")]
    pub(super) oidc_required_claim: Vec<String>,
    /// The authority that signed the issuer's certificate [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "oidc_issuer_url")]
    pub(super) oidc_ca_file: Option<PathBuf>,
    /// Names of proxies that are believed when they say who asks [default: any that the authority of proxies signed]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) requestheader_allowed_names: Vec<String>,
}
