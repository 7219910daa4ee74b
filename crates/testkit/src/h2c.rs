//! HTTP/2 in clear with prior knowledge, frame by frame, over the `h2` crate: streams, trailers, resets, CONNECT.

use crate::process::{PATIENCE, loopback};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use std::future::Future;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

pub use h2::client::SendRequest;

/// Runs a test's asynchronous part; nothing in it may take longer than [`PATIENCE`] twice over.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    rt.block_on(async {
        tokio::time::timeout(PATIENCE * 2, test).await.expect("the test's exchange did not end in time")
    })
}

/// A new connection to 127.0.0.1:`port`.
pub async fn client(port: u16) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(loopback(port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(8 << 20).max_concurrent_reset_streams(10_000);
    builder.max_local_error_reset_streams(None);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// A request's head; `target` as `authority/path`.
pub fn request(method: &str, target: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://{target}"))
}

/// Sends a request whose body follows on the returned stream; the response is awaited separately.
pub async fn open(
    client: &SendRequest<Bytes>,
    request: http::request::Builder,
) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
    let mut client = client.clone().ready().await.unwrap();
    client.send_request(request.body(()).unwrap(), false).unwrap()
}

/// A request without a body, and its whole answer.
pub async fn call(client: &SendRequest<Bytes>, request: http::request::Builder) -> Result<Response<Bytes>, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, _) = client.send_request(request.body(()).unwrap(), true)?;
    let (head, mut body) = response.await?.into_parts();
    Ok(Response::from_parts(head, whole(&mut body).await?))
}

/// The next piece of a body, its window given back; `None` at the end.
pub async fn piece(body: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    loop {
        match body.data().await {
            Some(Ok(data)) if data.is_empty() => {} // says nothing, and may stand before an end
            Some(Ok(data)) => {
                let _ = body.flow_control().release_capacity(data.len());
                return Ok(Some(data));
            }
            Some(Err(e)) => return Err(e),
            None => return Ok(None),
        }
    }
}

pub async fn whole(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = piece(body).await? {
        all.extend_from_slice(&data);
    }
    Ok(all.into())
}

/// Pieces until `wanted` bytes are there: a proxy may cut them differently.
pub async fn exactly(body: &mut RecvStream, wanted: usize) -> Bytes {
    let mut all = Vec::new();
    while all.len() < wanted {
        all.extend_from_slice(&piece(body).await.unwrap().expect("the body went on"));
    }
    assert_eq!(all.len(), wanted);
    all.into()
}

/// An HTTP/2 application: `serve` gets each stream, in a task of its own.
#[derive(Debug)]
pub struct App {
    pub port: u16,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl App {
    pub fn start<F, A>(serve: F) -> Self
    where
        F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let serve = Arc::new(serve);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            rt.block_on(async move {
                let listener = TcpListener::bind(loopback(0)).await.unwrap();
                tell.send(listener.local_addr().unwrap().port()).unwrap();
                tokio::select! {
                    () = accept(listener, serve) => {}
                    _ = stopped => {}
                }
            });
            rt.shutdown_background();
        });
        Self { port: told.recv().unwrap(), _stop: stop }
    }
}

async fn accept<F, A>(listener: TcpListener, serve: Arc<F>)
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let serve = serve.clone();
        tokio::spawn(async move {
            // it bears what is under way to streams that it answered early; whether the sidecar does is what tests ask
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_reset_streams(10_000).max_local_error_reset_streams(None);
            let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(serve(request, respond));
            }
        });
    }
}

/// A whole answer with trailers.
pub fn answer(
    respond: &mut SendResponse<Bytes>,
    response: http::response::Builder,
    body: &[u8],
    trailers: Option<HeaderMap>,
) {
    let mut stream = respond.send_response(response.body(()).unwrap(), body.is_empty() && trailers.is_none()).unwrap();
    if !body.is_empty() {
        stream.send_data(Bytes::copy_from_slice(body), trailers.is_none()).unwrap();
    }
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers).unwrap();
    }
}
