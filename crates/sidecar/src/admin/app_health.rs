//! The kubelet's questions about the application, asked in its place: `/app-health/CONTAINER/livez`, `readyz`, `startupz`.
//!
//! It decides nothing about what may be asked: `sidecar.probes` says it, port, path and headers, so that whoever reaches the
//! admin port can make this sidecar ask for nothing else. It asks over loopback, where neither redirection nor strict mTLS is
//! in the way. As the kubelet does, it takes any answer from 200 to 399 for good, and believes every certificate; unlike the
//! kubelet, it does not follow redirects, and takes one for good.
//!
//! Invariant: a question is over within the probe's own timeout, and leaves no task behind.

mod unverified;

use fusewire_health::ask as ask_once;
use fusewire_model::health::{CheckKind, HealthCheck};
use fusewire_model::node::{AppProbe, ProbeAsk};
use fusewire_telemetry::admin::{Answer, Asked, not_found, text};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// Of an answer's body, so that an application that writes it in peace logs no broken pipe.
const MAX_BODY: usize = 64 << 10;
const MAX_HEAD: usize = 32 << 10;
const KNOWN: &str = "the probes of sidecar.probes: /app-health/CONTAINER/livez, readyz and startupz";

/// `path`: what follows `/app-health/`. `app`: where the application listens.
pub(super) async fn answer(probes: &[AppProbe], app: IpAddr, path: &str, asked: &Asked) -> Answer {
    let Some((container, last)) = path.split_once('/') else { return not_found(KNOWN) };
    let Some(probe) = probes.iter().find(|p| p.container == container && p.kind.path() == last) else {
        return not_found(KNOWN);
    };
    let (status, said) = ask(probe, app, &asked.headers).await;
    text(status, "text/plain", format!("{said}\n"))
}

/// 200 for a good answer; for a bad one the application's own status, where it gave one.
async fn ask(probe: &AppProbe, app: IpAddr, kubelet: &HeaderMap) -> (StatusCode, String) {
    let kind = match &probe.ask {
        ProbeAsk::Http { tls, path, headers } => {
            let question = Question { tls: *tls, path, headers, address: SocketAddr::new(app, probe.port) };
            let asked = tokio::time::timeout(probe.timeout, question.ask(kubelet)).await;
            return match asked.unwrap_or_else(|_| Err(format!("no answer within {:?}", probe.timeout))) {
                Ok(status) if (200..400).contains(&status.as_u16()) => {
                    (StatusCode::OK, format!("GET {path}: {status}"))
                }
                // no final answer, and none to pass on
                Ok(status) if status.is_informational() => {
                    (StatusCode::SERVICE_UNAVAILABLE, format!("GET {path}: {status}"))
                }
                Ok(status) => (status, format!("GET {path}: {status}")),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("GET {path}: {why}")),
            };
        }
        ProbeAsk::Grpc { service } => CheckKind::Grpc { service: service.clone() },
        ProbeAsk::Tcp => CheckKind::Tcp,
    };
    let check = HealthCheck { timeout: probe.timeout, ..HealthCheck::new(kind) };
    match ask_once(&check, SocketAddr::new(app, probe.port)).await {
        Ok(said) => (StatusCode::OK, said),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

struct Question<'a> {
    tls: bool,
    path: &'a str,
    headers: &'a [(String, String)],
    address: SocketAddr,
}

impl Question<'_> {
    async fn ask(&self, kubelet: &HeaderMap) -> Result<StatusCode, String> {
        let request = self.request(kubelet)?;
        let stream = fusewire_net::connect(self.address).await.map_err(|e| format!("cannot connect: {}", e.kind()))?;
        if !self.tls {
            return exchange(stream, request).await;
        }
        let connector = TlsConnector::from(unverified::config()?);
        let stream = connector.connect(fusewire_identity::unchecked_name(), stream).await;
        exchange(stream.map_err(|e| format!("the TLS handshake failed: {e}"))?, request).await
    }

    /// The kubelet's, but for what the probe says itself.
    fn request(&self, kubelet: &HeaderMap) -> Result<Request<Empty<bytes::Bytes>>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, self.host(kubelet));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        let agent = kubelet.get(header::USER_AGENT).cloned();
        headers.insert(header::USER_AGENT, agent.unwrap_or(HeaderValue::from_static("fusewire-probe")));
        let mut said: Vec<HeaderName> = Vec::new();
        for (name, value) in self.headers {
            let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header's name"))?;
            let value = HeaderValue::from_str(value).map_err(|_| format!("the value of {name} is no header's"))?;
            // written twice is sent twice; the first takes the default's place
            if said.contains(&name) {
                headers.append(name, value);
            } else {
                said.push(name.clone());
                headers.insert(name, value);
            }
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let mut request = Request::get(self.path).body(Empty::new()).map_err(|e| e.to_string())?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// The pod's address, as the kubelet would have written it, with the application's port.
    fn host(&self, kubelet: &HeaderMap) -> HeaderValue {
        let written = kubelet.get(header::HOST).and_then(|host| host.to_str().ok());
        let pod = written.and_then(|host| host.parse::<SocketAddr>().ok()).map(|at| at.ip());
        let host = SocketAddr::new(pod.unwrap_or(self.address.ip()), self.address.port()).to_string();
        HeaderValue::from_str(&host).unwrap_or(HeaderValue::from_static("localhost"))
    }
}

