//! `wharf daemon`: settings, the floors put on top of each other, signals, and an orderly end.

mod doors;
mod log;
mod lull;
mod pidfile;
mod settings;
mod table;
mod written;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::ArgMatches;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use wharf_base::clock::Clock;
use wharf_base::db::Db;
use wharf_build::Builder;
use wharf_buildkit::{self as buildkit, BuildKit};
use wharf_engine::events::{Attributes, Events, Kind};
use wharf_engine::images::Images;
use wharf_engine::networks::Networks;
use wharf_engine::{Engine, Parts, info};
use wharf_image::ImageStore;
use wharf_keeper::Launcher;
use wharf_net::Net;
use wharf_serve::Door;

use log::Level;
use pidfile::Pidfile;
use settings::Settings;

/// Threads that run requests. Their work is short; what blocks goes to other threads.
const WORKERS: usize = 2;
/// Threads for what blocks: files, the network layer. They go away when idle.
const BLOCKING: usize = 64;
/// How long an idle blocking thread stays.
const IDLE: std::time::Duration = std::time::Duration::from_secs(2);

/// Runs the daemon with the arguments after `daemon`.
pub(crate) fn main(args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let matches = match command().bin_name("wharf daemon").try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(e) => return usage(&e),
    };
    match start(matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // The log may not be there yet, and a person is likely to read this.
            #[allow(clippy::print_stderr, reason = "the last words of a daemon that failed")]
            {
                eprintln!("wharf daemon: {e:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// For parts of the binary that have no settings of their own for it.
pub(crate) fn log_to_stderr(level: tracing::level_filters::LevelFilter) {
    drop(log::init(settings::Log { level, json: false, colour: true }));
}

/// The daemon's flags.
pub(crate) fn command() -> clap::Command {
    written::command().version(info::VERSION)
}

fn usage(e: &clap::Error) -> ExitCode {
    // Nothing can be said if the terminal is gone.
    drop(e.print());
    ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(1))
}

fn start(matches: ArgMatches) -> Result<()> {
    let read = written::read(&matches)?;
    let settings = settings::resolve(read.written)?;
    if matches.get_flag("validate") {
        #[allow(clippy::print_stdout, reason = "the answer to --validate")]
        {
            println!("configuration OK");
        }
        return Ok(());
    }
    let level = log::init(settings.log);
    for (key, why) in read.moot {
        tracing::warn!(setting = key, why, "setting has no effect");
    }
    wharf_sys::daemon::tune_heap();
    let inherited = wharf_sys::daemon::inherited_sockets().context("take over sockets")?;
    let launcher = Launcher::spawn(wharf_keeper::client::Program::default())?;
    if let Err(e) = wharf_sys::daemon::raise_file_limit() {
        tracing::warn!(error = %e, "the limit of open files stays as it is");
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(IDLE)
        .thread_name("wharf")
        .enable_all()
        .build()
        .context("start threads")?
        .block_on(run(Daemon { matches, settings, level, launcher }, inherited))
}

/// What the daemon has before it is up.
struct Daemon {
    matches: ArgMatches,
    settings: Settings,
    level: Level,
    launcher: Launcher,
}

/// What there is once it is up.
struct House {
    engine: Engine,
    door: Arc<Door>,
    events: Events,
    registry: Option<wharf_registry::Registry>,
}

async fn run(daemon: Daemon, inherited: Vec<(String, wharf_sys::daemon::Inherited)>) -> Result<()> {
    let mut signals = Signals::new()?;
    let settings = &daemon.settings;
    wharf_base::fs::private_dir(&settings.root)
        .with_context(|| format!("create {}", settings.root.display()))?;
    open_dir(&settings.exec_root)?;
    let _pidfile = Pidfile::create(&settings.pidfile)?;
    let house = build(settings, daemon.launcher.clone()).await?;
    let registry = match (&settings.registry, &house.registry) {
        (Some(how), Some(registry)) => Some((registry.clone(), how.listen().await?)),
        _ => None,
    };
    let listeners = doors::open(settings, inherited).await?;
    let hosts: Vec<String> = settings.hosts.iter().map(ToString::to_string).collect();
    tracing::info!(version = info::VERSION, hosts = hosts.join(" "), "daemon is up");
    doors::tell_service_manager("READY=1");
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(wharf_serve::serve(
        house.door.clone(),
        listeners,
        shutdown.clone(),
        settings.shutdown_timeout,
    ));
    let mut doors = vec![house.door.traffic()];
    doors.extend(house.registry.as_ref().map(wharf_registry::Registry::traffic));
    let resting = tokio::spawn(lull::watch(doors));
    let ships = registry.map(|(registry, (listener, tls))| {
        let (shutdown, grace) = (shutdown.clone(), settings.shutdown_timeout);
        tokio::spawn(wharf_registry::serve(registry, listener, tls, shutdown, grace))
    });
    wait_for_end(&mut signals, &daemon, &house).await;
    resting.abort();
    doors::tell_service_manager("STOPPING=1");
    shutdown.cancel();
    // A second signal does not wait for clients.
    tokio::select! {
        served = serving => served.context("serve")?,
        () = signals.end() => tracing::warn!("second signal, clients cut off"),
    }
    if let Some(ships) = ships {
        ships.await.context("serve the registry")?;
    }
    house.engine.shutdown().await;
    tracing::info!("daemon has ended, containers go on");
    Ok(())
}

/// The directory of the socket: its group must be able to pass through, and nobody to list it.
fn open_dir(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .with_context(|| format!("create {}", path.display()))
}

/// Opens the floors from the bottom up.
async fn build(settings: &Settings, launcher: Launcher) -> Result<House> {
    let db = Db::open(&settings.root.join("db"))?;
    let images = ImageStore::open(&settings.root, db.clone(), settings.images.clone())?;
    let net = Net::open(db.clone(), settings.net.clone())?;
    let clock = Clock::system();
    let events = Events::new(clock.clone());
    let mut system = settings.system.clone();
    system.id = info::engine_id(&db)?;
    let registry = match &settings.registry {
        Some(how) => Some(how.open(&images, db.clone())?),
        None => None,
    };
    let parts = Parts {
        db: db.clone(),
        images: images.clone(),
        net: net.clone(),
        launcher,
        events: events.clone(),
        clock,
    };
    let engine = Engine::open(settings.engine.clone(), parts).await?;
    let images = Images::new(images, events.clone());
    let builder = Builder::open(engine.clone(), images.clone(), db, settings.build.clone())?;
    let bridge = net.network("bridge").ok().and_then(|n| n.ipam.iter().find_map(|c| c.gateway));
    let networks =
        Networks::new(net, events.clone()).with_defaults(settings.network_options.clone());
    let buildkit = buildkit::Settings {
        dir: settings.root.join("buildkit"),
        id: system.id.clone(),
        version: info::VERSION.to_owned(),
        host_gateway: settings.engine.host_gateway_ips.first().copied().or(bridge),
    };
    let buildkit = BuildKit::open(builder.clone(), images.clone(), buildkit)
        .context("open BuildKit's directory")?;
    let door = Door::new(engine.clone(), images, networks, builder, buildkit, system);
    Ok(House { engine, door, events, registry })
}

async fn wait_for_end(signals: &mut Signals, daemon: &Daemon, house: &House) {
    loop {
        match signals.next().await {
            Told::End => return,
            Told::Reload => reload(daemon, house),
        }
    }
}

/// Reads the settings again and takes over those that can change while the daemon runs.
fn reload(daemon: &Daemon, house: &House) {
    let settings = match written::read(&daemon.matches).and_then(|r| settings::resolve(r.written)) {
        Ok(settings) => settings,
        Err(error) => {
            let error = wharf_base::error::chain(&error).to_string();
            tracing::error!(error, "configuration is wrong, nothing was changed");
            return;
        }
    };
    daemon.level.set(settings.log.level);
    let system = house.door.redescribe(settings.system);
    tracing::info!(debug = system.debug, labels = ?system.labels, "configuration reloaded");
    let attributes: Attributes = [
        ("name".to_owned(), system.id.clone()),
        ("debug".to_owned(), system.debug.to_string()),
        ("labels".to_owned(), format!("{:?}", system.labels)),
    ]
    .into();
    house.events.publish(Kind::Daemon, "reload", &system.id, attributes);
}

/// What a signal asks for.
enum Told {
    /// To end.
    End,
    /// To read the settings again.
    Reload,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        let of = |kind| signal(kind).context("listen for signals");
        Ok(Signals {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
            hangup: of(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.interrupt.recv() => Told::End,
            _ = self.terminate.recv() => Told::End,
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    /// Until the next signal that asks to end.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }
}
