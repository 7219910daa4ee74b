//! A client with a circuit breaker in its own code: `cargo run --example tower --features tower`.
//!
//! A small server on loopback answers well, then turns bad for a while, then heals. The client calls it twenty times a second
//! through a [`ResilienceLayer`] around hyper's pooling client and prints what it sees: errors first, then rejections that
//! cost nothing, then probes, then answers again.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fusewire_resilience::tower::{Error, ResilienceLayer};
use fusewire_resilience::{BreakerConfig, Class, Evidence, Outcome};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tower::{Layer, Service, ServiceExt};

const WELL: Duration = Duration::from_millis(500);
const BAD: Duration = Duration::from_millis(1500);

type Failure = Box<dyn StdError + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = server.local_addr()?;
    tokio::spawn(serve(server, Instant::now()));
    call_for(Duration::from_secs(4), address).await
}

/// Bad means 503: the connection works, and only a classifier can see that the service does not.
async fn serve(listener: tokio::net::TcpListener, began: Instant) {
    while let Ok((stream, _)) = listener.accept().await {
        let answer = service_fn(move |_: Request<Incoming>| async move {
            let bad = (WELL..WELL + BAD).contains(&began.elapsed());
            let (status, text) = if bad { (503, "not now\n") } else { (200, "42 in stock\n") };
            let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
            *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
            Ok::<_, Infallible>(response)
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

/// What a response says of the service. Errors of the transport and 5xx count; everything else is the caller's affair.
fn classify(result: Result<&Response<Incoming>, &ClientError>) -> Outcome {
    match result {
        Ok(response) if response.status().is_server_error() => Outcome::new(Class::Hard, Evidence::Status),
        Ok(_) => Outcome::OK,
        Err(error) if error.is_connect() => Outcome::new(Class::Hard, Evidence::Connect),
        Err(_) => Outcome::new(Class::Hard, Evidence::Reset),
    }
}

async fn call_for(time: Duration, address: SocketAddr) -> Result<(), Failure> {
    let config = BreakerConfig {
        open_base: Duration::from_millis(400),
        open_max: Duration::from_secs(2),
        ..BreakerConfig::default()
    };
    let layer = ResilienceLayer::builder("inventory").circuit(config).bulkhead(64).classify(classify).build();
    let layer = layer.map_err(|faults| format!("settings out of bounds: {faults:?}"))?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut inventory = layer.layer(client);

    let (began, mut said, mut times) = (Instant::now(), String::new(), 0);
    while began.elapsed() < time {
        let request = Request::get(format!("http://{address}/items/7")).body(Empty::new())?;
        let now = match inventory.ready().await?.call(request).await {
            Ok(response) => format!("answered {}", response.status()),
            Err(Error::Rejected(rejected)) => {
                // The time left changes with every call; who refused does not.
                rejected.to_string().split(" for another").next().unwrap_or_default().to_owned()
            }
            Err(Error::Service(error)) => format!("failed: {error}"),
        };
        if now != said {
            tell(&mut times, &said);
            said = now;
        }
        times += 1;
        for event in layer.circuit().map(|circuit| circuit.drain_transitions()).unwrap_or_default() {
            tell(&mut times, &said);
            println!(
                "{:>6} ms  {:?} -> {:?} ({})",
                event.at.0 / 1_000_000,
                event.from,
                event.to,
                event.reason.as_str()
            );
        }
        // bounded wait: twenty calls a second, until the time is over
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tell(&mut times, &said);
    Ok(())
}

fn tell(times: &mut u32, what: &str) {
    match std::mem::take(times) {
        0 => {}
        times => println!("           {times:>3} x {what}"),
    }
}
