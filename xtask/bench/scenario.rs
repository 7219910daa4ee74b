//! What is asked of the proxies.

use clap::ValueEnum;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Scenario {
    /// HTTP/1.1, 64 connections, three plain instances
    H1,
    /// HTTP/2 in clear text, 16 connections with 32 streams each, three plain instances
    H2,
    /// Two sidecars with mutual TLS: HTTP/1.1 from the client, HTTP/2 between them
    PairH1,
    /// Two sidecars with mutual TLS: HTTP/2 from the client and between them
    PairH2,
    /// Memory at rest, and per idle connection
    Idle,
}

/// A scenario that sends requests. Every answer carries 1 KiB.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// HTTP/2 from the client; otherwise HTTP/1.1.
    pub(crate) http2: bool,
    pub(crate) connections: u32,
    pub(crate) streams: u32,
    /// How many proxies a request passes.
    pub(crate) hops: u32,
}

impl Shape {
    pub(crate) fn is_pair(&self) -> bool {
        self.hops == 2
    }

    /// A sidecar of a pair stands before one application; a plain client chooses among three.
    pub(crate) fn instances(&self) -> usize {
        if self.is_pair() { 1 } else { 3 }
    }

    pub(crate) fn protocol(&self) -> &'static str {
        if self.http2 { "h2" } else { "h1" }
    }
}

pub(crate) const H1: Shape = Shape {
    name: "h1",
    about: "HTTP/1.1, 64 connections, 1 KiB, 3 instances",
    http2: false,
    connections: 64,
    streams: 1,
    hops: 1,
};

impl Scenario {
    pub(crate) fn shape(self) -> Option<Shape> {
        let h2 = Shape { http2: true, connections: 16, streams: 32, ..H1 };
        Some(match self {
            Scenario::H1 => H1,
            Scenario::H2 => Shape { name: "h2", about: "h2c, 16 connections x 32 streams, 1 KiB, 3 instances", ..h2 },
            Scenario::PairH1 => {
                let about = "two sidecars with mTLS, HTTP/1.1 from 64 connections, HTTP/2 on the wire, 1 KiB";
                Shape { name: "pair-h1", about, hops: 2, ..H1 }
            }
            Scenario::PairH2 => {
                let about = "two sidecars with mTLS, HTTP/2 from 16 connections x 32 streams and on the wire, 1 KiB";
                Shape { name: "pair-h2", about, hops: 2, ..h2 }
            }
            Scenario::Idle => return None,
        })
    }
}
