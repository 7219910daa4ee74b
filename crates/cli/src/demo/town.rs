//! The processes of the demo: started in order, looked at while they run, ended together.
//!
//! Invariant: a start that fails says which process did not come up and how its log ends, and leaves none behind.

use super::app::{Kind, Stats};
use super::http1::Client;
use super::plan::{Place, Plan};
use super::process::{Running, Scratch};
use crate::admin_client::ask;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The sidecar that calls inventory, and so has its circuits.
pub(crate) const WATCHED: &str = "catalog-1";
/// For each thing that is waited for. Generous: a busy machine of two cores starts 13 processes here.
const UP: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// Starts, each with other ports.
const STARTS: usize = 3;
/// Successes in a row that end the warming up: every connection is made, every service known.
const WARM: usize = 40;
const SOON: Duration = Duration::from_secs(2);

pub(crate) fn inventory(n: usize) -> String {
    format!("inventory-{n}")
}

/// What is shown of one inventory instance.
pub(crate) struct Row {
    pub(crate) instance: String,
    pub(crate) circuit: String,
    pub(crate) stats: Option<Stats>,
}

pub(crate) struct Town {
    pub(crate) plan: Plan,
    // In the order of dropping: processes before their folder.
    sidecars: Vec<Running>,
    others: Vec<Running>,
    apps: Vec<Client>,
    scratch: Scratch,
}

