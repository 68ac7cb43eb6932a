//! Which action a method and path name. One enum is the whole surface of the door.

use http::Method;

/// Everything that a client can ask for. Texts are names or ids, decoded from the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Are you there, and who are you.
    Ping,
    /// The same without the words.
    PingHead,
    /// What the engine can do; any path.
    Options,
    /// Versions of the engine and its parts.
    Version,
    /// The engine, its host, its settings.
    Info,
    /// What happens, as it happens.
    Events,
    /// Check registry credentials.
    Auth,
    /// Disk use by object.
    DiskUsage,
    /// Digest and platforms of a remote image.
    Distribution(String),
    /// Something about containers.
    Container(ContainerAction),
    /// Something about one exec.
    Exec(ExecAction, String),
    /// Something about images.
    Image(ImageAction),
    /// Something about networks.
    Network(NetworkAction),
    /// Something about volumes.
    Volume(VolumeAction),
    /// A container's changes become an image.
    Commit,
    /// Something about builds.
    Build(BuildAction),
    /// Installed plugins: none.
    Plugins,
    /// One plugin, which does not exist: `docker inspect` asks here last.
    PluginInspect(String),
    /// BuildKit's gRPC on this connection.
    Grpc,
    /// A session for builds on this connection.
    Session,
    /// A path of another product area, answered with a clear text.
    Absent(Absent),
}

/// Actions on containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContainerAction {
    /// `GET /containers/json`
    List,
    /// `POST /containers/create`
    Create,
    /// `POST /containers/prune`
    Prune,
    /// An action on the container of that name or id.
    One(OneContainer, String),
}

/// Actions on one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OneContainer {
    /// `GET /json`
    Inspect,
    /// `GET /top`
    Top,
    /// `GET /logs`
    Logs,
    /// `GET /stats`
    Stats,
    /// `GET /changes`
    Changes,
    /// `GET /export`
    Export,
    /// `POST /start`
    Start,
    /// `POST /stop`
    Stop,
    /// `POST /restart`
    Restart,
    /// `POST /kill`
    Kill,
    /// `POST /pause`
    Pause,
    /// `POST /unpause`
    Unpause,
    /// `POST /wait`
    Wait,
    /// `POST /resize`
    Resize,
    /// `POST /rename`
    Rename,
    /// `POST /update`
    Update,
    /// `POST /attach`
    Attach,
    /// `GET /attach/ws`
    AttachWebSocket,
    /// `POST /exec`
    ExecCreate,
    /// `HEAD /archive`
    ArchiveStat,
    /// `GET /archive`
    ArchiveOut,
    /// `PUT /archive`
    ArchiveIn,
    /// `POST /interfaces`: an extension of wharf's.
    Plug,
    /// `DELETE /interfaces`: an extension of wharf's.
    Unplug,
    /// `DELETE`
    Remove,
}

/// Actions on one exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExecAction {
    /// `GET /json`
    Inspect,
    /// `POST /start`
    Start,
    /// `POST /resize`
    Resize,
}

/// Actions on images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageAction {
    /// `GET /images/json`
    List,
    /// `POST /images/create`: pull or import.
    Create,
    /// `GET /images/search`
    Search,
    /// `GET /images/get`
    SaveMany,
    /// `POST /images/load`
    Load,
    /// `POST /images/prune`
    Prune,
    /// `GET /images/{name}/json`
    Inspect(String),
    /// `GET /images/{name}/history`
    History(String),
    /// `GET /images/{name}/get`
    Save(String),
    /// `POST /images/{name}/tag`
    Tag(String),
    /// `POST /images/{name}/push`
    Push(String),
    /// `DELETE /images/{name}`
    Remove(String),
}

/// Actions on networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NetworkAction {
    /// `GET /networks`
    List,
    /// `POST /networks/create`
    Create,
    /// `POST /networks/prune`
    Prune,
    /// `GET /networks/{id}`
    Inspect(String),
    /// `POST /networks/{id}/connect`
    Connect(String),
    /// `POST /networks/{id}/disconnect`
    Disconnect(String),
    /// `DELETE /networks/{id}`
    Remove(String),
}

/// Actions on volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VolumeAction {
    /// `GET /volumes`
    List,
    /// `POST /volumes/create`
    Create,
    /// `POST /volumes/prune`
    Prune,
    /// `GET /volumes/{name}`
    Inspect(String),
    /// `PUT /volumes/{name}`: cluster volumes only.
    Update,
    /// `DELETE /volumes/{name}`
    Remove(String),
}

/// Actions of the builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuildAction {
    /// `POST /build`
    Build,
    /// Which files a kept context lacks: wharf's own.
    Context,
    /// `POST /build/cancel`
    Cancel,
    /// `POST /build/prune`
    Prune,
}

/// Areas of the API that this engine does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// Swarm, nodes, services, tasks, secrets, configs.
    Swarm,
    /// Plugin installation.
    Plugins,
    /// Checkpoints by CRIU.
    Checkpoint,
}

