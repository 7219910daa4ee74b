//! Who is believed: mTLS between sidecars is enforced, each refusal has its cause, and secrets stay secret.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use fusewire_identity::{
    ALPN_WIRE, Authority, Bundle, Identity, Refusal, SpiffeId, TrustDomain, UnixTime, provider, refusal, unchecked_name,
};
use fusewire_testkit::client::{App, get, send};
use fusewire_testkit::mesh::Sidecar;
use fusewire_testkit::process::loopback;
use fusewire_testkit::{Mesh, Pair, eventually, free_port};
use http::{Request, Response};
use http_body_util::Full;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");
const DOMAIN: &str = "mesh.test";
const HOUR: Duration = Duration::from_secs(3600);

fn authority(domain: &str) -> Authority {
    Authority::create(&TrustDomain::parse(domain).unwrap(), days_ago(30)).unwrap()
}

fn days_ago(days: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() - days * 24 * 3600))
}

fn issue(authority: &Authority, workload: &str, at: UnixTime) -> Identity {
    authority.issue(&SpiffeId::of(authority.trust_domain(), workload).unwrap(), HOUR, at).unwrap()
}

fn leaf(authority: &Authority, workload: &str) -> Identity {
    issue(authority, workload, UnixTime::now())
}

/// Keeps `identity` in files, believing `also` beside its own root; the lines of a `sidecar:` section that name them.
fn in_files(mesh: &Mesh, name: &str, workload: &str, identity: &Identity, also: &[&Bundle]) -> String {
    let dir = mesh.path(&format!("{name}.identity"));
    identity.save(&dir).unwrap();
    let roots = also.iter().fold(identity.bundle().to_pem(), |all, bundle| all + &bundle.to_pem());
    std::fs::write(dir.join("bundle.pem"), roots).unwrap();
    let file = |name: &str| dir.join(name).display().to_string();
    format!(
        "  workload: {workload}\n  identity: {{certificate: {}, key: {}, bundle: {}}}\n",
        file("cert.pem"),
        file("key.pem"),
        file("bundle.pem")
    )
}

/// Service `shop` of one instance; `more` of the instance.
fn world(app: u16, inbound: u16, more: &str) -> String {
    format!(
        "trust_domain: {DOMAIN}\nservices:\n  shop:\n    allow: [web]\n    instances:\n    \
         - {{id: shop-1, address: 127.0.0.1:{app}, sidecar: 127.0.0.1:{inbound}{more}}}\n"
    )
}

/// A `shop` behind its sidecar, no control plane; the door is its mTLS port.
struct Door {
    authority: Authority,
    shop: Sidecar,
    app: App,
    mesh: Mesh,
}

impl Door {
    fn new() -> Self {
        Self::believing(&[])
    }
    fn believing(also: &[&Bundle]) -> Self {
        let authority = authority(DOMAIN);
        let mesh = Mesh::without_control(FUSEWIRE);
        let app = App::saying(0, "hello");
        let inbound = free_port();
        let identity = in_files(&mesh, "shop-1", "shop", &leaf(&authority, "shop"), also);
        let shop = mesh.sidecar_alone("shop-1", Some(inbound), &identity, &world(app.port, inbound, ""));
        shop.wait_ready();
        Self { authority, shop, app, mesh }
    }
    /// A sidecar that calls with `identity`, and believes the door's authority too. `more`: of the instance it calls.
    fn caller(&self, workload: &str, identity: &Identity, more: &str) -> Sidecar {
        let name = format!("{workload}-1");
        let section = in_files(&self.mesh, &name, workload, identity, &[self.authority.bundle()]);
        let world = world(self.app.port, self.shop.inbound, more);
        let caller = self.mesh.sidecar_alone(&name, None, &section, &world);
        caller.wait_ready();
        caller
    }
    /// The refusal is counted and logged by its cause.
    #[track_caller]
    fn has_refused(&self, cause: &str) {
        let counted = format!("fusewire_tls_refused_total{{direction=\"inbound\",cause=\"{cause}\"}}");
        eventually(&counted, || self.shop.metric(&counted).is_some_and(|n| n >= 1.0));
        let logged = format!("cause=\"{cause}\"");
        eventually(&logged, || self.shop.process.output().contains(&logged));
    }
}

