//! Which loops run, chosen as `kube-controller-manager --controllers` has them chosen.

/// The names of loops: the one of today, and the one that older configurations have.
const NAMES: &[(&str, &str)] = &[
    ("certificatesigningrequest-approving-controller", "csrapproving"),
    ("certificatesigningrequest-cleaner-controller", "csrcleaner"),
    ("certificatesigningrequest-signing-controller", "csrsigning"),
    ("clusterrole-aggregation-controller", "clusterrole-aggregation"),
    ("cronjob-controller", "cronjob"),
    ("daemonset-controller", "daemonset"),
    ("deployment-controller", "deployment"),
    ("disruption-controller", "disruption"),
    ("endpoints-controller", "endpoint"),
    ("endpointslice-controller", "endpointslice"),
    ("endpointslice-mirroring-controller", "endpointslicemirroring"),
    ("ephemeral-volume-controller", "ephemeral-volume"),
    ("garbage-collector-controller", "garbagecollector"),
    ("horizontal-pod-autoscaler-controller", "horizontalpodautoscaling"),
    ("job-controller", "job"),
    ("namespace-controller", "namespace"),
    ("node-lifecycle-controller", "nodelifecycle"),
    ("persistentvolume-binder-controller", "persistentvolume-binder"),
    ("persistentvolume-protection-controller", "pv-protection"),
    ("persistentvolumeclaim-protection-controller", "pvc-protection"),
    ("pod-garbage-collector-controller", "podgc"),
    ("replicaset-controller", "replicaset"),
    ("replicationcontroller-controller", "replicationcontroller"),
    ("resourcequota-controller", "resourcequota"),
    ("root-ca-certificate-publisher-controller", "root-ca-cert-publisher"),
    ("serviceaccount-controller", "serviceaccount"),
    ("serviceaccount-token-controller", "serviceaccount-token"),
    ("statefulset-controller", "statefulset"),
    ("taint-eviction-controller", "taint-eviction-controller"),
    ("token-cleaner-controller", "tokencleaner"),
    ("ttl-after-finished-controller", "ttl-after-finished"),
    ("validatingadmissionpolicy-status-controller", "validatingadmissionpolicy-status-controller"),
];

/// The loops that run. The default is all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    words: Vec<String>,
}

/// A name that no loop has.
#[derive(Debug, thiserror::Error)]
#[error("there is no controller {name:?}; there are: {}", names().collect::<Vec<_>>().join(", "))]
pub struct UnknownController {
    name: String,
}

impl Default for Choice {
    fn default() -> Choice {
        Choice { words: vec!["*".to_owned()] }
    }
}

impl Choice {
    /// From words: `*` is every loop, a name is one, and a name behind `-` is one that does not run. Without
    /// words there are none.
    ///
    /// # Errors
    ///
    /// A word names no loop.
    pub fn parse<'a>(
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<Choice, UnknownController> {
        let words = words.into_iter().map(str::trim).filter(|w| !w.is_empty());
        let word = |w: &str| {
            let (minus, name) = w.strip_prefix('-').map_or(("", w), |name| ("-", name));
            if w == "*" {
                return Ok(w.to_owned());
            }
            let known = NAMES.iter().find(|(now, before)| *now == name || *before == name);
            let unknown = || UnknownController { name: name.to_owned() };
            known.map(|(now, _)| format!("{minus}{now}")).ok_or_else(unknown)
        };
        Ok(Choice { words: words.map(word).collect::<Result<_, _>>()? })
    }

    /// Whether the loop of this name runs. Of words that name it the first counts, and then the star.
    pub(crate) fn has(&self, name: &str) -> bool {
        let named = self.words.iter().find(|w| w.strip_prefix('-').unwrap_or(w) == name);
        named.map_or_else(|| self.words.iter().any(|w| w == "*"), |w| !w.starts_with('-'))
    }
}

/// The names that [`Choice::parse`] knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(now, _)| *now)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether deployments and jobs are looked after.
    #[track_caller]
    fn check(text: &str, deployments: bool, jobs: bool) {
        let choice = Choice::parse(text.split(',')).unwrap();
        let runs = (choice.has("deployment-controller"), choice.has("job-controller"));
        assert_eq!(runs, (deployments, jobs), "{text}");
    }

    #[test]
    fn loops_are_chosen_by_name_and_star() {
        check("*", true, true);
        check("", false, false);
        check("job-controller", false, true);
        check("*,-deployment-controller", false, true);
        check("-deployment-controller,*", false, true);
        check("-deployment-controller", false, false);
        check("*, -deployment", false, true);
        check("deployment,-deployment-controller", true, false);
        let e = Choice::parse(["*", "-deploymnt"]).unwrap_err().to_string();
        assert!(e.starts_with("there is no controller \"deploymnt\"; there are: "), "{e}");
    }
}
