//! Whose TLS it is, and for whom: the mesh's own, or the application's.

use bytes::BytesMut;
use fusewire_identity::ALPN_WIRE;
use fusewire_net::Prefixed;
use rustls::server::Acceptor;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A ClientHello is no longer: 16 KiB of one record, and room for one with post-quantum keys in several.
const MAX_HELLO: usize = 32 << 10;

/// What a ClientHello says in clear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hello {
    /// The caller offers the protocol between sidecars (ALPN).
    pub(super) wire: bool,
    /// Whom it wants (SNI, RFC 6066, section 3).
    pub(super) server: Option<String>,
}

/// What the caller says, and every byte back. What cannot be read as a ClientHello within `limit` says nothing.
pub(super) async fn hello<T: AsyncRead + Unpin>(mut io: T, limit: Duration) -> io::Result<(Hello, Prefixed<T>)> {
    let mut bytes = BytesMut::with_capacity(4 << 10); // with X25519MLKEM768 a hello is some 1.5 KiB
    let mut acceptor = Acceptor::default();
    let reading = async {
        loop {
            let before = bytes.len();
            if io.read_buf(&mut bytes).await? == 0 {
                return io::Result::Ok(Hello::default());
            }
            let mut new = &bytes[before..];
            while !new.is_empty() && acceptor.read_tls(&mut new).is_ok_and(|read| read > 0) {}
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let said = accepted.client_hello();
                    let wire = said.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ALPN_WIRE));
                    return Ok(Hello { wire, server: said.server_name().map(str::to_owned) });
                }
                Ok(None) if bytes.len() < MAX_HELLO => {}
                Ok(None) | Err(_) => return Ok(Hello::default()),
            }
        }
    };
    let hello = tokio::time::timeout(limit, reading).await.unwrap_or(Ok(Hello::default()))?;
    Ok((hello, Prefixed::new(bytes.freeze(), io)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;

    fn said(protocols: &[&[u8]]) -> Vec<u8> {
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

    async fn read(bytes: &[u8], at: usize) -> (Hello, Vec<u8>) {
        let (mut a, b) = tokio::io::duplex(1 << 16);
        let parts = [bytes[..at].to_vec(), bytes[at..].to_vec()];
        let writer = tokio::spawn(async move {
            for part in parts {
                tokio::io::AsyncWriteExt::write_all(&mut a, &part).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let (hello, mut io) = hello(b, Duration::from_secs(10)).await.unwrap();
        writer.await.unwrap();
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        (hello, all)
    }

    #[tokio::test(start_paused = true)]
    async fn the_meshs_own_tls_is_told_by_its_protocol_whom_it_wants_by_name_and_no_byte_is_lost() {
        let garbage = b"\x16\x03\x01\xff\xffxxxxxxxx".to_vec();
        let cases = [
            (said(&[ALPN_WIRE]), true, Some("shop.example")),
            (said(&[b"h2", ALPN_WIRE]), true, Some("shop.example")),
            (said(&[b"h2", b"http/1.1"]), false, Some("shop.example")),
            (said(&[]), false, Some("shop.example")),
            (garbage, false, None),
        ];
        for (bytes, wire, server) in cases {
            let wanted = Hello { wire, server: server.map(str::to_owned) };
            for at in [1, 5, bytes.len() / 2, bytes.len()] {
                let (hello, all) = read(&bytes, at).await;
                assert_eq!((&hello, all == bytes), (&wanted, true), "split at {at} of {}", bytes.len());
            }
        }
    }
}
