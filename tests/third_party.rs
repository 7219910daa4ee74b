//! Programs that nobody here wrote, through the mesh: curl, h2load, nginx, Python's web server and gRPC.

#![allow(clippy::unwrap_used)]

use fusewire_testkit::client::App;
use fusewire_testkit::pair::{BOTH, Shape};
use fusewire_testkit::process::{accepts, python, tool};
use fusewire_testkit::{Mesh, Pair, Process, eventually, free_port};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

fn curl(arguments: &[&str]) -> Output {
    Command::new(tool("curl")).args(["-sS", "--max-time", "20"]).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python").join(name)
}

#[test]
fn curl_speaks_http1_and_http2_through_two_sidecars() {
    let app = App::saying(0, "hello");
    let pair = Pair::new(FUSEWIRE, app.port);
    let url = format!("http://127.0.0.1:{}/", pair.port());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        assert_eq!(said(&curl(&[version, "-H", "Host: shop", &url])), "hello", "{version}");
        let address = format!("Host: 127.0.0.1:{}", app.port);
        assert_eq!(said(&curl(&[version, "-H", &address, &url])), "hello", "{version}: an instance's own address");
        let head = said(&curl(&[version, "-I", "-H", "Host: nobody", &url]));
        assert!(head.contains("404") && head.contains("fusewire-reason: no-route"), "{version}: {head}");
        let posted = curl(&[version, "-H", "Host: shop", "-H", "Expect: 100-continue", "-d", "a body", &url]);
        assert_eq!(said(&posted), "hello", "{version}");
    }
}

/// Answers with the version that it was asked in, the method and the body's length.
fn mirror() -> App {
    App::start(0, |request| {
        let text = format!("{:?} {} {}", request.version(), request.method(), request.body().len());
        http::Response::new(http_body_util::Full::new(text.into()))
    })
}

#[test]
fn curl_uploads_in_every_version_and_waits_for_100_continue() {
    let app = mirror();
    let pair = Pair::new(FUSEWIRE, app.port);
    let dir = TempDir::new().unwrap();
    let upload = dir.path().join("upload");
    std::fs::write(&upload, vec![b'x'; 3_000_000]).unwrap();
    let (upload, url) = (upload.display().to_string(), format!("http://127.0.0.1:{}/", pair.port()));
    for host in BOTH {
        let host_field = format!("Host: {host}");
        for version in ["--http1.1", "--http2-prior-knowledge", "--http1.0"] {
            let curl = |more: &[&str]| said(&curl(&[&[version, "-H", &host_field, &url], more].concat()));
            assert_eq!(curl(&["-T", &upload]), "HTTP/1.1 PUT 3000000", "{host} {version}");
        }
        // over HTTP/1.1 only: hyper says no 100 on HTTP/2, where curl goes on by itself after a second; HTTP/1.0 has none
        let waits = ["--data-binary", &format!("@{upload}"), "-H", "Expect: 100-continue", "--expect100-timeout", "25"];
        let uploaded = said(&curl(&[&["--http1.1", "-H", &host_field, &url], &waits[..]].concat()));
        assert_eq!(uploaded, "HTTP/1.1 POST 3000000", "{host}");
        // a switch to h2c is not taken up, and the answer comes all the same
        assert_eq!(said(&curl(&["--http2", "-H", &host_field, &url])), "HTTP/1.1 GET 0", "{host}");
    }
}

