//! From one replica to another: mTLS, both as the control plane.
//!
//! It decides that nobody else is believed at the other end. A channel connects when it is used, with the newest certificate.

use arc_swap::ArcSwapOption;
use fusewire_identity::{ALPN_CONTROL, CONTROL_PATH, Identity, IdentityError, client_config, peer_id, unchecked_name};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

const CONNECT: Duration = Duration::from_secs(2);

pub(super) fn client(own: &Identity) -> Result<Arc<ClientConfig>, IdentityError> {
    client_config(own, &[ALPN_CONTROL])
}

pub(super) fn to(address: &str, own: Arc<ArcSwapOption<ClientConfig>>) -> Result<Channel, String> {
    // TLS is the connector's; the scheme only names the authority
    let uri: Uri = format!("http://{address}").parse().map_err(|_| format!("{address:?} is no host:port"))?;
    let address = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (address, own) = (address.clone(), own.load_full());
        async move { connect(&address, own).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from(uri).connect_timeout(CONNECT).connect_with_connector_lazy(connector))
}

async fn connect(address: &str, own: Option<Arc<ClientConfig>>) -> io::Result<TlsStream<TcpStream>> {
    let own = own.ok_or_else(|| io::Error::other("this replica has no certificate yet"))?;
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let stream = TlsConnector::from(own).connect(unchecked_name(), tcp).await?;
    let id = peer_id(stream.get_ref().1.peer_certificates()).map_err(io::Error::other)?;
    if id.path() == CONTROL_PATH {
        return Ok(stream);
    }
    Err(io::Error::other(format!("{id} answers there, which is not a control plane")))
}

/// What went wrong, with its causes: tonic's own words stop at "transport error".
pub(super) fn words(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}
