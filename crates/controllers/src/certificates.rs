//! Requests for certificates: those of nodes for themselves are approved, approved ones are signed, old ones go.

use crate::object::{is_deleting, meta, text};
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};
use std::time::Duration;
use wharf_client::resources::CERTIFICATE_REQUESTS;
use wharf_client::{At, Change, Deletion, Question, Write};
use wharf_kube::status::Fault;
use wharf_kube::time;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509CertificationRequest};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const UNKNOWN: &str = "kubernetes.io/legacy-unknown";
/// How long requests stay: decided ones, and those that nobody decides.
const DECIDED: i64 = 3600;
const PENDING: i64 = 24 * 3600;
/// The longest that a certificate lasts, in seconds: a year.
const LONGEST: i64 = 365 * 86400;
/// Grace for clocks that are behind, in seconds.
const BACK: i64 = 300;

/// The authority that signs.
#[derive(Debug, Clone)]
pub struct Authority {
    /// Its certificate, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
}

/// Why a request cannot be signed.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error("unable to parse csr: {0}")]
    Request(String),
    #[error("{0}")]
    Shape(&'static str),
    #[error("the authority cannot sign")]
    Authority(#[from] rcgen::Error),
}

/// The loop; its keys are requests.
pub struct Certificates {
    /// Whether it approves what nodes ask for themselves.
    pub approves: bool,
    /// Who signs; nothing leaves that to others.
    pub signs: Option<Authority>,
    /// Whether it deletes what is old.
    pub cleans: bool,
}

impl Loop for Certificates {
    fn name(&self) -> &'static str {
        "certificate-controller"
    }

    fn wake(&self, _: &World, change: &Change, _: &Before) -> Vec<Key> {
        let ours = *change.resource == CERTIFICATE_REQUESTS && !change.gone;
        if ours { vec![Key::of(&change.object)] } else { Vec::new() }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let object = cx.world.get(&CERTIFICATE_REQUESTS, key).filter(|o| !is_deleting(o));
            let Some(request) = object else { return Ok(Next::Change) };
            let at = At { resource: &CERTIFICATE_REQUESTS, namespace: "", name: &key.name };
            let issued = !text(&request, "/status/certificate").is_empty();
            let decided = has(&request, "Approved") || has(&request, "Denied");
            if self.approves && !decided && approve(cx, at, &request).await? {
                return Ok(Next::Change);
            }
            let signs = has(&request, "Approved") && !has(&request, "Failed") && !issued;
            if let Some(authority) = self.signs.as_ref().filter(|_| signs)
                && [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, UNKNOWN]
                    .contains(&text(&request, "/spec/signerName"))
            {
                answer(cx, at, &request, authority).await?;
                return Ok(Next::Change);
            }
            if !self.cleans {
                return Ok(Next::Change);
            }
            clean(cx, at, &request, issued || decided).await
        })
    }
}

