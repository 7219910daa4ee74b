//! Memory of a proxy that does nothing: at rest, and with idle connections that were each used once.

use crate::backend::Backend;
use crate::contender::{Contender, Fleet, ProxyPath, SERVICE};
use crate::scenario::H1;
use crate::{check, cpu};
use anyhow::{Context as _, Result};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Below the usual limit of 1,024 descriptors, twice over.
const CONNECTIONS: u32 = 400;
/// Long enough for a proxy that folds idle connections away to have done so.
const REST: Duration = Duration::from_secs(2);

pub(crate) fn measure(fleet: &Fleet, contenders: &[Contender], backend: &Backend) -> Result<()> {
    println!(
        "\nidle: resident memory after one request, and per idle HTTP/1.1 connection ({CONNECTIONS}, each used once)"
    );
    for contender in contenders {
        let path = fleet.start(*contender, &H1, backend)?;
        let at = || format!("idle: {}", contender.name());
        check::answers(&path, &H1).with_context(at)?;
        let before = rested(&path)?;
        let connections = (0..CONNECTIONS).map(|_| used_once(&path)).collect::<Result<Vec<_>>>().with_context(at)?;
        let after = rested(&path)?;
        drop(connections);
        let each = after.saturating_sub(before) as f64 / f64::from(CONNECTIONS);
        println!("  {:<10} {:>6.1} MiB, {each:.1} KiB per connection", contender.name(), before as f64 / 1024.0);
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "nothing else runs on this thread, and rest is what is measured")]
fn rested(path: &ProxyPath) -> Result<u64> {
    // bounded wait: rest is what is measured
    std::thread::sleep(REST);
    path.processes.iter().map(|process| cpu::resident(process.id())).sum()
}

fn used_once(path: &ProxyPath) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(path.entry).context("a connection was refused")?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).context("cannot set a time limit")?;
    let request = format!("GET / HTTP/1.1\r\nhost: {SERVICE}\r\n\r\n");
    stream.write_all(request.as_bytes()).context("cannot send")?;
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    // The body is all one letter, 1 KiB of it; the head holds no such run.
    while !seen.ends_with(&crate::backend::BODY) {
        let count = stream.read(&mut buffer).context("no answer on a new connection")?;
        anyhow::ensure!(count > 0, "a new connection was closed before its answer ended");
        seen.extend_from_slice(&buffer[..count]);
    }
    Ok(stream)
}