/// Believes any server: what is looked at here is whom the server believes.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS client that is no sidecar: the group that was agreed on, once the server's first byte came.
fn knock(port: u16, with: Option<&Identity>) -> Result<NamedGroup, Refusal> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match with {
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_slice(identity.key().to_pem().as_bytes()).unwrap();
            builder.with_client_auth_cert(identity.chain().to_vec(), key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_WIRE.to_vec()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(loopback(port)).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let known = |e: &std::io::Error| refusal(e).unwrap_or_else(|| panic!("not a matter of TLS: {e}"));
        let mut stream = connector.connect(unchecked_name(), tcp).await.map_err(|e| known(&e))?;
        // TLS 1.3: the server's judgement arrives with its first byte
        stream.read_u8().await.map_err(|e| known(&e))?;
        Ok(stream.get_ref().1.negotiated_key_exchange_group().unwrap().name())
    })
}

#[test]
fn a_client_that_speaks_http_in_clear_to_the_mtls_port_is_told_so_and_counted() {
    let door = Door::new();
    let answer = get(door.shop.inbound, "shop", "/").unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (403, Some("denied")));
    assert!(answer.text().contains("mTLS"), "{}", answer.text());
    door.has_refused("not-tls");
}

#[test]
fn a_tls_client_without_a_certificate_is_refused() {
    let door = Door::new();
    let refused = knock(door.shop.inbound, None).unwrap_err();
    assert!(refused.by_peer(), "{refused}");
    assert_eq!(refused.word(), "no-certificate");
    door.has_refused("no-certificate");
}

#[test]
fn a_certificate_of_a_foreign_authority_is_refused_though_it_names_the_right_workload() {
    let door = Door::new();
    let refused = knock(door.shop.inbound, Some(&leaf(&authority(DOMAIN), "web"))).unwrap_err();
    assert_eq!(refused.word(), "unknown-ca");
    door.has_refused("unknown-ca");
}

#[test]
fn a_certificate_that_has_ended_is_refused() {
    let door = Door::new();
    let refused = knock(door.shop.inbound, Some(&issue(&door.authority, "web", days_ago(2)))).unwrap_err();
    assert_eq!(refused.word(), "expired");
    door.has_refused("expired");
}

#[test]
fn a_certificate_of_another_trust_domain_is_refused_even_where_its_root_is_believed() {
    let other = authority("elsewhere.test");
    let door = Door::believing(&[other.bundle()]);
    let refused = knock(door.shop.inbound, Some(&leaf(&other, "web"))).unwrap_err();
    assert_eq!(refused.word(), "wrong-trust-domain");
    door.has_refused("wrong-trust-domain");
}

#[test]
fn sidecars_agree_on_a_post_quantum_key_exchange() {
    let door = Door::new();
    assert_eq!(knock(door.shop.inbound, Some(&leaf(&door.authority, "web"))), Ok(NamedGroup::X25519MLKEM768));
}

/// A caller whose own certificate is refused: its application is told why, and no instance is blamed.
#[track_caller]
fn refused_caller(door: &Door, identity: &Identity, cause: &str) {
    let web = door.caller("web", identity, "");
    // more than it takes to open a circuit
    for _ in 0..8 {
        let answer = get(web.outbound, "shop", "/").unwrap();
        assert_eq!((answer.status, answer.header("fusewire-reason")), (502, Some("tls-failed")), "{}", answer.text());
        let detail = answer.header("fusewire-detail").unwrap();
        assert!(detail.contains("refused our certificate") && detail.contains(cause), "{detail}");
    }
    let breaker = web.breaker("shop-1");
    assert_eq!((&breaker["circuit"], &breaker["window"]["hard"]), (&"closed".into(), &0.into()), "{breaker:#}");
    assert_eq!(web.metric("fusewire_tls_refused_total{direction=\"outbound\",cause=\"own-identity\"}"), Some(8.0));
    eventually("each is in the access log with its reason", || {
        let log = web.access_log();
        log.len() == 8 && log.iter().all(|l| l["status"] == 502 && l["reason"] == "tls-failed")
    });
    door.has_refused(cause);
}

#[test]
fn a_sidecar_whose_foreign_certificate_is_refused_says_tls_failed_and_blames_no_instance() {
    let door = Door::new();
    refused_caller(&door, &leaf(&authority(DOMAIN), "web"), "unknown-ca");
}

