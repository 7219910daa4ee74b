//! A headless Chromium, driven over WebDriver's HTTP protocol by chromedriver: what a person does with keys, and what they see.
//!
//! It decides that a browser starts empty and asks nothing of the network by itself. It deliberately has no library for the
//! protocol: a test needs ten of its commands.

use crate::client::{send, send_within};
use crate::process::{Process, accepts, eventually, free_port, tool};
use base64::Engine;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long the browser may take to start: it is large, and a machine that runs all tests is busy.
const START: Duration = Duration::from_secs(120);
/// How long it may take for anything else.
const ANSWER: Duration = Duration::from_secs(30);

/// Ends with this handle, the browser before its driver.
#[derive(Debug)]
pub struct Browser {
    port: u16,
    session: String,
    /// Screenshots go here, or to `FUSEWIRE_TEST_SCREENSHOTS`.
    dir: PathBuf,
    /// The argument that no other browser has.
    profile: String,
    _driver: Process,
}

const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox", // tests may run as root, where there is none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage", // small in containers
    "--lang=en",
];

impl Browser {
    /// `dir` gets the profile, the log and the screenshots.
    pub fn start(dir: &Path) -> Self {
        let port = free_port();
        let mut command = Command::new(tool("chromedriver"));
        command.arg(format!("--port={port}")).env("HOME", dir);
        let driver = Process::start(&mut command, dir.join("chromedriver.log"));
        eventually("chromedriver listens", || accepts(port));
        let profile = format!("--user-data-dir={}", dir.join("profile").display());
        let mut browser = Self { port, session: String::new(), dir: dir.into(), profile, _driver: driver };
        let arguments: Vec<&str> = ARGUMENTS.into_iter().chain([browser.profile.as_str()]).collect();
        let options = json!({ "binary": tool("chromium"), "args": arguments });
        let logs = json!({ "browser": "ALL", "performance": "ALL" });
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs });
        let made = browser.ask(START, "POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = format!("/session/{}", made["sessionId"].as_str().unwrap());
        browser
    }

    fn ask(&self, patience: Duration, method: &str, path: &str, body: &Value) -> Value {
        let text = if method == "POST" { body.to_string() } else { String::new() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", format!("127.0.0.1:{}", self.port))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(text)))
            .unwrap();
        let answer = send_within(patience, self.port, request).unwrap_or_else(|e| panic!("chromedriver, {path}: {e}"));
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer.status, 200, "{path} {body}: {told}");
        told["value"].clone()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.ask(ANSWER, "POST", &format!("{}{path}", self.session), body)
    }

    pub fn go(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// What a function body returns, run in the page.
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until a JavaScript expression is true in the page.
    #[track_caller]
    pub fn until(&self, what: &str, expression: &str) {
        eventually(what, || self.run(&format!("return Boolean({expression});")) == true);
    }

    /// Presses keys one after the other: characters, or names such as `ArrowDown`.
    pub fn press(&self, keys: &[&str]) {
        let code = |key: &str| match key {
            "Backspace" => "\u{E003}".to_owned(),
            "Tab" => "\u{E004}".to_owned(),
            "Enter" => "\u{E007}".to_owned(),
            "Escape" => "\u{E00C}".to_owned(),
            "End" => "\u{E010}".to_owned(),
            "Home" => "\u{E011}".to_owned(),
            "ArrowLeft" => "\u{E012}".to_owned(),
            "ArrowUp" => "\u{E013}".to_owned(),
            "ArrowRight" => "\u{E014}".to_owned(),
            "ArrowDown" => "\u{E015}".to_owned(),
            key => key.to_owned(),
        };
        let both =
            |key: &&str| [json!({"type": "keyDown", "value": code(key)}), json!({"type": "keyUp", "value": code(key)})];
        let actions: Vec<Value> = keys.iter().flat_map(both).collect();
        self.post("/actions", &json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] }));
    }

    pub fn type_text(&self, text: &str) {
        let keys: Vec<String> = text.chars().map(String::from).collect();
        self.press(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    }

    pub fn size(&self, width: u32, height: u32) {
        self.post("/window/rect", &json!({ "width": width, "height": height }));
    }

    /// `light` or `dark`, as the person prefers.
    pub fn prefers(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let params = json!({ "features": features });
        self.post("/goog/cdp/execute", &json!({ "cmd": "Emulation.setEmulatedMedia", "params": params }));
    }

    pub fn screenshot(&self, name: &str) -> PathBuf {
        let told = self.ask(ANSWER, "GET", &format!("{}/screenshot", self.session), &Value::Null);
        let png = base64::engine::general_purpose::STANDARD.decode(told.as_str().unwrap()).unwrap();
        let dir = std::env::var_os("FUSEWIRE_TEST_SCREENSHOTS").map_or_else(|| self.dir.clone(), PathBuf::from);
        let path = dir.join(format!("{name}.png"));
        std::fs::write(&path, png).unwrap();
        path
    }

    /// What the page wrote to its console, and what the browser complained of, since it was last asked.
    pub fn console(&self) -> Vec<String> {
        let told = self.post("/se/log", &json!({ "type": "browser" }));
        told.as_array().unwrap().iter().map(|line| format!("{}: {}", line["level"], line["message"])).collect()
    }

    /// Every address that was asked for since it was last asked, but for what the browser itself consists of.
    pub fn requests(&self) -> Vec<String> {
        let told = self.post("/se/log", &json!({ "type": "performance" }));
        let address = |line: &Value| {
            let event: Value = serde_json::from_str(line["message"].as_str()?).ok()?;
            let message = &event["message"];
            (message["method"] == "Network.requestWillBeSent").then_some(())?;
            let url = message["params"]["request"]["url"].as_str()?;
            let own = ["chrome:", "chrome-untrusted:", "chrome-extension:", "data:"];
            (!own.iter().any(|scheme| url.starts_with(scheme))).then(|| url.to_owned())
        };
        told.as_array().unwrap().iter().filter_map(address).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let request = Request::delete(&self.session).header("host", "127.0.0.1").body(Full::default()).unwrap();
            let _ = send(self.port, request);
        }
        // what is left of it then, or where it never came to a session: its driver would leave it behind
        for id in with_argument(&self.profile) {
            let _ = Command::new("kill").args(["-KILL", &id]).status();
        }
    }
}

/// The ids of the processes that were started with this argument; none where there is no /proc.
fn with_argument(wanted: &str) -> Vec<String> {
    let has = |id: &String| {
        let arguments = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        // separate ones, or one long one where a process has rewritten its title
        arguments.split(|byte| matches!(byte, 0 | b' ')).any(|argument| argument == wanted.as_bytes())
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten();
    let id = |name: String| name.bytes().all(|byte| byte.is_ascii_digit()).then_some(name);
    all.filter_map(|entry| id(entry.ok()?.file_name().into_string().ok()?)).filter(has).collect()
}
