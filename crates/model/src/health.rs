//! Active health checks: what is asked of an application, how often, and how many answers decide.
//!
//! It decides the settings' meaning and defaults. It deliberately asks nothing: the instance's own sidecar does, next to
//! the application, and the control plane for instances without one.

use std::time::Duration;

/// `health` of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub kind: CheckKind,
    /// `port`: where it is asked. Default: the instance's own port.
    pub port: Option<u16>,
    /// `interval`: from one answer to the next question, jittered by a tenth. Default 1 s; 100 ms to 1 h.
    pub interval: Duration,
    /// `timeout`: of one question. Default 1 s; 10 ms to 60 s.
    pub timeout: Duration,
    /// `up`: good answers in a row that make an instance up. Default 2; 1 to 100.
    pub up: u32,
    /// `down`: bad answers in a row that make it down. Default 3; 1 to 100.
    pub down: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// `http: /ready`: GET; any 2xx is good.
    Http { path: String },
    /// `grpc: service.Name` or `grpc: ""`: grpc.health.v1 `Check`; SERVING is good.
    Grpc { service: String },
    /// `tcp`: the port accepts a connection.
    Tcp,
}

impl HealthCheck {
    /// With every default.
    pub fn new(kind: CheckKind) -> Self {
        let second = Duration::from_secs(1);
        Self { kind, port: None, interval: second, timeout: second, up: 2, down: 3 }
    }
}

/// What is known of an instance's health. Callers are told of `Starting` instances not at all, and use `Down` ones only
/// where no instance of the service is up: a check can be wrong, and an empty set helps nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, PartialOrd, Ord)]
pub enum Health {
    /// Nobody checks it.
    #[default]
    Unchecked,
    Starting,
    Up,
    Down,
}

impl Health {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}