impl Town {
    pub(crate) async fn start(breakers: bool, keep: bool) -> Result<Self> {
        let mut failed = None;
        for _ in 0..STARTS {
            match Self::start_once(breakers, keep).await {
                Ok(town) => return Ok(town),
                Err(e) if is_collision(&e) => failed = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(failed.unwrap_or_else(|| anyhow::anyhow!("no start was made")))
    }

    async fn start_once(breakers: bool, keep: bool) -> Result<Self> {
        let plan = Plan::new()?;
        let clients = plan.places.iter().map(|p| Client::new(p.app, "demo"));
        let apps = clients.collect::<Result<_>>()?;
        let mut town = Self { plan, sidecars: Vec::new(), others: Vec::new(), apps, scratch: Scratch::new(keep)? };
        let mesh = town.write("mesh.yaml", &town.plan.mesh_yaml(breakers))?;
        town.start_control(&mesh).await?;
        town.start_places()?;
        for (place, sidecar) in town.plan.places.iter().zip(&town.sidecars) {
            let socket = town.socket(&place.id);
            town.wait_for(sidecar, async || is_ready(&socket).await).await?;
        }
        town.warm_up().await?;
        Ok(town)
    }

    async fn start_control(&mut self, mesh: &Path) -> Result<()> {
        let data = self.scratch.path().join("control");
        let arguments = [
            "control".into(),
            "--listen".into(),
            self.plan.control.to_string().into(),
            "--config".into(),
            mesh.as_os_str().to_owned(),
            "--data-dir".into(),
            data.clone().into_os_string(),
            "--web-listen".into(),
            self.plan.page.to_string().into(),
        ];
        let control = Running::start("control", self.scratch.path(), &arguments)?;
        self.others.push(control);
        let socket = data.join("control.sock");
        let control = self.others.last().context("the control plane has just been started")?;
        self.wait_for(control, async || ask(&socket, Method::GET, "/status", None).await.map(drop)).await?;
        for (service, uses) in [("web", 1), ("catalog", 1), ("inventory", super::plan::INVENTORIES)] {
            let wish = json!({ "workload": service, "uses": uses, "ttl_seconds": 600 });
            let made = ask(&socket, Method::POST, "/tokens", Some(&wish)).await.context("no join token")?;
            self.write(&format!("{service}.token"), made["token"].as_str().unwrap_or_default())?;
        }
        Ok(())
    }

    fn start_places(&mut self) -> Result<()> {
        let folder = self.scratch.path().to_owned();
        for (n, place) in self.plan.places.iter().enumerate() {
            // one of them tidies up if we are killed
            let remove = (n == 0 && !self.scratch.keep).then_some(folder.as_path());
            let app = Running::start(&format!("{}-app", place.id), &folder, &app_arguments(n, place, remove))?;
            self.others.push(app);
            let config = self.write(&format!("{}.yaml", place.id), &self.plan.sidecar_yaml(place, &folder))?;
            let arguments = ["sidecar".as_ref(), "--config".as_ref(), config.as_os_str()];
            self.sidecars.push(Running::start(&format!("{}-sidecar", place.id), &folder, &arguments)?);
        }
        Ok(())
    }

    /// For the owner only: some of it is secret.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.scratch.path().join(name);
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut f| f.write_all(text.as_bytes())).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    async fn wait_for(&self, who: &Running, up: impl AsyncFn() -> Result<()>) -> Result<()> {
        let began = Instant::now();
        loop {
            self.check()?;
            match up().await {
                Ok(()) => return Ok(()),
                Err(e) if began.elapsed() > UP => {
                    let tail = who.log_tail();
                    return Err(e.context(format!("{} is not up after {UP:?}; the end of its log:\n{tail}", who.name)));
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// The first requests make connections and ask the control plane; they are not the demo's subject.
    async fn warm_up(&self) -> Result<()> {
        let web = Client::new(self.plan.web(), "web")?;
        let (began, mut well, mut last) = (Instant::now(), 0, String::new());
        while well < WARM {
            self.check()?;
            if began.elapsed() > UP {
                bail!("requests through the mesh do not succeed after {UP:?}; the last one: {last}");
            }
            match tokio::time::timeout(SOON, web.send(Method::GET, "/", "")).await {
                Ok(Ok((status, _))) if status.is_success() => well += 1,
                other => {
                    (well, last) = (0, format!("{other:?}"));
                    tokio::time::sleep(POLL).await;
                }
            }
        }
        Ok(())
    }

    /// An error if one of the processes has ended.
    pub(crate) fn check(&self) -> Result<()> {
        self.others.iter().chain(&self.sidecars).try_for_each(Running::check)
    }

    /// The admin socket of the sidecar beside that instance.
    pub(crate) fn socket(&self, id: &str) -> PathBuf {
        self.scratch.path().join(id).join("sidecar.sock")
    }

    pub(crate) async fn inject(&self, n: usize, fault: Option<Kind>) -> Result<()> {
        let name = inventory(n);
        let place = self.plan.places.iter().position(|p| p.id == name).context("there is no such instance")?;
        let sent = self.apps[place].send(Method::POST, "/fault", fault.map_or("none", Kind::word));
        let answer = tokio::time::timeout(SOON, sent).await;
        let (status, _) = answer.with_context(|| format!("{name}-app does not listen"))??;
        if status != StatusCode::OK {
            bail!("{name}-app does not know that fault: {status}");
        }
        Ok(())
    }

    /// Inventory's circuits as catalog's sidecar has them, and what the applications measured.
    pub(crate) async fn look(&self) -> Vec<Row> {
        let breakers = ask(&self.socket(WATCHED), Method::GET, "/breakers", None).await.unwrap_or(Value::Null);
        let circuit = |id: &str| {
            let all = breakers["breakers"].as_array().map_or(&[][..], Vec::as_slice);
            let found = all.iter().find(|b| b["service"] == "inventory" && b["instance"] == id);
            match found {
                Some(b) if b["mode"] == "disabled" => "off".to_owned(),
                Some(b) => b["circuit"].as_str().unwrap_or("-").to_owned(),
                None => "-".to_owned(),
            }
        };
        let mut rows = Vec::new();
        for (place, app) in self.plan.places.iter().zip(&self.apps).filter(|(p, _)| p.service == "inventory") {
            let asked = tokio::time::timeout(SOON, app.send(Method::GET, "/stats", "")).await;
            let stats = asked.ok().and_then(Result::ok).and_then(|(_, body)| serde_json::from_slice(&body).ok());
            rows.push(Row { instance: place.id.clone(), circuit: circuit(&place.id), stats });
        }
        rows
    }

    /// Of one sidecar, on average.
    pub(crate) fn sidecar_memory_kib(&self) -> Option<u64> {
        let all: Vec<u64> = self.sidecars.iter().filter_map(Running::memory_kib).collect();
        let count = u64::try_from(all.len()).ok()?;
        all.iter().sum::<u64>().checked_div(count)
    }

    /// Ends all processes; the folder, if it is kept.
    pub(crate) fn end(self) -> Option<PathBuf> {
        self.scratch.keep.then(|| self.scratch.path().to_owned())
    }
}

fn app_arguments(n: usize, place: &Place, remove: Option<&Path>) -> Vec<std::ffi::OsString> {
    let mut arguments: Vec<std::ffi::OsString> =
        vec!["demo-app".into(), "--listen".into(), place.app.to_string().into(), "--seed".into(), n.to_string().into()];
    if let Some((upstream, service)) = place.next {
        let more = ["--upstream".into(), upstream.to_string(), "--service".into(), service.into()];
        arguments.extend(more.map(Into::into));
    }
    if let Some(folder) = remove {
        arguments.extend(["--remove".into(), folder.into()]);
    }
    arguments
}

/// Somebody took one of the ports between our finding it free and a child binding it.
fn is_collision(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("in use")
}

async fn is_ready(socket: &Path) -> Result<()> {
    let asked = async {
        let stream = tokio::net::UnixStream::connect(socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get("/ready").header("host", "fusewire").body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let said = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("{}", String::from_utf8_lossy(&said).trim());
        }
        Ok(())
    };
    tokio::time::timeout(SOON, asked).await?
}