#[test]
fn a_sidecar_whose_certificate_has_ended_says_tls_failed_and_blames_no_instance() {
    let door = Door::new();
    refused_caller(&door, &issue(&door.authority, "web", days_ago(2)), "expired");
}

#[test]
fn a_server_of_a_foreign_authority_is_refused_and_its_circuit_opens() {
    let door = Door::new();
    let foreign = authority(DOMAIN);
    // believes only the foreign root
    let section = in_files(&door.mesh, "web-1", "web", &leaf(&foreign, "web"), &[]);
    let web = door.mesh.sidecar_alone("web-1", None, &section, &world(door.app.port, door.shop.inbound, ""));
    web.wait_ready();
    let answer = get(web.outbound, "shop", "/").unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (502, Some("tls-failed")), "{}", answer.text());
    assert!(answer.header("fusewire-detail").unwrap().contains("unknown-ca"), "{answer:?}");
    // nobody can prove who is there: that instance is not to be used, and its circuit says so
    eventually("the circuit opens", || {
        get(web.outbound, "shop", "/").unwrap().header("fusewire-reason") == Some("circuit-open")
    });
}

#[test]
fn a_server_that_proves_to_be_somebody_else_is_refused_with_wrong_identity() {
    let door = Door::new();
    let web = door.caller("web", &leaf(&door.authority, "web"), ", identity: bank");
    let answer = get(web.outbound, "shop", "/").unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (502, Some("wrong-identity")), "{}", answer.text());
    let detail = answer.header("fusewire-detail").unwrap();
    assert!(detail.contains("expected spiffe://mesh.test/bank"), "{detail}");
    assert!(detail.contains("got spiffe://mesh.test/shop"), "{detail}");
    // nothing was sent, so all three attempts are made
    assert_eq!(web.metric("fusewire_tls_refused_total{direction=\"outbound\",cause=\"wrong-identity\"}"), Some(3.0));
    let seen = door.shop.access_log();
    assert!(seen.is_empty(), "no request may reach who was not meant: {seen:?}");
}

#[test]
fn an_identity_that_is_not_on_the_allow_list_is_denied_and_one_that_is_gets_through() {
    let door = Door::new();
    let web = door.caller("web", &leaf(&door.authority, "web"), "");
    let answer = get(web.outbound, "shop", "/").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let batch = door.caller("batch", &leaf(&door.authority, "batch"), "");
    let answer = get(batch.outbound, "shop", "/").unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (403, Some("denied")));
    let detail = answer.header("fusewire-detail").unwrap();
    assert!(detail.contains("spiffe://mesh.test/batch may not call shop"), "{detail}");
    eventually("the denial is in shop's access log", || {
        let denied = |l: &serde_json::Value| l["reason"] == "denied" && l["peer"] == "spiffe://mesh.test/batch";
        door.shop.access_log().iter().any(denied)
    });
}

#[test]
fn nobody_is_let_in_before_the_inbound_resource_has_come() {
    let authority = authority(DOMAIN);
    let mesh = Mesh::without_control(FUSEWIRE);
    let app = App::saying(0, "hello");
    let inbound = free_port();
    // its control plane cannot be reached, and it has never been told anything
    let section = in_files(&mesh, "shop-1", "shop", &leaf(&authority, "shop"), &[])
        + &format!("  control: 127.0.0.1:{}\n", free_port());
    let shop = mesh.sidecar_alone("shop-1", Some(inbound), &section, &format!("trust_domain: {DOMAIN}\n"));
    let section = in_files(&mesh, "web-1", "web", &leaf(&authority, "web"), &[]);
    let web = mesh.sidecar_alone("web-1", None, &section, &world(app.port, inbound, ""));
    web.wait_ready();
    eventually("shop listens", || shop.get("/live").is_some_and(|(status, _)| status == 200));
    let answer = get(web.outbound, "shop", "/").unwrap();
    assert_eq!((answer.status, answer.header("fusewire-reason")), (403, Some("denied")), "{}", answer.text());
    assert!(answer.header("fusewire-detail").unwrap().contains("not been told yet"), "{answer:?}");
    let (status, why) = shop.get("/ready").unwrap();
    assert_eq!((status, why.contains("no configuration yet")), (503, true), "{why}");
}