/// Finds the action of a decoded path without its version. `None` is "page not found".
pub(crate) fn route(method: &Method, path: &str) -> Option<Action> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    if method == Method::OPTIONS {
        return Some(Action::Options);
    }
    match parts.as_slice() {
        ["containers", rest @ ..] => container(method, rest),
        ["exec", rest @ ..] => exec(method, rest),
        ["images", rest @ ..] => image(method, rest).map(Action::Image),
        ["networks", rest @ ..] => network(method, rest).map(Action::Network),
        ["volumes", rest @ ..] => volume(method, rest).map(Action::Volume),
        rest => system(method, rest),
    }
}

fn system(method: &Method, parts: &[&str]) -> Option<Action> {
    Some(match (method.as_str(), parts) {
        ("GET", ["_ping"]) => Action::Ping,
        ("HEAD", ["_ping"]) => Action::PingHead,
        ("GET", ["version"]) => Action::Version,
        ("GET", ["info"]) => Action::Info,
        ("GET", ["events"]) => Action::Events,
        ("POST", ["auth"]) => Action::Auth,
        ("GET", ["system", "df"]) => Action::DiskUsage,
        ("GET", ["distribution", name @ .., "json"]) => Action::Distribution(join(name)?),
        ("POST", ["commit"]) => Action::Commit,
        ("GET", ["plugins"]) => Action::Plugins,
        ("GET", ["plugins", name @ .., "json"]) => Action::PluginInspect(join(name)?),
        (_, ["plugins", ..]) => Action::Absent(Absent::Plugins),
        ("POST", ["build"]) => Action::Build(BuildAction::Build),
        ("POST", ["build", "context"]) => Action::Build(BuildAction::Context),
        ("POST", ["build", "cancel"]) => Action::Build(BuildAction::Cancel),
        ("POST", ["build", "prune"]) => Action::Build(BuildAction::Prune),
        (_, ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..]) => {
            Action::Absent(Absent::Swarm)
        }
        ("POST", ["grpc"]) => Action::Grpc,
        ("POST", ["session"]) => Action::Session,
        _ => return None,
    })
}

fn container(method: &Method, parts: &[&str]) -> Option<Action> {
    use OneContainer as One;
    let (action, name) = match (method.as_str(), parts) {
        ("GET", ["json"]) => return Some(Action::Container(ContainerAction::List)),
        ("POST", ["create"]) => return Some(Action::Container(ContainerAction::Create)),
        ("POST", ["prune"]) => return Some(Action::Container(ContainerAction::Prune)),
        (_, [_, "checkpoints", ..]) => return Some(Action::Absent(Absent::Checkpoint)),
        ("GET", [name @ .., "attach", "ws"]) => (One::AttachWebSocket, name),
        ("HEAD", [name @ .., "archive"]) => (One::ArchiveStat, name),
        ("PUT", [name @ .., "archive"]) => (One::ArchiveIn, name),
        ("DELETE", [name @ .., "interfaces"]) => (One::Unplug, name),
        ("DELETE", name) => (One::Remove, name),
        ("GET", [name @ .., verb]) => (container_get(verb)?, name),
        ("POST", [name @ .., verb]) => (container_post(verb)?, name),
        _ => return None,
    };
    Some(Action::Container(ContainerAction::One(action, join(name)?)))
}

fn container_get(verb: &str) -> Option<OneContainer> {
    Some(match verb {
        "json" => OneContainer::Inspect,
        "top" => OneContainer::Top,
        "logs" => OneContainer::Logs,
        "stats" => OneContainer::Stats,
        "changes" => OneContainer::Changes,
        "export" => OneContainer::Export,
        "archive" => OneContainer::ArchiveOut,
        _ => return None,
    })
}

fn container_post(verb: &str) -> Option<OneContainer> {
    Some(match verb {
        "start" => OneContainer::Start,
        "stop" => OneContainer::Stop,
        "restart" => OneContainer::Restart,
        "kill" => OneContainer::Kill,
        "pause" => OneContainer::Pause,
        "unpause" => OneContainer::Unpause,
        "wait" => OneContainer::Wait,
        "resize" => OneContainer::Resize,
        "rename" => OneContainer::Rename,
        "update" => OneContainer::Update,
        "attach" => OneContainer::Attach,
        "exec" => OneContainer::ExecCreate,
        "interfaces" => OneContainer::Plug,
        _ => return None,
    })
}

fn exec(method: &Method, parts: &[&str]) -> Option<Action> {
    let (action, id) = match (method.as_str(), parts) {
        ("GET", [id, "json"]) => (ExecAction::Inspect, id),
        ("POST", [id, "start"]) => (ExecAction::Start, id),
        ("POST", [id, "resize"]) => (ExecAction::Resize, id),
        _ => return None,
    };
    Some(Action::Exec(action, (*id).to_owned()))
}

