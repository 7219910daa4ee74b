//! A name server that answers by script, over UDP on loopback.

pub use hickory_proto::op::ResponseCode;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
pub use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::{A, AAAA, SRV};
use hickory_proto::rr::{Name, RData, Record};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a name server says to one question.
#[derive(Clone, Debug)]
pub enum Script {
    /// Addresses and the TTL of all of them, in seconds. Those of the other family than was asked for are left out.
    Addresses(Vec<IpAddr>, u32),
    /// `(priority, weight, port, target)` and the TTL.
    Services(Vec<(u16, u16, u16, String)>, u32),
    /// There is no such name.
    NxDomain,
    /// The server is unwell.
    ServFail,
    /// No answer at all.
    Silence,
    /// One after the other, and from the beginning again.
    Turns(Vec<Script>),
}

impl Script {
    /// Addresses as text, with a TTL of one second.
    pub fn addresses(addresses: &[&str]) -> Self {
        Self::Addresses(addresses.iter().map(|a| a.parse().unwrap()).collect(), 1)
    }
}

#[derive(Debug, Default)]
struct Zone {
    /// By name in lower case without the dot at the end, and `A`, `AAAA`, `SRV` or `` for every type.
    scripts: HashMap<(String, &'static str), Script>,
    asked: HashMap<(String, &'static str), usize>,
}

/// Runs until it is dropped; then nothing answers on its port.
#[derive(Debug)]
pub struct NameServer {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl NameServer {
    pub fn start() -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// On the address that another had.
    pub fn start_on(address: SocketAddr) -> Self {
        Self::start_with(UdpSocket::bind(address).unwrap())
    }

    /// On a socket that may be of another network namespace.
    pub fn start_with(socket: UdpSocket) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let (zone, stop) = (Arc::<Mutex<Zone>>::default(), Arc::<AtomicBool>::default());
        let (served, stopped) = (zone.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                if let Some(answer) = answer(&served, &buffer[..length]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, zone, stop, thread: Some(thread) }
    }

    /// From now on, for every type of `name`.
    pub fn set(&self, name: &str, script: Script) {
        self.set_type(name, "", script);
    }

    /// From now on, for `A`, `AAAA` or `SRV` of `name`.
    pub fn set_type(&self, name: &str, kind: &'static str, script: Script) {
        self.zone.lock().unwrap().scripts.insert((name.to_owned(), kind), script);
    }

    /// How often `A`, `AAAA` or `SRV` of `name` was asked for.
    pub fn asked(&self, name: &str, kind: &'static str) -> usize {
        self.zone.lock().unwrap().asked.get(&(name.to_owned(), kind)).copied().unwrap_or(0)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The code and the addresses of a server's answer, over UDP or TCP; `None`: no answer within eight seconds.
pub fn ask(server: SocketAddr, name: &str, kind: RecordType, over: Over) -> Option<(ResponseCode, Vec<IpAddr>)> {
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    let said = over.ask(server, &question.to_vec().unwrap()).ok()?;
    let said = Message::from_vec(&said).unwrap();
    let address = |record: &Record| match &record.data {
        RData::A(ip) => Some(IpAddr::from(ip.0)),
        RData::AAAA(ip) => Some(IpAddr::from(ip.0)),
        _ => None,
    };
    Some((said.metadata.response_code, said.answers.iter().filter_map(address).collect()))
}

/// What a question travels by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Udp,
    Tcp,
}

impl Over {
    fn ask(self, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let patience = Some(Duration::from_secs(8));
        if self == Self::Tcp {
            let mut stream = TcpStream::connect(server)?;
            stream.set_read_timeout(patience)?;
            let length = u16::try_from(question.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length, question].concat())?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut said = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut said)?;
            return Ok(said);
        }
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        socket.set_read_timeout(patience)?;
        socket.send_to(question, server)?;
        let mut said = vec![0; 4096];
        let (length, _) = socket.recv_from(&mut said)?;
        said.truncate(length);
        Ok(said)
    }
}

fn answer(zone: &Mutex<Zone>, question: &[u8]) -> Option<Vec<u8>> {
    let asked = Message::from_vec(question).ok()?;
    let query = asked.queries.first()?.clone();
    let kind = match query.query_type() {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::SRV => "SRV",
        _ => "other",
    };
    let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let mut zone = zone.lock().unwrap();
    let turn = zone.asked.entry((name.clone(), kind)).or_default();
    *turn += 1;
    let turn = *turn - 1;
    let found = zone.scripts.get(&(name.clone(), kind)).or_else(|| zone.scripts.get(&(name, "")));
    let mut script = found.cloned().unwrap_or(Script::NxDomain);
    if let Script::Turns(turns) = script {
        script = turns[turn % turns.len()].clone();
    }
    let mut said = Message::response(asked.metadata.id, OpCode::Query);
    said.metadata.recursion_desired = asked.metadata.recursion_desired;
    said.metadata.recursion_available = true;
    said.add_query(query.clone());
    match script {
        Script::Silence => return None,
        Script::NxDomain => said.metadata.response_code = ResponseCode::NXDomain,
        Script::ServFail => said.metadata.response_code = ResponseCode::ServFail,
        Script::Turns(_) => panic!("turns within turns"),
        Script::Addresses(addresses, ttl) => {
            for ip in addresses {
                let data = match ip {
                    IpAddr::V4(ip) if kind == "A" => RData::A(A(ip)),
                    IpAddr::V6(ip) if kind == "AAAA" => RData::AAAA(AAAA(ip)),
                    _ => continue,
                };
                said.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
            }
        }
        Script::Services(services, ttl) => {
            for (priority, weight, port, target) in services.into_iter().filter(|_| kind == "SRV") {
                let target = Name::from_str(&format!("{}.", target.trim_end_matches('.'))).unwrap();
                let data = RData::SRV(SRV::new(priority, weight, port, target));
                said.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
            }
        }
    }
    said.to_vec().ok()
}