/// Beside one that listens and has never been told anything: whom that one turns away is served by the other.
#[test]
fn a_sidecar_that_has_not_been_told_yet_whom_to_let_in_costs_no_request() {
    let authority = authority(DOMAIN);
    let mesh = Mesh::without_control(FUSEWIRE);
    let app = App::saying(0, "hello");
    let ports = [free_port(), free_port()];
    let world = world(app.port, ports[0], "")
        + &format!("    - {{id: shop-2, address: 127.0.0.1:{}, sidecar: 127.0.0.1:{}}}\n", free_port(), ports[1]);
    let section = in_files(&mesh, "shop-1", "shop", &leaf(&authority, "shop"), &[]);
    let shop = mesh.sidecar_alone("shop-1", Some(ports[0]), &section, &world);
    let section = in_files(&mesh, "shop-2", "shop", &leaf(&authority, "shop"), &[])
        + &format!("  control: 127.0.0.1:{}\n", free_port());
    let untold = mesh.sidecar_alone("shop-2", Some(ports[1]), &section, &format!("trust_domain: {DOMAIN}\n"));
    let section = in_files(&mesh, "web-1", "web", &leaf(&authority, "web"), &[]);
    let web = mesh.sidecar_alone("web-1", None, &section, &world);
    shop.wait_ready();
    web.wait_ready();
    eventually("shop-2 listens", || untold.get("/live").is_some_and(|(status, _)| status == 200));
    eventually("shop-2 turns one away", || {
        let posted = Request::post("/").header("host", "shop").body(Full::new(Bytes::from("an order"))).unwrap();
        let answer = send(web.outbound, posted).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{answer:?}");
        untold.access_log().iter().any(|line| line["reason"] == "denied")
    });
}

const SHOP_ALONE: &str = "services:\n  shop: {}\n  web: {}\n";

/// A sidecar that wants to be `workload` with this token, at this control plane; not waited for.
fn joiner(mesh: &Mesh, workload: &str, instance: &str, token: &str, control_port: u16) -> Sidecar {
    let file = mesh.path(&format!("{instance}.token"));
    std::fs::write(&file, token).unwrap();
    let section =
        format!("  workload: {workload}\n  control: 127.0.0.1:{control_port}\n  token_file: {}\n", file.display());
    mesh.sidecar_alone(instance, None, &section, "")
}

#[track_caller]
fn never_joins(sidecar: &Sidecar, because: &str) {
    eventually(because, || sidecar.process.output().contains(because));
    assert_eq!(sidecar.get("/ready").map(|(status, _)| status), Some(503));
    assert_eq!(sidecar.socket("/config")["identity"], serde_json::Value::Null);
}

fn one_use(mesh: &Mesh, workload: &str) -> String {
    mesh.run(&["token", "create", workload, "--socket", "control/control.sock"]).trim().to_owned()
}

#[test]
fn a_join_token_can_be_used_once_and_not_twice() {
    let mesh = Mesh::new(FUSEWIRE, SHOP_ALONE);
    let token = one_use(&mesh, "web");
    let first = joiner(&mesh, "web", "web-1", &token, mesh.control_port);
    first.wait_ready();
    let second = joiner(&mesh, "web", "web-2", &token, mesh.control_port);
    never_joins(&second, "token-spent");
    let secret = token.rsplit('.').next().unwrap();
    for log in [mesh.control.as_ref().unwrap().output(), first.process.output(), second.process.output()] {
        assert!(!log.contains(secret), "a token's secret is in a log");
    }
}

#[test]
fn a_join_token_of_another_workload_is_refused_also_when_it_is_rewritten() {
    let mesh = Mesh::new(FUSEWIRE, SHOP_ALONE);
    let token = one_use(&mesh, "web");
    let bold = joiner(&mesh, "shop", "shop-1", &token, mesh.control_port);
    never_joins(&bold, "no certificate yet");
    assert!(token.contains("/web."), "{token}");
    let forged = joiner(&mesh, "shop", "shop-2", &token.replace("/web.", "/shop."), mesh.control_port);
    never_joins(&forged, "token-wrong-identity");
    // neither attempt has cost the owner its use
    joiner(&mesh, "web", "web-1", &token, mesh.control_port).wait_ready();
}