#[test]
fn curl_takes_a_sidecar_for_a_proxy_with_and_without_a_tunnel() {
    let app = mirror();
    let pair = Pair::new(FUSEWIRE, app.port);
    let proxy = format!("http://127.0.0.1:{}", pair.port());
    let through = |more: &[&str]| curl(&[&["--noproxy", "", "-x", proxy.as_str()], more].concat());
    for host in BOTH {
        let url = format!("http://{host}/");
        assert_eq!(said(&through(&[&url])), "HTTP/1.1 GET 0", "{host}");
        assert_eq!(said(&through(&["-p", &url])), "HTTP/1.1 GET 0", "{host}");
        let within = said(&through(&["-p", "--http2-prior-knowledge", &url]));
        assert_eq!(within, "HTTP/2.0 GET 0", "{host}: the tunnel carries whatever the application speaks");
    }
    let refused = through(&["-p", "http://nowhere/"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("404"), "{refused:?}");
}

#[test]
fn h2load_sees_every_request_answered() {
    let app = App::saying(0, "hello");
    let pair = Pair::new(FUSEWIRE, app.port);
    let url = format!("http://127.0.0.1:{}/", pair.port());
    for version in [&["-n2000", "-c10", "-m10"][..], &["-n1000", "-c10", "--h1"]] {
        let out = Command::new(tool("h2load"))
            .args(version)
            .args(["-H", "Host: shop", "-H", ":authority: shop", &url])
            .output();
        let text = said(&out.unwrap());
        let total = &version[0][2..];
        assert!(text.contains(&format!("{total} succeeded, 0 failed, 0 errored")), "{text}");
        assert!(text.contains(&format!("status codes: {total} 2xx")), "{text}");
    }
}

/// The README's shape: two web servers that nobody here wrote, curl before them, one of them killed.
#[test]
fn one_of_two_foreign_web_servers_dies_and_curl_sees_no_failure() {
    let (nginx_port, python_port, first, second) = (free_port(), free_port(), free_port(), free_port());
    let mesh = Mesh::new(
        FUSEWIRE,
        &format!(
            "services:\n  files:\n    instances:\n      \
             - {{id: files-1, address: 127.0.0.1:{nginx_port}, sidecar: 127.0.0.1:{first}}}\n      \
             - {{id: files-2, address: 127.0.0.1:{python_port}, sidecar: 127.0.0.1:{second}}}\n"
        ),
    );
    std::fs::write(mesh.path("index.html"), "a file\n").unwrap();
    let mut nginx = nginx(&mesh, nginx_port);
    let mut server = Command::new(python());
    server.args(["-m", "http.server", &python_port.to_string(), "--bind", "127.0.0.1"]).current_dir(mesh.dir.path());
    let _server = Process::start(&mut server, mesh.path("python.log"));
    eventually("both web servers listen", || accepts(nginx_port) && accepts(python_port));
    let _files = [mesh.sidecar("files", "files-1", Some(first)), mesh.sidecar("files", "files-2", Some(second))];
    let caller = mesh.sidecar("curl", "curl", None);
    let url = format!("http://127.0.0.1:{}/index.html", caller.outbound);
    let mut asked = 0;
    let mut ask = || {
        asked += 1;
        assert_eq!(said(&curl(&["--fail", "-H", "Host: files", &url])), "a file\n", "request {asked}");
    };
    eventually("both were used", || {
        ask();
        let log = caller.access_log();
        ["files-1", "files-2"].iter().all(|id| log.iter().any(|line| line["instance"] == *id))
    });
    nginx.kill();
    (0..30).for_each(|_| ask());
}

fn nginx(mesh: &Mesh, port: u16) -> Process {
    let dir = mesh.dir.path().display().to_string();
    let configuration = format!(
        "daemon off; master_process off; error_log {dir}/nginx-error.log; pid {dir}/nginx.pid;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {dir}/n1; proxy_temp_path {dir}/n2; fastcgi_temp_path {dir}/n3;\n\
         uwsgi_temp_path {dir}/n4; scgi_temp_path {dir}/n5;\n\
         server {{ listen 127.0.0.1:{port}; root {dir}; }} }}\n"
    );
    std::fs::write(mesh.path("nginx.conf"), configuration).unwrap();
    let mut command = Command::new(tool("nginx"));
    command.args(["-p", &dir, "-c", &format!("{dir}/nginx.conf"), "-e", &format!("{dir}/nginx-error.log")]);
    Process::start(&mut command, mesh.path("nginx.log"))
}

fn grpc_server(dir: &Path) -> (Process, u16) {
    let port = free_port();
    let mut command = Command::new(python());
    command.arg(script("grpc_server.py")).arg(port.to_string());
    let server = Process::start(&mut command, dir.join("grpc-server.log"));
    eventually("the gRPC server listens", || accepts(port));
    (server, port)
}

fn grpc_client(pair: &Pair, authority: &str, what: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(script("grpc_client.py")).args([&format!("127.0.0.1:{}", pair.port()), authority, what]);
    command
}

/// Unary and all streamings, metadata, status codes, deadlines, cancels, large messages: judged by the client's own
/// assertions.
#[test]
fn grpc_from_python_to_python_passes_unharmed() {
    let dir = TempDir::new().unwrap();
    let (_server, port) = grpc_server(dir.path());
    let pair = Pair::new(FUSEWIRE, port);
    for host in BOTH {
        assert_eq!(said(&grpc_client(&pair, host, "everything").output().unwrap()), "ok\n", "{host}");
    }
    // whatever the application said was its own; a call's deadline the sidecars know as well, and may be the first to say so
    let late = |line: &serde_json::Value| line["path"] == "/test.Echo/Slow" && line["grpc_status"] == 4;
    let ours = |line: &serde_json::Value| !line["reason"].is_null() && line["reason"] != "client-gone" && !late(line);
    let log = pair.web.access_log();
    assert!(!log.iter().any(ours), "{:?}", log.iter().find(|l| ours(l)));
}

#[test]
fn a_grpc_server_that_dies_ends_its_streams_and_is_unavailable() {
    for (host, reason) in [("shop", "app-unreachable"), ("plain", "connect-failed")] {
        let dir = TempDir::new().unwrap();
        let (mut server, port) = grpc_server(dir.path());
        let pair = Pair::shaped(FUSEWIRE, port, &Shape { policy: "breaker: off", ..Shape::default() });
        let mut client = Process::start(&mut grpc_client(&pair, host, "dies"), dir.path().join("grpc-client.log"));
        eventually("the stream runs", || client.output().contains("streaming"));
        server.kill();
        eventually("the client ends", || client.ended().is_some());
        let said = client.output();
        // a process that is being killed may still take a connection, and break it
        assert!([reason, "reset"].iter().any(|r| said.trim_end().ends_with(r)), "{host}: {said}");
    }
}

#[test]
fn websockets_from_python_to_python_pass_unharmed() {
    let dir = TempDir::new().unwrap();
    let port = free_port();
    let mut command = Command::new(python());
    command.arg(script("websocket_server.py")).arg(port.to_string());
    let _server = Process::start(&mut command, dir.path().join("server.log"));
    eventually("the server listens", || accepts(port));
    let pair = Pair::new(FUSEWIRE, port);
    for host in BOTH {
        let mut client = Command::new(python());
        client.arg(script("websocket_client.py")).args([&pair.port().to_string(), host]);
        assert_eq!(said(&client.output().unwrap()), "ok\n", "{host}");
    }
}