async fn exchange<S>(stream: S, request: Request<Empty<bytes::Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let lost = |_| "the connection broke before an answer".to_owned();
    let shake = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shake.map_err(lost)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        // a body that breaks off or is long is no worse an answer
        let _ = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok(status)
    };
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        said = &mut answered => said,
        // over before the answer was read: what it has of it is still to be had
        _ = connection => answered.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_identity::{Authority, Clients, TrustDomain, UnixTime, server_config};
    use fusewire_model::node::ProbeKind;
    use std::net::Ipv4Addr;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn probe(port: u16, ask: ProbeAsk) -> AppProbe {
        let timeout = Duration::from_secs(30);
        AppProbe { container: "app".into(), kind: ProbeKind::Readiness, port, timeout, ask }
    }

    fn http(tls: bool, headers: &[(&str, &str)]) -> ProbeAsk {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        ProbeAsk::Http { tls, path: "/ready?deep=1".into(), headers }
    }

    /// Reads one request's head and answers it.
    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8(head).unwrap()
    }

    async fn listening() -> (TcpListener, u16) {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    async fn accepted(listener: TcpListener) -> TcpStream {
        listener.accept().await.unwrap().0
    }

    fn kubelet() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("10.0.0.7:15020"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("kube-probe/1.37"));
        headers
    }

    async fn answered(ask_what: ProbeAsk, answer: &str) -> (StatusCode, String) {
        let (listener, port) = listening().await;
        let probe = probe(port, ask_what);
        let headers = kubelet();
        let served = async { serve(accepted(listener).await, answer).await };
        let ((status, _), head) = tokio::join!(ask(&probe, LOOPBACK, &headers), served);
        (status, head.replace(&port.to_string(), "PORT"))
    }

    #[tokio::test]
    async fn the_application_is_asked_what_the_kubelet_would_ask() {
        let (status, head) = answered(http(false, &[("X-Key", "a"), ("x-key", "b")]), "HTTP/1.1 204 No\r\n\r\n").await;
        assert_eq!(status, StatusCode::OK);
        let wanted = "GET /ready?deep=1 HTTP/1.1\r\nhost: 10.0.0.7:PORT\r\naccept: */*\r\nuser-agent: kube-probe/1.37\r\n\
                      x-key: a\r\nx-key: b\r\nconnection: close\r\n\r\n";
        assert_eq!(head, wanted);
        let (_, head) = answered(http(false, &[("Host", "shop.example")]), "HTTP/1.1 200 OK\r\n\r\n").await;
        assert!(head.contains("host: shop.example\r\n") && !head.contains("10.0.0.7"), "{head}");
    }

    #[tokio::test]
    async fn two_hundred_to_three_hundred_and_ninety_nine_is_good_and_all_else_is_said_as_it_is() {
        for (answer, wanted) in [
            ("HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n", 200),
            ("HTTP/1.1 399 Odd\r\ncontent-length: 0\r\n\r\n", 200),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 404),
            ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", 503),
            ("HTTP/1.1 700 Odd\r\ncontent-length: 0\r\n\r\n", 700),
            ("SSH-2.0-x\r\n", 503),
            ("", 503),
        ] {
            assert_eq!(answered(http(false, &[]), answer).await.0.as_u16(), wanted, "{answer}");
        }
    }

    #[tokio::test]
    async fn https_is_asked_whoever_signed_the_certificate() {
        let domain = TrustDomain::parse("elsewhere.example").unwrap();
        let authority = Authority::create(&domain, UnixTime::now()).unwrap();
        let identity = authority.issue_own(Duration::from_secs(60), UnixTime::now()).unwrap();
        let config = server_config(&identity, &[], Clients::Optional).unwrap();
        let (listener, port) = listening().await;
        let served = async {
            let stream = accepted(listener).await;
            let stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await.unwrap();
            serve(stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await
        };
        let (probe, headers) = (probe(port, http(true, &[])), kubelet());
        let ((status, said), head) = tokio::join!(ask(&probe, LOOPBACK, &headers), served);
        assert_eq!(status, StatusCode::OK, "{said}");
        assert!(head.starts_with("GET /ready?deep=1 HTTP/1.1\r\n"), "{head}");
    }

    #[tokio::test]
    async fn a_connection_is_all_that_tcp_asks_for_and_nobody_there_is_bad() {
        let (listener, port) = listening().await;
        assert_eq!(ask(&probe(port, ProbeAsk::Tcp), LOOPBACK, &kubelet()).await.0, StatusCode::OK);
        drop(listener);
        for what in [ProbeAsk::Tcp, http(false, &[]), ProbeAsk::Grpc { service: String::new() }] {
            let (status, said) = ask(&probe(port, what), LOOPBACK, &kubelet()).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_does_not_answer_costs_the_probes_own_time() {
        let (listener, port) = listening().await;
        let silent = AppProbe { timeout: Duration::from_secs(3), ..probe(port, http(false, &[])) };
        let (status, said) = ask(&silent, LOOPBACK, &kubelet()).await;
        assert_eq!(
            (status, said.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "GET /ready?deep=1: no answer within 3s")
        );
        drop(listener);
    }

    #[tokio::test]
    async fn nothing_is_asked_that_is_not_configured() {
        let probes = [probe(1, http(false, &[]))];
        let asked = Asked {
            method: http::Method::GET,
            path: String::new(),
            query: String::new(),
            headers: kubelet(),
            body: bytes::Bytes::new(),
            uid: None,
        };
        for path in ["", "app", "app/livez", "other/readyz", "app/readyz/x", "app/"] {
            let answer = answer(&probes, LOOPBACK, path, &asked).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }
}
