//! The load: h2load, a fixed number of requests.

use crate::children::Children;
use crate::figures::parse_h2load;
use crate::scenario::Shape;
use crate::{contender, cpu};
use anyhow::{Context as _, Result, bail};
use std::io::Read as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Instant;

pub(crate) struct Load {
    pub(crate) rate: f64,
    pub(crate) errors: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) wall_ns: u64,
}

pub(crate) fn run(children: &Children, entry: SocketAddr, shape: &Shape, requests: u64) -> Result<Load> {
    let mut command = Command::new("h2load");
    command.args(["--threads=1", &format!("--header=:authority: {}", contender::SERVICE)]);
    command.args([format!("--requests={requests}"), format!("--clients={}", shape.connections)]);
    command.arg(format!("--max-concurrent-streams={}", shape.streams));
    if !shape.http2 {
        command.arg("--h1");
    }
    command.arg(format!("http://{entry}/")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let (begin, cpu_before) = (Instant::now(), cpu::of_ended_children()?);
    let process = children.spawn(&mut command).context("install h2load (Debian: nghttp2-client)")?;
    let mut text = String::new();
    process.pipe(|child| child.stdout.take())?.read_to_string(&mut text).context("cannot read what h2load says")?;
    if !process.finish()? {
        bail!("h2load failed: {}", text.trim());
    }
    let wall_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let (rate, errors) = parse_h2load(&text, requests)?;
    Ok(Load { rate, errors, cpu_ns: cpu::of_ended_children()?.saturating_sub(cpu_before), wall_ns })
}