fn conditions(request: &Value) -> &[Value] {
    request.pointer("/status/conditions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn has(request: &Value, kind: &str) -> bool {
    conditions(request).iter().any(|c| c["type"] == kind)
}

/// Deletes a request whose time is up.
async fn clean(cx: &Context, at: At<'_>, request: &Value, decided: bool) -> Result<Next, Fault> {
    let seconds = |t: &str| time::parse_micros(t).map(|m| m / 1_000_000);
    let changed =
        conditions(request).iter().filter_map(|c| seconds(text(c, "/lastUpdateTime"))).max();
    let born = seconds(meta(request, "creationTimestamp")).unwrap_or(0);
    let due = if decided { changed.unwrap_or(born) + DECIDED } else { born + PENDING };
    let left = due - cx.now();
    if left > 0 {
        return Ok(Next::After(Duration::from_secs(left.unsigned_abs())));
    }
    cx.delete(at, Deletion { uid: Some(meta(request, "uid").to_owned()), ..Deletion::default() })
        .await?;
    Ok(Next::Change)
}

/// Approves what a node asks for itself, if it may; says whether it did.
async fn approve(cx: &Context, at: At<'_>, request: &Value) -> Result<bool, Fault> {
    if text(request, "/spec/signerName") != KUBELET_CLIENT || !is_node_client(request) {
        return Ok(false);
    }
    let user = text(request, "/spec/username");
    let own = common_name(request).is_some_and(|n| n == user);
    let mut ways = vec![(
        "nodeclient",
        "Auto approving kubelet client certificate after SubjectAccessReview.",
    )];
    if own {
        ways.insert(
            0,
            (
                "selfnodeclient",
                "Auto approving self kubelet client certificate after SubjectAccessReview.",
            ),
        );
    }
    let groups: Vec<&str> = request["spec"]["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (subresource, message) in ways {
        let question = Question {
            user,
            groups: &groups,
            verb: "create",
            group: "certificates.k8s.io",
            resource: "certificatesigningrequests",
            subresource,
        };
        if cx.may(question).await? {
            let mut next = request.clone();
            push(&mut next, "Approved", "AutoApproved", message, &cx.timestamp());
            cx.write(at, Some("approval"), Write::Replace(next)).await?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn push(request: &mut Value, kind: &str, reason: &str, message: &str, now: &str) {
    let condition = json!({"type": kind, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": now, "lastTransitionTime": now});
    let mut list = conditions(request).to_vec();
    list.push(condition);
    request["status"]["conditions"] = Value::Array(list);
}

fn der(request: &Value) -> Option<Vec<u8>> {
    let pem = STANDARD.decode(text(request, "/spec/request")).ok()?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    Some(block.contents)
}

fn common_name(request: &Value) -> Option<String> {
    let der = der(request)?;
    let (_, csr) = X509CertificationRequest::from_der(&der).ok()?;
    let subject = &csr.certification_request_info.subject;
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

fn usages(request: &Value) -> Vec<&str> {
    request["spec"]["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether a request is what a node needs to be a client: its name, its group, nothing more.
fn is_node_client(request: &Value) -> bool {
    let Some(der) = der(request) else { return false };
    let Ok((_, csr)) = X509CertificationRequest::from_der(&der) else { return false };
    let subject = &csr.certification_request_info.subject;
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    let named = subject.iter_common_name().next().and_then(|n| n.as_str().ok());
    let mut usages = usages(request);
    usages.sort_unstable();
    let fits = usages == ["client auth", "digital signature"]
        || usages == ["client auth", "digital signature", "key encipherment"];
    !names_anything(&csr)
        && groups == ["system:nodes"]
        && named.is_some_and(|n| n.starts_with("system:node:"))
        && fits
}

/// The other names that a request asks for.
fn other_names<'r>(
    csr: &'r X509CertificationRequest<'_>,
) -> impl Iterator<Item = &'r GeneralName<'r>> {
    let extensions = csr.requested_extensions().into_iter().flatten();
    extensions.flat_map(|e| match e {
        ParsedExtension::SubjectAlternativeName(names) => names.general_names.as_slice(),
        _ => &[],
    })
}

fn names_anything(csr: &X509CertificationRequest<'_>) -> bool {
    other_names(csr).next().is_some()
}

/// What keeps a request from being one for a node's server.
fn node_server(request: &Value) -> Result<(), SignError> {
    let der = der(request).unwrap_or_default();
    let Ok((_, csr)) = X509CertificationRequest::from_der(&der) else {
        return Err(SignError::Shape("the request cannot be read"));
    };
    let subject = &csr.certification_request_info.subject;
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    let named = subject.iter_common_name().next().and_then(|n| n.as_str().ok());
    let hosts =
        |n: &GeneralName<'_>| matches!(n, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
    match () {
        () if groups != ["system:nodes"] => {
            Err(SignError::Shape("organization is not system:nodes"))
        }
        () if !named.is_some_and(|n| n.starts_with("system:node:")) => {
            Err(SignError::Shape("subject common name does not begin with system:node:"))
        }
        () if !names_anything(&csr) => {
            Err(SignError::Shape("DNS or IP subjectAltName is required"))
        }
        () if !other_names(&csr).all(hosts) => {
            Err(SignError::Shape("URI and email subjectAltNames are not allowed"))
        }
        () => Ok(()),
    }
}

/// When a certificate ends, in seconds since 1970.
fn end_of(pem: &str) -> Option<i64> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    Some(block.parse_x509().ok()?.validity().not_after.timestamp())
}

/// Signs a request, or says in its status why it cannot be.
async fn answer(
    cx: &Context,
    at: At<'_>,
    request: &Value,
    authority: &Authority,
) -> Result<(), Fault> {
    let mut next = request.clone();
    match sign(request, authority, cx.now()) {
        Ok(pem) => next["status"]["certificate"] = json!(STANDARD.encode(pem)),
        Err(e @ SignError::Authority(_)) => return Err(Fault::internal(e)),
        Err(e) => {
            push(&mut next, "Failed", "SignerValidationFailure", &e.to_string(), &cx.timestamp())
        }
    }
    cx.write(at, Some("status"), Write::Replace(next)).await.map(drop)
}

fn sign(request: &Value, authority: &Authority, now: i64) -> Result<String, SignError> {
    check(request)?;
    let pem = STANDARD
        .decode(text(request, "/spec/request"))
        .ok()
        .and_then(|b| String::from_utf8(b).ok())
        .ok_or_else(|| SignError::Request("it is no text in base64".to_owned()))?;
    let mut csr = CertificateSigningRequestParams::from_pem(&pem)
        .map_err(|e| SignError::Request(e.to_string()))?;
    let asked = request["spec"]["expirationSeconds"].as_i64().unwrap_or(LONGEST);
    let date = |t: i64| {
        ::time::OffsetDateTime::from_unix_timestamp(t).unwrap_or(::time::OffsetDateTime::UNIX_EPOCH)
    };
    csr.params.not_before = date(now - BACK);
    // No certificate outlives its authority.
    let end = end_of(&authority.certificate).unwrap_or(i64::MAX);
    csr.params.not_after = date((now + asked.clamp(600, LONGEST)).min(end));
    csr.params.use_authority_key_identifier_extension = true;
    csr.params.is_ca = rcgen::IsCa::NoCa;
    csr.params.key_usages = usages(request).into_iter().filter_map(key_usage).collect();
    csr.params.extended_key_usages =
        usages(request).into_iter().filter_map(extended_usage).collect();
    let key = KeyPair::from_pem(&authority.key)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, key)?;
    Ok(csr.signed_by(&issuer)?.pem())
}

fn key_usage(name: &str) -> Option<KeyUsagePurpose> {
    Some(match name {
        "digital signature" | "signing" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        _ => return None,
    })
}

fn extended_usage(name: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match name {
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        _ => return None,
    })
}

/// What each signer asks of a request.
fn check(request: &Value) -> Result<(), SignError> {
    let usages = usages(request);
    let within = |list: &[&str]| usages.iter().all(|u| list.contains(u));
    let needs = |usage: &str| usages.contains(&usage);
    let base = ["digital signature", "key encipherment"];
    match text(request, "/spec/signerName") {
        CLIENT if !needs("client auth") || !within(&[base[0], base[1], "client auth"]) => {
            Err(SignError::Shape("invalid usage for client certificate"))
        }
        KUBELET_CLIENT if !is_node_client(request) => {
            Err(SignError::Shape("organization is not system:nodes"))
        }
        KUBELET_SERVING if !needs("server auth") || !within(&[base[0], base[1], "server auth"]) => {
            Err(SignError::Shape("invalid usage for server certificate"))
        }
        KUBELET_SERVING => node_server(request),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType};

    fn request(name: &str, organization: &str, signer: &str, usages: &[&str]) -> Value {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        json!({"metadata": {"name": "r"}, "spec": {"request": STANDARD.encode(pem), "signerName": signer, "usages": usages}})
    }

    fn authority() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority { certificate, key: key.serialize_pem() }
    }

    #[test]
    fn a_signed_certificate_says_who_it_is_and_what_for() {
        let r = request("bob", "devs", CLIENT, &["client auth"]);
        let pem = sign(&r, &authority(), 1_800_000_000).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let cert = block.parse_x509().unwrap();
        assert_eq!(cert.subject().iter_common_name().next().unwrap().as_str().unwrap(), "bob");
        assert!(cert.extended_key_usage().unwrap().unwrap().value.client_auth);
        assert!(!cert.is_ca());
        assert_eq!(cert.validity().not_after.timestamp(), 1_800_000_000 + LONGEST);
    }

    #[test]
    fn signers_refuse_what_is_not_theirs() {
        let wrong = request("bob", "devs", CLIENT, &["server auth"]);
        assert!(sign(&wrong, &authority(), 0).is_err());
        let node = ["digital signature", "client auth"];
        let wrong = request("bob", "system:masters", KUBELET_CLIENT, &node);
        assert!(sign(&wrong, &authority(), 0).is_err());
        let right = request("system:node:a", "system:nodes", KUBELET_CLIENT, &node);
        assert!(sign(&right, &authority(), 0).is_ok());
        let serves = ["digital signature", "server auth"];
        let bare = request("system:node:a", "system:nodes", KUBELET_SERVING, &serves);
        let why = sign(&bare, &authority(), 0).unwrap_err().to_string();
        assert_eq!(why, "DNS or IP subjectAltName is required");
        let stranger = request("system:node:a", "devs", KUBELET_SERVING, &serves);
        assert!(sign(&stranger, &authority(), 0).is_err());
    }
}
