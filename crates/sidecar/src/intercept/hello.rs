//! Whose TLS it is: the mesh's own, or the application's.

use bytes::BytesMut;
use fusewire_identity::ALPN_WIRE;
use fusewire_net::Prefixed;
use rustls::server::Acceptor;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A ClientHello is no longer: 16 KiB of one record, and room for one with post-quantum keys in several.
const MAX_HELLO: usize = 32 << 10;

/// Whether the caller offers the protocol between sidecars (ALPN, in clear in the ClientHello), and every byte back. What
/// cannot be read as a ClientHello is not ours.
pub(super) async fn is_wire<T: AsyncRead + Unpin>(mut io: T) -> io::Result<(bool, Prefixed<T>)> {
    let mut bytes = BytesMut::with_capacity(4 << 10); // with X25519MLKEM768 a hello is some 1.5 KiB
    let mut acceptor = Acceptor::default();
    let wire = loop {
        let before = bytes.len();
        if io.read_buf(&mut bytes).await? == 0 {
            break false;
        }
        let mut new = &bytes[before..];
        while !new.is_empty() && acceptor.read_tls(&mut new)? > 0 {}
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let offered = accepted.client_hello().alpn();
                break offered.is_some_and(|mut offered| offered.any(|protocol| protocol == ALPN_WIRE));
            }
            Ok(None) if bytes.len() < MAX_HELLO => {}
            Ok(None) | Err(_) => break false,
        }
    };
    Ok((wire, Prefixed::new(bytes.freeze(), io)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;

    fn hello(protocols: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        let name = ServerName::try_from("shop.example").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    async fn read(bytes: &[u8], at: usize) -> (bool, Vec<u8>) {
        let (mut a, b) = tokio::io::duplex(1 << 16);
        let parts = [bytes[..at].to_vec(), bytes[at..].to_vec()];
        let writer = tokio::spawn(async move {
            for part in parts {
                tokio::io::AsyncWriteExt::write_all(&mut a, &part).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let (wire, mut io) = is_wire(b).await.unwrap();
        writer.await.unwrap();
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        (wire, all)
    }

    #[tokio::test(start_paused = true)]
    async fn the_meshs_own_tls_is_told_by_its_protocol_and_no_byte_is_lost() {
        let garbage = b"\x16\x03\x01\xff\xffxxxxxxxx".to_vec();
        let cases = [
            (hello(&[ALPN_WIRE]), true),
            (hello(&[b"h2", ALPN_WIRE]), true),
            (hello(&[b"h2", b"http/1.1"]), false),
            (hello(&[]), false),
            (garbage, false),
        ];
        for (bytes, wanted) in cases {
            for at in [1, 5, bytes.len() / 2, bytes.len()] {
                let (wire, all) = read(&bytes, at).await;
                assert_eq!((wire, all == bytes), (wanted, true), "split at {at} of {}", bytes.len());
            }
        }
    }
}
