//! HTTP/2 to the letter, on every side of a sidecar: what RFC 9113 and RFC 7541 forbid is refused as they say, frame by
//! frame, and whoever did nothing wrong is served.
//!
//! Every case is tried at every door that a client has (see [`Door`]); misbehaving servers are in `servers`.

#![allow(clippy::unwrap_used)]

#[path = "http2/frames.rs"]
mod frames;
#[path = "http2/headers.rs"]
mod headers;
#[path = "http2/healthy.rs"]
mod healthy;
#[path = "http2/servers.rs"]
mod servers;

use fusewire_identity::{ALPN_WIRE, Identity, client_config, unchecked_name};
use fusewire_testkit::Pair;
use fusewire_testkit::client::App;
use fusewire_testkit::h2raw::{End, Peer, tcp};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

/// Two sidecars before an application that answers after the request's body.
struct House {
    pair: Pair,
    app: App,
}

/// A way in, and what a good request gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// From the application, through one sidecar.
    Plain,
    /// From the application, through two sidecars.
    Shop,
    /// From the application, where no route leads: answered early, by the sidecar itself.
    Nowhere,
    /// From a peer's sidecar.
    Inbound,
    /// From a peer's sidecar that does not say for which port.
    Portless,
}

const DOORS: [Door; 5] = [Door::Plain, Door::Shop, Door::Nowhere, Door::Inbound, Door::Portless];

impl House {
    fn new() -> Self {
        let app = App::saying(0, "a whole hello");
        Self { pair: Pair::new(FUSEWIRE, app.port), app }
    }
    /// Nothing said yet.
    fn knock(&self, door: Door) -> Peer {
        match door {
            Door::Plain | Door::Shop | Door::Nowhere => {
                let mut peer = Peer::connect(self.pair.port());
                peer.authority = format!("{door:?}").to_lowercase();
                peer
            }
            Door::Inbound | Door::Portless => {
                let identity = Identity::load(&self.pair.mesh.path("web-1")).unwrap();
                let config = client_config(&identity, &[ALPN_WIRE]).unwrap();
                let tls = rustls::ClientConnection::new(config, unchecked_name()).unwrap();
                let mut peer = Peer::over(rustls::StreamOwned::new(tls, tcp(self.pair.shop.inbound)));
                peer.authority = "shop".into();
                if door == Door::Inbound {
                    peer.extra.push(("fusewire-port".into(), self.app.port.to_string()));
                }
                peer
            }
        }
    }
    fn enter(&self, door: Door) -> Peer {
        let mut peer = self.knock(door);
        peer.start(&[]);
        peer
    }
}

impl Door {
    fn status(self) -> u16 {
        match self {
            Door::Plain | Door::Shop | Door::Inbound => 200,
            Door::Nowhere => 404,
            Door::Portless => 400,
        }
    }
}

/// What must come of a case.
enum Want {
    /// Stream 1 is answered as any good request at this door.
    Answer,
    /// This stream is reset with one of the codes, and the connection goes on.
    Stream(u32, &'static [u32]),
    /// The connection ends with one of the codes. Its last words may get lost where bytes were still on their way.
    Connection(&'static [u32]),
    /// Nothing: the connection goes on.
    Nothing,
    /// Stream 1 is answered with this status.
    Status(u16),
}

type Case = (&'static str, fn(&mut Peer), Want);

/// A stream that no case uses, to see whether the connection goes on.
const LATER: u32 = 9001;

fn try_all(cases: &[Case]) {
    let house = House::new();
    let mut wrong = Vec::new();
    for (name, act, want) in cases {
        for door in DOORS {
            let mut peer = house.enter(door);
            act(&mut peer);
            if let Err(got) = judge(&mut peer, door, want) {
                wrong.push(format!("{name}, at {door:?}: {got:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len() * DOORS.len(), wrong.join("\n"));
}

fn judge(peer: &mut Peer, door: Door, want: &Want) -> Result<(), End> {
    let answered = |end: End, wanted: u16| match end {
        End::Answer(status, _) if status == wanted => Ok(()),
        other => Err(other),
    };
    match want {
        Want::Answer => answered(peer.end(1), door.status())?,
        Want::Status(status) => answered(peer.end(1), *status)?,
        Want::Nothing => {}
        Want::Stream(stream, codes) => match peer.end(*stream) {
            End::Stream(code) if codes.contains(&code) => {}
            other => return Err(other),
        },
        Want::Connection(codes) => {
            return match peer.ends() {
                End::Connection(code) if !codes.contains(&code) => Err(End::Connection(code)),
                _ => Ok(()),
            };
        }
    }
    peer.get(LATER);
    answered(peer.end(LATER), door.status())
}

#[test]
fn what_is_no_preface_gets_no_answer() {
    let house = House::new();
    for door in DOORS {
        let mut peer = house.knock(door);
        peer.raw(b"INVALID CONNECTION PREFACE\r\n\r\n");
        // on the wire between sidecars nothing but HTTP/2 is spoken, and the reason is a frame
        let ends = peer.ends();
        assert!(matches!(ends, End::Closed | End::Connection(1)), "{door:?}: {ends:?}");
        let mut peer = house.enter(door);
        peer.get(1);
        assert!(matches!(peer.end(1), End::Answer(status, _) if status == door.status()), "{door:?}: others go on");
    }
}
