//! A service that fails as it is told: several instances that share one script, so that it does not matter which of them a
//! request comes to.

use crate::process::{accepts, eventually};
use crate::raw::{Conn, Head, Server};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// What the next request gets, at whichever instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// This status, and a short body.
    Status(u16),
    /// A status with more fields, each a whole line with its end, and a body.
    With(u16, String, &'static str),
    /// The request is read, and the connection closed.
    Reset,
    /// The request is read, and nothing follows.
    Hang,
    /// The head is read, and nothing else, and this status is answered.
    Early(u16),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which instance it came to, from 0.
    pub instance: usize,
    pub head: Head,
    pub body: Vec<u8>,
}

#[derive(Debug, Default)]
struct Script {
    replies: VecDeque<Reply>,
    after: Option<Reply>,
    crashed: bool,
    seen: Vec<Seen>,
}

/// Without a script every request is answered 200 with `fine`.
#[derive(Debug)]
pub struct Faulty {
    pub ports: Vec<u16>,
    script: Arc<Mutex<Script>>,
    servers: Vec<Server>,
}

impl Faulty {
    pub fn new(instances: usize) -> Self {
        let script = Arc::<Mutex<Script>>::default();
        let server = |instance| {
            let script = script.clone();
            Server::http(move |conn, head| serve(&script, instance, conn, head))
        };
        let servers: Vec<_> = (0..instances).map(server).collect();
        Self { ports: servers.iter().map(|s| s.port).collect(), script, servers }
    }
    /// The next requests get these, one each.
    pub fn then(&self, replies: impl IntoIterator<Item = Reply>) {
        self.script.lock().unwrap().replies.extend(replies);
    }
    /// And all that come behind them get this.
    pub fn always(&self, reply: Option<Reply>) {
        self.script.lock().unwrap().after = reply;
    }
    /// The requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.script.lock().unwrap().seen)
    }
    /// Connections so far, of all instances.
    pub fn accepted(&self) -> usize {
        self.servers.iter().map(Server::accepted).sum()
    }
    /// No instance listens any more, and what comes on a kept connection ends it.
    pub fn crash(&mut self) {
        self.script.lock().unwrap().crashed = true;
        self.servers.clear();
        eventually("nobody listens", || !self.ports.iter().any(|port| accepts(*port)));
    }
    /// The instances in YAML, plain: `name-0`, `name-1`, ...
    pub fn instances(&self, name: &str) -> String {
        let one = |(n, port): (usize, &u16)| format!("{{id: {name}-{n}, address: 127.0.0.1:{port}}}");
        format!("[{}]", self.ports.iter().enumerate().map(one).collect::<Vec<_>>().join(", "))
    }
}

fn serve(script: &Mutex<Script>, instance: usize, conn: &mut Conn, head: &Head) -> bool {
    let reply = {
        let mut script = script.lock().unwrap();
        if script.crashed {
            return false;
        }
        script.replies.pop_front().or(script.after.clone())
    };
    let early = matches!(reply, Some(Reply::Early(_)));
    let body = if early { Some(Vec::new()) } else { conn.body(head).ok() };
    let Some(body) = body else { return false };
    script.lock().unwrap().seen.push(Seen { instance, head: head.clone(), body });
    let no_body = head.method() == "HEAD";
    let mut say = |status: u16, fields: &str, body: &str| {
        let length = body.len();
        let body = if no_body { "" } else { body };
        conn.try_say(format!("HTTP/1.1 {status} X\r\n{fields}content-length: {length}\r\n\r\n{body}")).is_ok()
    };
    match reply {
        None => say(200, "", "fine"),
        Some(Reply::Status(status)) => say(status, "", "no"),
        Some(Reply::With(status, fields, body)) => say(status, &fields, body),
        Some(Reply::Early(status)) => {
            say(status, "connection: close\r\n", "no");
            false
        }
        Some(Reply::Reset) => false,
        Some(Reply::Hang) => {
            let _ = conn.rest();
            false
        }
    }
}
