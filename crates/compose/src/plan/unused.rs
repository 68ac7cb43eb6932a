//! What a service asks for that an engine on one machine does not do.

use wharf_spec::compose::model::{Deploy, Service, UpdateConfig};

use super::PlanError;

/// Attributes that have no effect here, as the user wrote them. Files are shared with Swarm, so they
/// are told and not refused.
pub(super) fn of(service: &Service) -> Vec<&'static str> {
    let Some(deploy) = &service.deploy else { return Vec::new() };
    let mut out = Vec::new();
    let mut note = |what: &'static str, written: bool| {
        if written {
            out.push(what);
        }
    };
    let Deploy { placement, restart_policy, resources, .. } = deploy;
    note("deploy.mode", !matches!(deploy.mode.as_str(), "" | "replicated"));
    note("deploy.endpoint_mode", !deploy.endpoint_mode.is_empty());
    note(
        "deploy.placement",
        !placement.constraints.is_empty()
            || !placement.preferences.is_empty()
            || placement.max_replicas != 0,
    );
    note("deploy.rollback_config", deploy.rollback_config.is_some());
    note(
        "deploy.update_config (but for its order)",
        deploy.update_config.as_ref().is_some_and(more),
    );
    let policy = restart_policy.as_ref();
    note("deploy.restart_policy.delay", policy.is_some_and(|p| p.delay.is_some()));
    note("deploy.restart_policy.window", policy.is_some_and(|p| p.window.is_some()));
    let amounts = [&resources.limits, &resources.reservations];
    let generic = amounts.into_iter().flatten().any(|r| !r.generic_resources.is_empty());
    note("generic_resources", generic);
    let cpus = resources.reservations.as_ref().is_some_and(|r| r.cpus != 0.0);
    note("deploy.resources.reservations.cpus", cpus);
    out
}

/// Whether an update is described beyond its order.
fn more(update: &UpdateConfig) -> bool {
    let rest = UpdateConfig { order: String::new(), ..update.clone() };
    rest != UpdateConfig { extensions: rest.extensions.clone(), ..UpdateConfig::default() }
}

/// Refuses what a service cannot do without.
pub(super) fn refuse(name: &str, service: &Service) -> Result<(), PlanError> {
    let odd = [
        ("credential_spec", "it is for Windows", service.credential_spec.is_some()),
        ("cpu_percent", "it is for Windows", service.cpu_percent != 0.0),
        ("models", "wharf runs no models", !service.models.is_empty()),
        (
            "use_api_socket",
            "mount the engine's socket by `volumes` if the service may have it",
            service.use_api_socket,
        ),
        ("provider", "programs of other vendors are not run", service.provider.is_some()),
    ];
    let check = service.healthcheck.as_ref();
    if check.is_some_and(|c| c.start_interval.is_some() && c.start_period.is_none()) {
        // Stock Compose's text.
        let why = "healthcheck.start_interval requires healthcheck.start_period to be set";
        return Err(PlanError::Unsupported(why.to_owned()));
    }
    match odd.iter().find(|(_, _, used)| *used) {
        Some((what, why, _)) => {
            Err(PlanError::Unsupported(format!("service {name:?}: {what} is not supported: {why}")))
        }
        None => Ok(()),
    }
}
