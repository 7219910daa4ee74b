//! The application behind the proxies: answers everything with 1 KiB, HTTP/1.1 or HTTP/2, on one thread.
//!
//! It is this program once more, so that its CPU is counted apart, and it ends when the pipe from the bench closes:
//! even a bench that was killed leaves none behind.

use crate::children::{Children, Process};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use tokio::net::TcpListener;

pub(crate) static BODY: [u8; 1024] = [b'f'; 1024];
const INSTANCES: usize = 3;

pub(crate) struct Backend {
    process: Process,
    pub(crate) instances: Vec<SocketAddr>,
}

impl Backend {
    pub(crate) fn start(children: &Children, log: Result<File>) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("--backend").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log?);
        let process = children.spawn(&mut command)?;
        let mut lines = BufReader::new(process.pipe(|child| child.stdout.take())?).lines();
        let mut instances = Vec::new();
        while instances.len() < INSTANCES {
            let line = lines.next().context("the backend ended before it began")?.context("cannot hear the backend")?;
            instances.push(line.parse().with_context(|| format!("the backend said {line:?}"))?);
        }
        Ok(Backend { process, instances })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

pub(crate) fn serve() -> Result<()> {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut instances = Vec::new();
        for _ in 0..INSTANCES {
            let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen")?;
            println!("{}", listener.local_addr().context("a listener without an address")?);
            instances.push(tokio::task::spawn_local(accept(listener)));
        }
        std::io::stdout().flush().context("nobody hears the backend")?;
        for instance in instances {
            instance.await.context("an instance stopped")?;
        }
        Ok(())
    })
}

async fn accept(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let mut server = auto::Builder::new(TokioExecutor::new());
            server.http1().pipeline_flush(true);
            server.http2().max_concurrent_streams(1024);
            // A client that goes away is how every round ends.
            let _ = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(_request: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(&BODY))))
}
