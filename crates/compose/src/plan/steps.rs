//! Steps and the order between them.

use std::collections::BTreeMap;
use std::fmt;

/// A container that a step is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    /// One that was there when the plan was made.
    Known {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// One that an earlier step makes.
    Made {
        /// The service.
        service: String,
        /// Its number.
        number: i64,
        /// Its name once all is done.
        name: String,
    },
}

impl Container {
    /// The name that people see.
    pub fn name(&self) -> &str {
        match self {
            Self::Known { name, .. } | Self::Made { name, .. } => name,
        }
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the network with this key.
    CreateNetwork(String),
    /// Remove a network.
    RemoveNetwork {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// Take a container out of a network.
    Disconnect {
        /// The network's id.
        network: String,
        /// The container's id.
        container: String,
    },
    /// Make the volume with this key.
    CreateVolume(String),
    /// Remove a volume.
    RemoveVolume(String),
    /// Remove an image.
    RemoveImage(String),
    /// Make a container.
    Create {
        /// The service.
        service: String,
        /// Its number.
        number: i64,
        /// Its name.
        name: String,
    },
    /// Make a container in the place of another.
    Recreate {
        /// The service.
        service: String,
        /// Its number.
        number: i64,
        /// Its name.
        name: String,
        /// The other.
        old: String,
        /// Whether the anonymous volumes of the other are kept.
        inherit: bool,
        /// Whether the other goes only when the new one is ready.
        start_first: bool,
        /// Seconds before the other is killed.
        timeout: Option<i64>,
    },
    /// Give a container its last name, which an earlier up did not get to.
    Rename {
        /// The container.
        id: String,
        /// Its name now.
        from: String,
        /// Its name then.
        to: String,
    },
    /// Start a container, with what the service wants before and after.
    Start {
        /// The service.
        service: String,
        /// The container.
        container: Container,
    },
    /// Nothing to do: it runs.
    Running(Container),
    /// Stop a container.
    Stop {
        /// The container.
        id: String,
        /// Its name.
        name: String,
        /// The service, whose hooks run before.
        service: String,
        /// Seconds before it is killed.
        timeout: Option<i64>,
    },
    /// Remove a container.
    Remove {
        /// The container.
        id: String,
        /// Its name.
        name: String,
        /// Whether its anonymous volumes go as well.
        volumes: bool,
    },
    /// Wait until a container is as a dependent wants it.
    Wait {
        /// Who waits.
        dependent: String,
        /// For which service.
        service: String,
        /// Its container.
        container: Container,
        /// `service_healthy`, `service_completed_successfully` or `running_or_healthy`.
        condition: String,
        /// Whether the dependent cannot do without.
        required: bool,
    },
}

/// An action and the steps that come before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// The steps that must be done first, by their place in the plan.
    pub after: Vec<usize>,
}

/// Steps in an order in which they can be done one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// What the user should know.
    pub remarks: Vec<super::Remark>,
}

impl Plan {
    /// Adds a step and returns its place.
    pub(super) fn add(&mut self, action: Action, after: Vec<usize>) -> usize {
        self.steps.push(Step { action, after });
        self.steps.len() - 1
    }

    /// Whether the plan changes anything.
    pub fn is_idle(&self) -> bool {
        self.steps.iter().all(|s| matches!(s.action, Action::Running(_) | Action::Wait { .. }))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateNetwork(key) => write!(f, "create network {key}"),
            Self::RemoveNetwork { name, .. } => write!(f, "remove network {name}"),
            Self::Disconnect { network, container } => {
                write!(f, "disconnect {container} from {network}")
            }
            Self::CreateVolume(key) => write!(f, "create volume {key}"),
            Self::RemoveVolume(name) => write!(f, "remove volume {name}"),
            Self::RemoveImage(name) => write!(f, "remove image {name}"),
            Self::Create { name, .. } => write!(f, "create {name}"),
            Self::Recreate { name, start_first: true, .. } => {
                write!(f, "recreate {name}, start first")
            }
            Self::Recreate { name, .. } => write!(f, "recreate {name}"),
            Self::Rename { from, to, .. } => write!(f, "rename {from} to {to}"),
            Self::Start { container, .. } => write!(f, "start {}", container.name()),
            Self::Running(container) => write!(f, "{} is running", container.name()),
            Self::Stop { name, .. } => write!(f, "stop {name}"),
            Self::Remove { name, volumes: true, .. } => write!(f, "remove {name} and its volumes"),
            Self::Remove { name, .. } => write!(f, "remove {name}"),
            Self::Wait { container, condition, .. } => {
                write!(f, "wait for {}: {condition}", container.name())
            }
        }
    }
}

impl fmt::Display for Plan {
    /// One step a line, with the numbers of those that it waits for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            write!(f, "{at} {}", step.action)?;
            if !step.after.is_empty() {
                let after: Vec<String> = step.after.iter().map(ToString::to_string).collect();
                write!(f, " after {}", after.join(","))?;
            }
            writeln!(f)?;
        }
        self.remarks.iter().try_for_each(|remark| writeln!(f, "# {remark}"))
    }
}

/// Services so that each comes after what it depends on.
pub(super) fn dependency_order(project: &wharf_spec::compose::Project) -> Vec<String> {
    let mut done: BTreeMap<&str, ()> = BTreeMap::new();
    let mut order = Vec::new();
    fn visit<'p>(
        project: &'p wharf_spec::compose::Project,
        name: &'p str,
        done: &mut BTreeMap<&'p str, ()>,
        order: &mut Vec<String>,
    ) {
        // A cycle was refused when the project was loaded.
        if done.insert(name, ()).is_some() {
            return;
        }
        let Some(service) = project.services.get(name) else { return };
        for dependency in service.depends_on.keys() {
            visit(project, dependency, done, order);
        }
        order.push(name.to_owned());
    }
    for name in project.services.keys() {
        visit(project, name, &mut done, &mut order);
    }
    order
}
