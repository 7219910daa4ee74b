use super::*;
use fusewire_identity::{Authority, ServerLeaf, TrustDomain};
use rustls::client::WebPkiServerVerifier;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NAME: &str = "fusewire-injector.fusewire-system.svc";

struct Served {
    address: SocketAddr,
    connector: tokio_rustls::TlsConnector,
    _task: tokio::task::JoinHandle<()>,
}

/// A webhook with a namespace `shop` that asks for sidecars, and one that cannot be looked up.
async fn served() -> Served {
    let authority = Authority::create(&TrustDomain::parse("cluster.local").unwrap(), UnixTime::now()).unwrap();
    let leaf: ServerLeaf =
        authority.issue_server(&[NAME.to_owned()], Duration::from_secs(60), UnixTime::now()).unwrap();
    let webhook = Webhook {
        config: ArcSwap::new(webhook_config(&leaf).unwrap()),
        roots: watch::Sender::new(String::new()),
        names: Vec::new(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let lookup: Lookup = Arc::new(|name| {
        Box::pin(async move {
            if name != "shop" {
                return Err(InjectorError::Request { what: name, cause: "no answer".into() });
            }
            let labels = [("fusewire.io/inject".to_owned(), "enabled".to_owned())].into();
            Ok(Namespace { name, labels, ..Namespace::default() })
        })
    });
    let settings = Settings::new("fusewire:test", "fusewire-system", "cluster.local");
    let task = tokio::spawn(async move { webhook.accept(listener, settings, lookup).await });
    // as the API server has it: a root, a DNS name, and nothing of ours
    let mut roots = rustls::RootCertStore::empty();
    authority.bundle().certs().iter().for_each(|cert| roots.add(cert.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_webpki_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Served { address, connector: Arc::new(config).into(), _task: task }
}

impl Served {
    /// Status and body of what is answered to `method path` with `body`.
    async fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut stream = self.connector.connect(ServerName::try_from(NAME).unwrap(), stream).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // one that is refused may be refused before it has sent all
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

fn review(namespace: &str) -> Vec<u8> {
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}});
    let request = json!({
        "uid": "u-1", "operation": "CREATE", "namespace": namespace, "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "object": pod
    });
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string().into_bytes()
}

#[tokio::test]
async fn a_pod_is_answered_with_its_patch_over_tls_that_the_api_server_can_verify() {
    let (status, body) = served().await.ask("POST", "/inject?timeout=10s", &review("shop")).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["response"]["uid"], &body["response"]["allowed"]), (200, &json!("u-1"), &json!(true)));
    assert_eq!(body["response"]["patchType"], "JSONPatch");
}

#[tokio::test]
async fn a_namespace_that_cannot_be_looked_up_is_left_to_the_failure_policy() {
    let (status, body) = served().await.ask("POST", "/inject", &review("elsewhere")).await;
    assert_eq!((status, body.as_str()), (500, "elsewhere: no answer\n"));
}

#[tokio::test]
async fn what_is_no_review_is_an_answer_too() {
    let served = served().await;
    for (method, path, body, wanted) in [
        ("GET", "/inject", &b""[..], 405),
        ("POST", "/", b"", 404),
        ("POST", "/inject", b"{", 400),
        ("POST", "/inject", b"null", 400),
        ("POST", "/inject", b"\xff\xfe", 400),
    ] {
        assert_eq!(served.ask(method, path, body).await.0, wanted, "{method} {path}");
    }
    let large = vec![b' '; MAX_REVIEW + 1];
    assert_eq!(served.ask("POST", "/inject", &large).await.0, 413);
    assert_eq!(served.ask("POST", "/inject", &review("shop")).await.0, 200, "and the next is answered");
}
