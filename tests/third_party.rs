//! Programs that nobody here wrote, through the mesh: curl, h2load, nginx, Python's web server and gRPC.

#![allow(clippy::unwrap_used)]

use fusewire_testkit::client::App;
use fusewire_testkit::process::{accepts, python, tool};
use fusewire_testkit::{Mesh, Pair, Process, eventually, free_port};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
        let head = said(&curl(&[version, "-I", "-H", "Host: nobody", &url]));
        assert!(head.contains("404") && head.contains("fusewire-reason: no-route"), "{version}: {head}");
        let posted = curl(&[version, "-H", "Host: shop", "-H", "Expect: 100-continue", "-d", "a body", &url]);
        assert_eq!(said(&posted), "hello", "{version}");
    }
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

/// Unary and all streamings, trailing metadata, status codes, deadlines, large messages, and a server that dies: judged by
/// the client's own assertions.
#[test]
fn grpc_from_python_to_python_passes_unharmed() {
    let port = free_port();
    let pair = Pair::new(FUSEWIRE, port);
    let mut command = Command::new(python());
    command.arg(script("grpc_server.py")).arg(port.to_string());
    let mut server = Process::start(&mut command, pair.mesh.path("grpc-server.log"));
    eventually("the gRPC server listens", || accepts(port));
    let client = |what: &str| {
        let mut client = Command::new(python());
        client.arg(script("grpc_client.py")).arg(format!("127.0.0.1:{}", pair.port())).arg(what);
        said(&client.output().unwrap())
    };
    assert_eq!(client("everything"), "ok\n");
    server.kill();
    assert_eq!(client("unavailable"), "ok\n");
}
