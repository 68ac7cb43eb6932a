//! Interfaces that are added to a container while it runs: `wharf network attach`.

use std::net::IpAddr;
use std::sync::Arc;

use wharf_net::{Plug, Source, Subnet};
use wharf_spec::docker::{InterfaceAttachRequest, InterfaceAttachResponse};

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::record::NetworkMode;

impl Inner {
    /// Adds an interface to a container that runs.
    pub(crate) async fn plug(
        self: &Arc<Self>,
        c: &Arc<Container>,
        request: InterfaceAttachRequest,
    ) -> Result<InterfaceAttachResponse> {
        let plug = read(&request)?;
        let _turn = c.turn.lock().await;
        has_own_network(c)?;
        let id = c.id.clone();
        let work = move |inner: &Arc<Inner>| inner.net.plug(&id, &plug).map_err(EngineError::from);
        let name = self.blocking(work).await?;
        self.emit(&c.record(), "interface_attach", &[("interface", &name)]);
        Ok(InterfaceAttachResponse { name })
    }

    /// Takes one away again.
    pub(crate) async fn unplug(self: &Arc<Self>, c: &Arc<Container>, ifname: &str) -> Result<()> {
        let _turn = c.turn.lock().await;
        has_own_network(c)?;
        let (id, name) = (c.id.clone(), ifname.to_owned());
        let work =
            move |inner: &Arc<Inner>| inner.net.unplug(&id, &name).map_err(EngineError::from);
        self.blocking(work).await?;
        self.emit(&c.record(), "interface_detach", &[("interface", ifname)]);
        Ok(())
    }
}

fn has_own_network(c: &Container) -> Result<()> {
    if c.state().run().is_none() {
        return Err(EngineError::not_running(c.id.as_str()));
    }
    match c.record().network_mode() {
        NetworkMode::Host | NetworkMode::Container(_) => Err(EngineError::invalid(
            "the container shares the network of the host or of another container: it has no interfaces of its own",
        )),
        NetworkMode::None | NetworkMode::Named(_) => Ok(()),
    }
}

fn read(r: &InterfaceAttachRequest) -> Result<Plug> {
    let source = match [r.bridge.as_str(), r.physical.as_str(), r.parent.as_str()] {
        [bridge, "", ""] if !bridge.is_empty() => Source::Bridge(bridge.to_owned()),
        ["", physical, ""] if !physical.is_empty() => Source::Physical(physical.to_owned()),
        ["", "", parent] if !parent.is_empty() => {
            Source::Parent { name: parent.to_owned(), mode: r.mode.clone() }
        }
        _ => {
            return Err(EngineError::invalid(
                "say where the interface comes from: one of a bridge, an interface of the host, or a parent",
            ));
        }
    };
    if !r.mode.is_empty() && r.parent.is_empty() {
        return Err(EngineError::invalid("a mode is for the child of a parent"));
    }
    let mut routes = Vec::new();
    for route in r.routes.iter().flatten() {
        let via = some(&route.via, "gateway")?;
        routes.push((one::<Subnet>(&route.destination, "destination")?, via));
    }
    Ok(Plug {
        source,
        ifname: Some(r.name.clone()).filter(|n| !n.is_empty()),
        mac: some(&r.mac_address, "MAC address")?,
        mtu: number(r.mtu, "MTU")?,
        vlan: number(r.vlan, "VLAN id")?,
        addresses: all(r.addresses.as_deref(), "address with prefix length")?,
        gateways: all::<IpAddr>(r.gateways.as_deref(), "gateway")?,
        routes,
    })
}

fn one<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| EngineError::invalid(format!("invalid {what}: {text:?}")))
}

fn some<T: std::str::FromStr>(text: &str, what: &str) -> Result<Option<T>> {
    if text.is_empty() { Ok(None) } else { one(text, what).map(Some) }
}

fn all<T: std::str::FromStr>(list: Option<&[String]>, what: &str) -> Result<Vec<T>> {
    list.unwrap_or_default().iter().map(|text| one(text, what)).collect()
}

/// 0 is none.
fn number<T: TryFrom<i64>>(n: i64, what: &str) -> Result<Option<T>> {
    if n == 0 {
        return Ok(None);
    }
    T::try_from(n).map(Some).map_err(|_| EngineError::invalid(format!("invalid {what}: {n}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_say_what_and_where() {
        let base = InterfaceAttachRequest {
            bridge: "br1".into(),
            addresses: Some(vec!["10.1.2.3/24".into()]),
            vlan: 50,
            ..Default::default()
        };
        let plug = read(&base).unwrap();
        assert_eq!(plug.source, Source::Bridge("br1".into()));
        assert_eq!((plug.vlan, plug.mtu, plug.addresses.len()), (Some(50), None, 1));
        let wrong = |edit: &dyn Fn(&mut InterfaceAttachRequest), want: &str| {
            let mut r = base.clone();
            edit(&mut r);
            let e = read(&r).unwrap_err().message();
            assert!(e.contains(want), "{e}");
        };
        wrong(&|r| r.bridge.clear(), "where the interface comes from");
        wrong(&|r| r.parent = "eth0".into(), "where the interface comes from");
        wrong(&|r| r.mode = "vepa".into(), "a mode is for");
        wrong(&|r| r.addresses = Some(vec!["10.1.2.3".into()]), "address with prefix length");
        wrong(&|r| r.vlan = 70_000, "invalid VLAN id: 70000");
    }
}
