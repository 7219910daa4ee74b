//! Who is where, and the configuration that says so.
//!
//! Ports are found free by binding them all at once, and let go just before the children take them; somebody else may
//! be quicker, which `town` answers by starting over.

use anyhow::Result;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

pub(crate) const INVENTORIES: usize = 4;

/// One application and its sidecar.
pub(crate) struct Place {
    pub(crate) service: &'static str,
    pub(crate) id: String,
    pub(crate) app: SocketAddr,
    pub(crate) inbound: SocketAddr,
    /// Where its sidecar takes calls to the next service, and which that is.
    pub(crate) next: Option<(SocketAddr, &'static str)>,
}

pub(crate) struct Plan {
    pub(crate) control: SocketAddr,
    /// Where the control plane serves its page.
    pub(crate) page: SocketAddr,
    pub(crate) places: Vec<Place>,
}

/// Holds what it found until all are found, so that none is found twice.
struct Ports(Vec<TcpListener>);

impl Ports {
    fn free(&mut self) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        self.0.push(listener);
        Ok(address)
    }
}

impl Plan {
    pub(crate) fn new() -> Result<Self> {
        let mut ports = Ports(Vec::new());
        let catalog = ("catalog", "catalog-1".to_owned(), Some("inventory"));
        let mut shop = vec![("web", "web-1".to_owned(), Some("catalog")), catalog];
        shop.extend((1..=INVENTORIES).map(|n| ("inventory", format!("inventory-{n}"), None)));
        let mut places = Vec::new();
        for (service, id, next) in shop {
            let (app, inbound) = (ports.free()?, ports.free()?);
            let next = match next {
                Some(next) => Some((ports.free()?, next)),
                None => None,
            };
            places.push(Place { service, id, app, inbound, next });
        }
        Ok(Self { control: ports.free()?, page: ports.free()?, places })
    }

    /// Where the client calls: the application itself, as a user behind no sidecar would.
    pub(crate) fn web(&self) -> SocketAddr {
        self.places[0].app
    }

    pub(crate) fn mesh_yaml(&self, breakers: bool) -> String {
        let policies = if breakers { POLICIES } else { POLICIES_OFF };
        format!(
            "# The demo's mesh, as the control plane reads it.\n\
             services:\n\
             \x20 # Nobody in the mesh calls web.\n\
             \x20 web:\n    allow: []\n    instances:\n{}\
             \x20 catalog:\n    allow: [web]\n    policy: catalog\n    instances:\n{}\
             \x20 inventory:\n    allow: [catalog]\n    policy: inventory\n    instances:\n{}\
             {policies}",
            self.instances("web"),
            self.instances("catalog"),
            self.instances("inventory"),
        )
    }

    fn instances(&self, service: &str) -> String {
        let of = self.places.iter().filter(|p| p.service == service);
        of.map(|p| format!("      - {{id: {}, address: \"{}\", sidecar: \"{}\"}}\n", p.id, p.app, p.inbound)).collect()
    }

    pub(crate) fn sidecar_yaml(&self, place: &Place, folder: &Path) -> String {
        let outbound = place.next.map(|(at, _)| format!("  outbound: [\"{at}\"]\n")).unwrap_or_default();
        format!(
            "# The sidecar beside {id}; services and policies come from the control plane.\n\
             sidecar:\n\
             \x20 workload: {service}\n\
             \x20 instance: {id}\n\
             \x20 control: \"{control}\"\n\
             \x20 token_file: \"{folder}/{service}.token\"\n\
             \x20 data_dir: \"{folder}/{id}\"\n\
             \x20 inbound: \"{inbound}\"\n\
             {outbound}",
            id = place.id,
            service = place.service,
            control = self.control,
            folder = folder.display(),
            inbound = place.inbound,
        )
    }
}

const POLICIES: &str = "\
policies:
  inventory:
    breaker:
      instance:
        # 200 requests a second over four instances are some 25 calls of each in half a second: a short window sees half
        # of them fail within tenths of a second, where ten seconds of healthy history would dilute them.
        window: 500ms
        # The balancer, too, turns away from an instance that fails, and then half a second holds few calls of it.
        min_calls: 5
        # Low is safe here: an instance must also stand out among its peers.
        failure_rate: 20
        # So short that a recovery is seen within the demo; the defaults, 5s and 60s, are meant for production.
        open: {base: 2s, max: 3s, jitter: 10}
        slow_start: 2s
        # An instance that hangs fails nothing, it only keeps: two requests without an answer are enough while its peers
        # answer hundreds.
        unresponsive: {timeouts: 2, span: 0ms}
    timeout:
      connect: 500ms
      # Thirty times what an answer takes; what a hanging instance holds is lost to the client after it.
      request: 1s
    # What is shown is what circuits do, and nothing is to hide it.
    retry: off
  catalog:
    # One instance. When inventory fails, catalog must pass the failure on, and opening its circuit would only turn a
    # few failures into an outage: so web's sidecar watches, and tells, but never refuses.
    breaker: {instance: {mode: observe}}
    # Above inventory's, so that the sidecar that knows the culprit decides first.
    timeout: {request: 3s}
    retry: off
    # Every request, for whoever looks; traces begin at web's sidecar, and the sidecars behind it do as it did.
    trace: {sample: 100%}
";

const POLICIES_OFF: &str = "\
policies:
  inventory:
    breaker: off
    timeout: {connect: 500ms, request: 1s}
    retry: off
  catalog:
    breaker: off
    retry: off
    trace: {sample: 100%}
    timeout: {request: 3s}
";