fn image(method: &Method, parts: &[&str]) -> Option<ImageAction> {
    use ImageAction as Image;
    Some(match (method.as_str(), parts) {
        ("GET", ["json"]) => Image::List,
        ("GET", ["search"]) => Image::Search,
        ("GET", ["get"]) => Image::SaveMany,
        ("POST", ["create"]) => Image::Create,
        ("POST", ["load"]) => Image::Load,
        ("POST", ["prune"]) => Image::Prune,
        ("GET", [name @ .., "json"]) => Image::Inspect(join(name)?),
        ("GET", [name @ .., "history"]) => Image::History(join(name)?),
        ("GET", [name @ .., "get"]) => Image::Save(join(name)?),
        ("POST", [name @ .., "tag"]) => Image::Tag(join(name)?),
        ("POST", [name @ .., "push"]) => Image::Push(join(name)?),
        ("DELETE", name) => Image::Remove(join(name)?),
        _ => return None,
    })
}

fn network(method: &Method, parts: &[&str]) -> Option<NetworkAction> {
    use NetworkAction as Network;
    Some(match (method.as_str(), parts) {
        ("GET", []) => Network::List,
        ("POST", ["create"]) => Network::Create,
        ("POST", ["prune"]) => Network::Prune,
        ("GET", name) => Network::Inspect(join(name)?),
        ("POST", [name @ .., "connect"]) => Network::Connect(join(name)?),
        ("POST", [name @ .., "disconnect"]) => Network::Disconnect(join(name)?),
        ("DELETE", name) => Network::Remove(join(name)?),
        _ => return None,
    })
}

fn volume(method: &Method, parts: &[&str]) -> Option<VolumeAction> {
    use VolumeAction as Volume;
    Some(match (method.as_str(), parts) {
        ("GET", []) => Volume::List,
        ("POST", ["create"]) => Volume::Create,
        ("POST", ["prune"]) => Volume::Prune,
        ("GET", name) => Volume::Inspect(join(name)?),
        ("PUT", [_, ..]) => Volume::Update,
        ("DELETE", name) => Volume::Remove(join(name)?),
        _ => return None,
    })
}

/// Image names contain slashes, so a name is every part between the fixed ones.
fn join(parts: &[&str]) -> Option<String> {
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(action: OneContainer, name: &str) -> Option<Action> {
        Some(Action::Container(ContainerAction::One(action, name.into())))
    }

    #[track_caller]
    fn check(request: &str, expected: Option<Action>) {
        let (method, path) = request.split_once(' ').unwrap();
        assert_eq!(route(&method.parse().unwrap(), path), expected, "{request}");
    }

    #[test]
    fn fixed_words_come_before_names() {
        check("GET /containers/json", Some(Action::Container(ContainerAction::List)));
        check("GET /images/json", Some(Action::Image(ImageAction::List)));
        check("GET /images/get", Some(Action::Image(ImageAction::SaveMany)));
        check("POST /volumes/prune", Some(Action::Volume(VolumeAction::Prune)));
        check("POST /networks/create", Some(Action::Network(NetworkAction::Create)));
    }

    #[test]
    fn names_may_have_slashes() {
        check(
            "GET /images/localhost:5000/a/b:1/json",
            Some(Action::Image(ImageAction::Inspect("localhost:5000/a/b:1".into()))),
        );
        check("DELETE /images/a/b", Some(Action::Image(ImageAction::Remove("a/b".into()))));
        check("GET /containers//web/json", one(OneContainer::Inspect, "web"));
    }

    #[test]
    fn each_method_has_its_own_action() {
        check("HEAD /containers/x/archive", one(OneContainer::ArchiveStat, "x"));
        check("GET /containers/x/archive", one(OneContainer::ArchiveOut, "x"));
        check("PUT /containers/x/archive", one(OneContainer::ArchiveIn, "x"));
        check("GET /containers/x/attach/ws", one(OneContainer::AttachWebSocket, "x"));
        check("POST /containers/x/attach", one(OneContainer::Attach, "x"));
        check("DELETE /containers/x", one(OneContainer::Remove, "x"));
        check("HEAD /_ping", Some(Action::PingHead));
    }

    #[test]
    fn a_wrong_method_is_a_page_not_found() {
        for request in [
            "POST /containers/json",
            "GET /containers/x/start",
            "DELETE /containers/",
            "PATCH /info",
            "GET /",
            "GET /nope",
            "GET /containers/x",
            "POST /exec/a/b/start",
        ] {
            check(request, None);
        }
    }

    #[test]
    fn absent_areas_are_known() {
        check("GET /services", Some(Action::Absent(Absent::Swarm)));
        check("GET /nodes/self", Some(Action::Absent(Absent::Swarm)));
        check("POST /build", Some(Action::Build(BuildAction::Build)));
        check("GET /plugins/x/json", Some(Action::PluginInspect("x".into())));
        check("POST /plugins/pull", Some(Action::Absent(Absent::Plugins)));
        check("GET /plugins", Some(Action::Plugins));
    }
}
