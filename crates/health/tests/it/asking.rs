//! One question to one server.

use bytes::Bytes;
use fusewire_health::ask;
use fusewire_model::health::{CheckKind, HealthCheck};
use fusewire_testkit::client::App;
use http::{Request, Response};
use http_body_util::Full;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic_health::ServingStatus;

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn http(path: &str) -> HealthCheck {
    HealthCheck::new(CheckKind::Http { path: path.into() })
}

fn grpc(service: &str) -> HealthCheck {
    HealthCheck::new(CheckKind::Grpc { service: service.into() })
}

fn status(code: u16) -> Response<Full<Bytes>> {
    let location = if code == 302 { "/login" } else { "" };
    Response::builder().status(code).header("location", location).body(Full::from("a body")).unwrap()
}

#[tokio::test]
async fn any_2xx_is_good_and_nothing_else_is() {
    let app = App::start(0, |request: Request<Bytes>| status(request.uri().path()[1..].parse().unwrap()));
    for code in [200, 204, 299] {
        assert_eq!(ask(&http(&format!("/{code}")), local(app.port)).await, Ok(format!("GET /{code}: {code}")));
    }
    for code in [302, 404, 500, 503] {
        assert_eq!(ask(&http(&format!("/{code}")), local(app.port)).await, Err(format!("GET /{code}: {code}")));
    }
}

#[tokio::test]
async fn the_question_says_who_asks_and_keeps_no_connection() {
    let asked = Arc::new(Mutex::new(None));
    let seen = asked.clone();
    let app = App::start(0, move |request: Request<Bytes>| {
        let text = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let told = (request.uri().to_string(), text("host"), text("user-agent"), text("connection"));
        *seen.lock().unwrap() = Some(told);
        status(200)
    });
    ask(&http("/ready?deep=1"), local(app.port)).await.unwrap();
    let (uri, host, agent, connection) = asked.lock().unwrap().take().unwrap();
    assert_eq!((uri.as_str(), host), ("/ready?deep=1", Some(format!("127.0.0.1:{}", app.port))));
    assert_eq!(agent.unwrap(), format!("fusewire-health/{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(connection.as_deref(), Some("close"));
}

#[tokio::test]
async fn the_checks_own_port_takes_the_place_of_the_instances() {
    let app = App::saying(0, "well");
    let check = HealthCheck { port: Some(app.port), ..http("/") };
    assert!(ask(&check, local(1)).await.is_ok());
}

#[tokio::test]
async fn nothing_that_listens_is_told_as_refused() {
    let free = TcpListener::bind(local(0)).await.unwrap().local_addr().unwrap();
    for check in [http("/"), grpc(""), HealthCheck::new(CheckKind::Tcp)] {
        assert_eq!(ask(&check, free).await, Err("connection refused: nothing listens there".into()));
    }
}

/// A server that takes a connection, reads what comes and writes `said`, without end where it is to.
/// What ends with a new line is kept open.
async fn raw(said: &'static str, endless: bool) -> SocketAddr {
    let listener = TcpListener::bind(local(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(said.as_bytes()).await;
                while endless && stream.write_all(&[b'x'; 4096]).await.is_ok() {}
                if said.ends_with('\n') {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn silence_and_half_an_answer_are_bad_within_the_timeout() {
    let check = HealthCheck { timeout: Duration::from_millis(200), ..http("/") };
    let begun = Instant::now();
    // headers of a long answer, and then nothing
    for said in ["\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf\n"] {
        let address = raw(said, false).await;
        assert_eq!(ask(&check, address).await, Err("no answer within 200ms".into()), "{said}");
        let grpc = HealthCheck { kind: CheckKind::Grpc { service: String::new() }, ..check.clone() };
        assert!(ask(&grpc, address).await.is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_bad_and_one_without_end_is_let_go() {
    let long = "HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\nso far";
    let answer = ask(&http("/"), raw(long, false).await).await;
    assert_eq!(answer, Err("GET /: 200, and then its body broke off".into()));
    assert_eq!(ask(&http("/"), raw(long, true).await).await, Ok("GET /: 200".into()));
}

#[tokio::test]
async fn what_is_no_http_is_bad() {
    for said in ["SSH-2.0-OpenSSH_9.9\r\n", "HTTP/1.1 two hundred\r\n\r\n", "HTTP/1.1 200 OK\r\nx: "] {
        let answer = ask(&http("/"), raw(said, said.ends_with("x: ")).await).await;
        assert_eq!(answer, Err("the connection broke before an answer".into()), "{said}");
    }
}

#[tokio::test]
async fn a_connection_is_all_that_tcp_asks_for() {
    let listener = TcpListener::bind(local(0)).await.unwrap();
    let answer = ask(&HealthCheck::new(CheckKind::Tcp), listener.local_addr().unwrap()).await;
    assert_eq!(answer, Ok("accepts connections".into()));
}

#[tokio::test]
async fn a_grpc_server_is_asked_by_the_protocol_that_others_speak() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop.v1.Catalog", ServingStatus::NotServing).await;
    reporter.set_service_status("shop.v1.Stock", ServingStatus::Serving).await;
    let listener = TcpListener::bind(local(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder();
    tokio::spawn(server.serve_with_incoming(service, TcpListenerStream::new(listener)));

    assert_eq!(ask(&grpc(""), address).await, Ok("grpc health: SERVING".into()));
    assert_eq!(ask(&grpc("shop.v1.Stock"), address).await, Ok("shop.v1.Stock: SERVING".into()));
    assert_eq!(ask(&grpc("shop.v1.Catalog"), address).await, Err("shop.v1.Catalog: NOT_SERVING".into()));
    reporter.set_service_status("shop.v1.Catalog", ServingStatus::Serving).await;
    assert_eq!(ask(&grpc("shop.v1.Catalog"), address).await, Ok("shop.v1.Catalog: SERVING".into()));
    let unknown = ask(&grpc("shop.v1.Nobody"), address).await;
    assert_eq!(unknown, Err("shop.v1.Nobody: NOT_FOUND: the server does not know this service's health".into()));
}

#[tokio::test]
async fn a_server_that_is_no_grpc_server_is_not_serving() {
    let app = App::saying(0, "hello");
    let answer = ask(&grpc(""), local(app.port)).await;
    assert!(answer.as_ref().is_err_and(|why| why.starts_with("grpc health: ")), "{answer:?}");
}
