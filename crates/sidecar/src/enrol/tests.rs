use super::*;
use fusewire_identity::{Authority, Clients, server_config};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOlsiZnVzZXdpcmUiXX0.c2lnbmF0dXJl";

/// A control plane that signs for whoever shows the token that it knows; who may have what is not tested here.
#[derive(Clone)]
struct Signer {
    authority: Authority,
    id: SpiffeId,
}

#[tonic::async_trait]
impl v1::identity_server::Identity for Signer {
    async fn sign(&self, request: Request<v1::SignRequest>) -> Result<Response<v1::SignResponse>, Status> {
        let request = request.into_inner();
        if request.token != JWT {
            return Err(Status::permission_denied("another token"));
        }
        let signed = self.authority.sign(&request.csr, &self.id, Duration::from_secs(60), UnixTime::now());
        let signed = signed.map_err(|e| Status::internal(e.to_string()))?;
        let (chain_pem, bundle_pem) = (signed.chain_pem, signed.bundle_pem);
        Ok(Response::new(v1::SignResponse { chain_pem, bundle_pem, ..Default::default() }))
    }
}

fn authority() -> Authority {
    Authority::create(&TrustDomain::parse("cluster.local").unwrap(), UnixTime::now()).unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap()
}

/// Its address; it serves for as long as the runtime lives.
async fn control(authority: &Authority) -> String {
    let identity = authority.issue_own(Duration::from_secs(60), UnixTime::now()).unwrap();
    let config = server_config(&identity, &[ALPN_CONTROL], Clients::Optional).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let service = v1::identity_server::IdentityServer::new(Signer { authority: authority.clone(), id: id() });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // a caller that does not believe us ends the handshake
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = service.clone();
            let answer = service_fn(move |request: hyper::Request<Incoming>| {
                let mut service = service.clone();
                async move { tower::Service::call(&mut service, request).await }
            });
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

fn proof(roots: &Authority) -> Proof {
    Proof::Kubernetes { token: JWT.into(), roots: roots.bundle().clone() }
}

#[tokio::test]
async fn a_service_accounts_token_is_sent_as_it_is_to_a_control_plane_that_the_roots_believe() {
    let authority = authority();
    let control = control(&authority).await;
    let identity = obtain(&control, None, &id(), || Ok(proof(&authority))).await.unwrap();
    assert_eq!((identity.id.clone(), identity.root_hash()), (id(), authority.root_hash()));
}

#[tokio::test]
async fn a_certificate_that_holds_under_roots_that_are_gone_is_replaced_by_the_service_accounts_token() {
    let (before, now) = (authority(), authority());
    let present = obtain(&control(&before).await, None, &id(), || Ok(proof(&before))).await.unwrap();
    let control = control(&now).await;
    let identity = obtain(&control, Some(&present), &id(), || Ok(proof(&now))).await.unwrap();
    assert_eq!(identity.root_hash(), now.root_hash());
    // a join token is for one time, and not spent on what may be away for a moment
    let kept = obtain(&control, Some(&present), &id(), || Ok(Proof::Join("fwj1.a.b.c.d".into()))).await;
    assert!(matches!(kept, Err(EnrolError::Connect { .. })), "{kept:?}");
}

#[tokio::test]
async fn a_control_plane_under_another_root_never_sees_the_token() {
    let control = control(&authority()).await;
    let refused = obtain(&control, None, &id(), || Ok(proof(&self::authority()))).await;
    assert!(matches!(refused, Err(EnrolError::Connect { .. })), "{refused:?}");
}

#[test]
fn a_kubernetes_token_needs_roots_and_a_join_token_brings_its_own() {
    let dir = std::env::temp_dir().join(format!("fusewire-enrol-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (roots, none) = (dir.join("ca.pem"), dir.join("missing.pem"));
    std::fs::write(&roots, authority().bundle().to_pem()).unwrap();
    assert!(matches!(Proof::read(JWT.into(), Some(&roots), &id()), Ok(Proof::Kubernetes { .. })));
    assert!(matches!(Proof::read("fwj1.a.b.c.d".into(), None, &id()), Ok(Proof::Join(_))));
    for (file, wanted) in [(None, "sidecar.trust_file"), (Some(none.as_path()), "missing.pem")] {
        let why = Proof::read(JWT.into(), file, &id()).map(drop).unwrap_err().to_string();
        assert!(why.contains(wanted) && !why.contains(JWT), "{why}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}
