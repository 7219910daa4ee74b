//! What the resolver beside an application leaves to upstream, and what it does while upstream is silent.

use crate::upstream::{Upstream, answer, client, hears, question, read, write};
use crate::{FUSEWIRE, WORLD, taken};
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::{Mesh, eventually, free_port};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const A: u8 = 1;
const AXFR: u8 = 252;

/// A sidecar that asks `upstream`, and where it listens.
fn sidecar(mesh: &Mesh, upstream: &[&Upstream]) -> (Sidecar, SocketAddr) {
    let resolver = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let all: Vec<String> = upstream.iter().map(|one| one.address().to_string()).collect();
    let more = format!("{}  dns: {{listen: {resolver}, upstream: [{}]}}\n", taken(), all.join(", "));
    (mesh.sidecar_with("web", "web-1", None, &more), resolver)
}

#[test]
fn what_is_no_ordinary_question_goes_to_upstream_and_its_answer_back_as_they_are() {
    let (mesh, upstream) = (Mesh::new(FUSEWIRE, WORLD), Upstream::new());
    let (_web, resolver) = sidecar(&mesh, &[&upstream]);
    let ordinary = question(7, "shop", A);
    let with = |at: usize, byte: u8| {
        let mut message = ordinary.clone();
        message[at] = byte;
        message
    };
    let (notify, update, two, none) = (with(2, 4 << 3), with(2, 5 << 3), with(5, 2), with(5, 0)[..12].to_vec());
    let unread = ordinary[..15].to_vec();
    let mut stream = TcpStream::connect(resolver).unwrap();
    for message in [notify, update, two, none, unread] {
        let mut said = message.clone();
        said[2] |= 0x80;
        let asks = client(resolver);
        asks.send(&message).unwrap();
        let (heard, from) = upstream.heard();
        assert_eq!(heard, message);
        upstream.says(&said, from);
        assert_eq!(hears(&asks), said);
        write(&mut stream, &message);
        let (mut theirs, _) = upstream.tcp.accept().unwrap();
        assert_eq!(read(&mut theirs), message);
        write(&mut theirs, &said);
        assert_eq!(read(&mut stream), said, "and the connection goes on");
    }
}

#[test]
fn a_zone_comes_over_tcp_in_as_many_messages_as_it_has() {
    let (mesh, upstream) = (Mesh::new(FUSEWIRE, WORLD), Upstream::new());
    let (_web, resolver) = sidecar(&mesh, &[&upstream]);
    let mut stream = TcpStream::connect(resolver).unwrap();
    let asked = question(8, "example.com", AXFR);
    write(&mut stream, &asked);
    let (mut theirs, _) = upstream.tcp.accept().unwrap();
    assert_eq!(read(&mut theirs), asked);
    for n in 0..3 {
        let said = vec![n; 40_000];
        write(&mut theirs, &said);
        assert_eq!(read(&mut stream), said);
    }
    write(&mut stream, b"and what else is said there");
    assert_eq!(read(&mut theirs), b"and what else is said there");
    drop(theirs);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it ends with upstream's end");
}

#[test]
fn a_name_of_the_mesh_is_answered_soon_while_every_resolver_is_silent() {
    let (mesh, upstream) = (Mesh::new(FUSEWIRE, WORLD), [Upstream::new(), Upstream::new(), Upstream::new()]);
    let (_web, resolver) = sidecar(&mesh, &upstream.each_ref());
    for n in 0..2 {
        let asks = client(resolver);
        let began = Instant::now();
        asks.send(&question(n, "shop", A)).unwrap();
        let said = hears(&asks);
        assert!(said[7] == 1 && said[said.len() - 4] == 240, "{said:?}");
        assert_eq!(said[said.len() - 7], 5, "for a moment only: {said:?}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}

#[test]
fn a_name_that_exists_outside_is_upstreams_however_slow_that_is() {
    let (mesh, upstream) = (Mesh::new(FUSEWIRE, WORLD), [Upstream::new(), Upstream::new()]);
    let (_web, resolver) = sidecar(&mesh, &upstream.each_ref());
    let real = [192, 0, 2, 8];
    // the first resolver is dead, and the second is asked in time
    let asks = client(resolver);
    asks.send(&question(1, "shop", A)).unwrap();
    let (heard, from) = upstream[1].heard();
    upstream[1].says(&answer(&heard, real), from);
    assert_eq!(hears(&asks), answer(&question(1, "shop", A), real));
    // and now it is known that there is such a name: nobody is told another address, however long it takes
    asks.send(&question(2, "shop", A)).unwrap();
    asks.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    assert!(asks.recv(&mut [0; 512]).is_err());
    let heard = std::iter::repeat_with(|| upstream[0].heard()).find(|(heard, _)| heard[1] == 2);
    let (heard, from) = heard.unwrap();
    upstream[0].says(&answer(&heard, real), from);
    assert_eq!(hears(&asks), answer(&question(2, "shop", A), real));
}

#[test]
fn what_a_sidecar_was_asked_before_it_is_replaced_is_answered() {
    let (mesh, upstream) = (Mesh::new(FUSEWIRE, WORLD), Upstream::new());
    let (mut web, resolver) = sidecar(&mesh, &[&upstream]);
    let asks = client(resolver);
    asks.send(&question(3, "example.com", A)).unwrap();
    let (heard, from) = upstream.heard();
    let mut before = web.replace();
    eventually("it is replaced", || before.output().contains("another sidecar has taken over"));
    upstream.says(&answer(&heard, [192, 0, 2, 9]), from);
    assert_eq!(hears(&asks), answer(&question(3, "example.com", A), [192, 0, 2, 9]));
    eventually("the one before ends", || before.ended().is_some());
}
