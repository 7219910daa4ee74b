//! The way to the control plane.
//!
//! It decides that a host name may stand for several replicas: its addresses are tried from a random one on, each for a
//! short time. Invariant: nobody but a control plane is talked to, whatever else the mesh has signed.

use super::BoxError;
use crate::controls::chance;
use fusewire_identity::{CONTROL_PATH, peer_id, unchecked_name};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// How long one call to the control plane may take.
const CALL: Duration = Duration::from_secs(10);
/// One address of several.
const DIAL: Duration = Duration::from_secs(3);
/// Of an answer: the faults of a refused change travel in trailers.
const MAX_HEADERS: u32 = 1 << 20;

/// A gRPC channel to the control plane; whom it must prove to be, `tls` says.
pub(crate) async fn channel(address: &str, tls: Arc<rustls::ClientConfig>) -> Result<Channel, BoxError> {
    let uri: Uri = format!("http://{address}").parse()?; // TLS is the connector's; the scheme only names the authority
    let endpoint = Endpoint::from(uri)
        .connect_timeout(CALL)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(MAX_HEADERS);
    let address = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move { reach(&address, &tls).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.map_err(|e| {
        // tonic's own words stop at "transport error"
        let mut text = e.to_string();
        let mut source = std::error::Error::source(&e);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text.into()
    })
}

/// The first of the name's addresses where a control plane answers.
async fn reach(name: &str, tls: &Arc<rustls::ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let mut addresses: Vec<SocketAddr> = lookup_host(name).await?.collect();
    let first = chance(addresses.len()).ok_or_else(|| io::Error::other(format!("{name} has no address")))?;
    addresses.rotate_left(first);
    let limit = if addresses.len() > 1 { DIAL } else { CALL };
    let mut failed = io::Error::other("not tried");
    for address in addresses {
        match timeout(limit, dial(address, tls)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => failed = io::Error::new(e.kind(), format!("{address}: {e}")),
            Err(_) => {
                failed = io::Error::new(io::ErrorKind::TimedOut, format!("{address}: no answer within {limit:?}"))
            }
        }
    }
    Err(failed)
}

async fn dial(address: SocketAddr, tls: &Arc<rustls::ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = fusewire_net::dial(address).await?;
    let stream = TlsConnector::from(tls.clone()).connect(unchecked_name(), stream).await?;
    let id = peer_id(stream.get_ref().1.peer_certificates()).map_err(io::Error::other)?;
    if id.path() == CONTROL_PATH {
        fusewire_net::tune_peer(stream.get_ref().0);
        return Ok(stream);
    }
    Err(io::Error::other(format!("{id} answers there, which is not the control plane")))
}