#[test]
fn a_control_plane_in_the_middle_with_another_root_never_sees_the_token() {
    let (mesh, middle) = (Mesh::new(FUSEWIRE, SHOP_ALONE), Mesh::new(FUSEWIRE, SHOP_ALONE));
    let token = one_use(&mesh, "web");
    let web = joiner(&mesh, "web", "web-1", &token, middle.control_port);
    never_joins(&web, "UnknownIssuer");
    let heard = middle.control.as_ref().unwrap().output();
    assert!(!heard.contains("certificate refused"), "the token was shown to the wrong control plane:\n{heard}");
}

/// Everything under `dir` that others than its owner may use.
fn open_to_others(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let meta = std::fs::symlink_metadata(entry.path()).unwrap();
        if meta.permissions().mode() & 0o077 != 0 {
            found.push(format!("{} {:o}", entry.path().display(), meta.permissions().mode()));
        }
        if meta.is_dir() {
            found.extend(open_to_others(&entry.path()));
        }
    }
    found
}

#[test]
fn what_is_kept_on_disk_is_for_its_owner_alone() {
    let mesh = Mesh::new(FUSEWIRE, SHOP_ALONE);
    let web = mesh.sidecar("web", "web-1", None);
    let kept = mesh.path("web-1/resources.pb");
    eventually("the configuration is kept", || kept.exists());
    for (dir, files) in [
        ("control", &["store.redb", "control.sock"][..]),
        ("web-1", &["key.pem", "cert.pem", "bundle.pem", "resources.pb", "sidecar.sock"]),
    ] {
        for file in files {
            assert!(mesh.path(dir).join(file).exists(), "{dir}/{file}");
        }
        assert_eq!(open_to_others(&mesh.path(dir)), Vec::<String>::new());
        let mode = std::fs::metadata(mesh.path(dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{dir} {mode:o}");
    }
    drop(web);
}

#[test]
fn headers_that_begin_with_fusewire_cannot_be_forged_by_client_or_application() {
    // an application that says what it was sent, and lies about what it is
    let app = App::start(0, |request: Request<Bytes>| {
        let names: Vec<&str> = request.headers().keys().map(http::HeaderName::as_str).collect();
        let mut response = Response::new(Full::new(Bytes::from(names.join(" "))));
        for (name, value) in [
            ("fusewire-reason", "app-unreachable"),
            ("fusewire-not-processed", "1"),
            ("fusewire-detail", "made up"),
            ("fusewire-new", "1"),
            ("x-fusewire", "kept"),
        ] {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    });
    let pair = Pair::new(FUSEWIRE, app.port);
    for authority in fusewire_testkit::pair::BOTH {
        let request = Request::get("/")
            .header("host", authority)
            .header("fusewire-port", "1")
            .header("Fusewire-Protocol", "tcp")
            .header("fusewire-upgrade", "websocket")
            .header("fusewire-path", "/admin")
            .header("fusewire-new", "1")
            .header("connection", "fusewire-port")
            .header("x-fusewire", "kept");
        let answer = send(pair.port(), request.body(Full::default()).unwrap()).unwrap();
        assert_eq!(answer.status, 200, "{authority}: {}", answer.text());
        let ours = |name: &str| name.starts_with("fusewire-");
        let text = answer.text();
        let seen: Vec<&str> = text.split(' ').collect();
        assert!(!seen.iter().any(|n| ours(n)), "{authority}: the application was shown {seen:?}");
        assert!(seen.contains(&"x-fusewire"), "{authority}: {seen:?}");
        let back: Vec<&str> = answer.headers.keys().map(http::HeaderName::as_str).collect();
        assert!(!back.iter().any(|n| ours(n)), "{authority}: the client was shown {back:?}");
        assert_eq!(answer.header("x-fusewire"), Some("kept"));
    }
    // a lie is no reason to ask another instance, nor in the log, nor against the instance
    for line in pair.web.access_log() {
        assert_eq!((&line["attempts"], line.get("reason")), (&1.into(), None), "{line}");
    }
    for instance in ["shop-1", "plain-1"] {
        let breaker = pair.web.breaker(instance);
        assert_eq!(breaker["window"]["hard"], 0, "{breaker:#}");
    }
}
