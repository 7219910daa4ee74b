//! Programs that nobody here wrote and nobody told anything: through both sidecars, by the address that they always had.
//!
//! Each test asserts that the way was the mesh's: the inbound sidecar knows who called.

use crate::host::{World, certificate, curl};
use fusewire_testkit::process::{python, tool};
use fusewire_testkit::{Process, eventually};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// `nobody` on Debian and elsewhere.
const NOBODY: u32 = 65534;

/// One service on host 2 and `port`, both hosts' traffic redirected.
fn world(protocol: &str, port: u16) -> World {
    let instances = format!("[{{id: program-1, address: '10.77.0.2:{port}', sidecar: '10.77.0.2:15008'}}]");
    let world = World::new(&format!(
        "\nservices: {{program: {{identity: shop, protocol: {protocol}, instances: {instances}}}}}\n"
    ));
    world.intercept(1, &[]);
    world.intercept(2, &[]);
    world
}

/// So many exchanges or connections came in by the mesh, and nothing came by another way.
fn came_by_the_mesh(world: &World, times: usize) {
    eventually(&format!("{times} came by the mesh"), || {
        let all = World::log_of(&world.shop);
        assert!(all.iter().all(|line| line["peer"] == "spiffe://fusewire.local/web"), "{all:?}");
        all.len() >= times
    });
}

/// What a program on host 1 prints; it has to succeed.
fn run(world: &World, program: impl Into<PathBuf>, arguments: &[&str]) -> String {
    let out = world.host(1).command(program).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{arguments:?}: {}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

#[test]
fn curl_and_nginx() {
    let world = world("http", 8088);
    let _nginx = world.nginx_listening(2, 8088, "");
    std::fs::write(world.dir.path().join("large"), vec![b'x'; 5_000_000]).unwrap();
    for version in ["--http1.1", "--http2-prior-knowledge", "--http1.0"] {
        let answer = curl(world.host(1), &[version, "http://10.77.0.2:8088/index.html"]);
        assert_eq!(answer, (200, "from nginx".into()), "{version}");
        let (status, body) = curl(world.host(1), &[version, "http://10.77.0.2:8088/large"]);
        assert_eq!((status, body.len()), (200, 5_000_000), "{version}");
        let part = curl(world.host(1), &[version, "-r", "100-199", "http://10.77.0.2:8088/large"]);
        assert_eq!(part, (206, "x".repeat(100)), "{version}");
    }
    came_by_the_mesh(&world, 9);
}

#[test]
fn redis_cli_and_redis_server() {
    let world = world("http", 6379);
    let _redis = redis(&world, 6379);
    let cli = |arguments: &[&str]| {
        run(&world, tool("redis-cli"), &[&["-h", "10.77.0.2"], arguments].concat()).trim().to_owned()
    };
    assert_eq!(cli(&["SET", "key", "value"]), "OK");
    assert_eq!(cli(&["GET", "key"]), "value");
    assert_eq!(cli(&["-r", "500", "INCR", "times"]).lines().last(), Some("500"), "one after the other");
    // as fast as they go, and more bytes than fit into what is buffered on the way
    let commands: String = (0..20_000).map(|n| format!("SET key{n} {}\r\n", "x".repeat(100))).collect();
    std::fs::write(world.dir.path().join("commands"), commands).unwrap();
    let piped = format!("exec \"$0\" -h 10.77.0.2 --pipe < {}", world.dir.path().join("commands").display());
    let cli_path = tool("redis-cli").display().to_string();
    let said = run(&world, "sh", &["-c", &piped, &cli_path]);
    assert!(said.contains("errors: 0, replies: 20000"), "{said}");
    assert_eq!(cli(&["DBSIZE"]), "20002");
    came_by_the_mesh(&world, 5);
}

/// Up and answering, on every address of host 2.
pub(crate) fn redis(world: &World, port: u16) -> Process {
    let mut command = world.host(2).command(tool("redis-server"));
    command.current_dir(world.dir.path());
    command.args(["--port", &port.to_string(), "--save", "", "--protected-mode", "no", "--bind", "0.0.0.0"]);
    let process = Process::start(&mut command, world.dir.path().join("redis.log"));
    eventually("redis answers", || {
        let out = world.host(2).run("redis-cli", &["-p", &port.to_string(), "PING"]);
        out.stdout.trim_ascii() == b"PONG"
    });
    process
}

/// The server is silent until it is asked; and one that wants TLS asks for it in its own words first (SSLRequest).
#[test]
fn psql_and_postgresql_with_and_without_tls() {
    let world = world("http", 5432);
    let _postgres = Postgres::start(&world, 5432);
    let psql = |mode: &str, sql: &str| {
        let to = format!("host=10.77.0.2 user=postgres dbname=postgres connect_timeout=20 sslmode={mode}");
        run(&world, postgres_program("psql"), &["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &to, "-c", sql])
            .trim()
            .to_owned()
    };
    const ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    for (mode, encrypted) in [("disable", "f"), ("prefer", "t"), ("require", "t")] {
        assert_eq!(psql(mode, ENCRYPTED), encrypted, "{mode}");
        assert_eq!(psql(mode, "select host(inet_client_addr())"), "127.0.0.1", "{mode}: its sidecar called");
        let rows = psql(mode, "select n, repeat('x', 100) from generate_series(1, 20000) n");
        assert_eq!(rows.lines().count(), 20_000, "{mode}");
    }
    came_by_the_mesh(&world, 9);
}

/// A cluster in a folder of its own, which is gone with this handle. It runs as nobody: PostgreSQL refuses root.
pub(crate) struct Postgres {
    _process: Process,
    _dir: TempDir,
}

impl Postgres {
    pub(crate) fn start(world: &World, port: u16) -> Self {
        let dir = tempfile::Builder::new().prefix("fusewire-test-postgres-").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::copy(certificate(world.dir.path()), path("server.pem")).unwrap();
        std::fs::set_permissions(path("server.pem"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        for ours in [dir.path(), Path::new(&path("server.pem"))] {
            chown(ours, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let as_nobody = |program: &str, arguments: &[&str]| {
            let mut command = world.host(2).command(tool("setpriv"));
            command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}")).arg("--clear-groups");
            command.arg(postgres_program(program)).args(arguments).current_dir(dir.path());
            command
        };
        let data = path("data");
        let made = as_nobody("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync"]).output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(format!("{data}/pg_hba.conf"), "host all all all trust\n").unwrap();
        let settings = [
            "listen_addresses=*".to_owned(),
            format!("unix_socket_directories={}", dir.path().display()),
            "ssl=on".into(),
            format!("ssl_cert_file={}", path("server.pem")),
            format!("ssl_key_file={}", path("server.pem")),
            "fsync=off".into(),
        ];
        let mut command = as_nobody("postgres", &["-D", &data, "-p", &port.to_string()]);
        for setting in &settings {
            command.args(["-c", setting]);
        }
        let process = Process::start(&mut command, world.dir.path().join("postgres.log"));
        let ready = || {
            let mut ask = world.host(2).command(postgres_program("psql"));
            let to = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode=disable");
            ask.args(["-X", "-d", &to, "-c", "select 1"]).output().unwrap().status.success()
        };
        eventually("PostgreSQL answers", ready);
        Self { _process: process, _dir: dir }
    }
}

/// Debian keeps the server's programs out of the way, by version.
fn postgres_program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|v| v.path().join("bin").join(name)).filter(|p| p.is_file()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| tool(name))
}

/// Nothing says what the service speaks: the server does, first.
#[test]
fn a_mail_client_and_a_mail_server() {
    let world = world("http", 25);
    let server = mail(&world, 25);
    let send = "import smtplib, sys\n\
                for n in range(3):\n \
                with smtplib.SMTP('10.77.0.2', 25, timeout=20) as mail:\n  \
                mail.sendmail('web@example.com', ['shop@example.com'], 'Subject: hello\\n\\n' + 'a line\\n' * 1000)";
    run(&world, tool("python3"), &["-c", send]);
    assert_eq!(server.output().matches("127.0.0.1 sent 1002 lines").count(), 3, "{}", server.output());
    came_by_the_mesh(&world, 3);
}

pub(crate) fn mail(world: &World, port: u16) -> Process {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/smtp_server.py");
    let mut command = world.host(2).command(tool("python3"));
    command.arg(script).arg(port.to_string());
    let process = Process::start(&mut command, world.dir.path().join("mail.log"));
    eventually("the mail server listens", || process.output().contains("listening"));
    process
}

#[test]
fn a_grpc_client_and_a_grpc_server() {
    let world = world("http", 50051);
    let script = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python").join(name);
    let mut command = world.host(2).command(python());
    command.arg(script("grpc_server.py")).arg("50051");
    let _server = Process::start(&mut command, world.dir.path().join("grpc.log"));
    let accepts = "import socket\nsocket.create_connection(('127.0.0.1', 50051), 1)";
    eventually("the gRPC server listens", || world.host(2).run("python3", &["-c", accepts]).status.success());
    let client = script("grpc_client.py").display().to_string();
    assert_eq!(run(&world, python(), &[&client, "10.77.0.2:50051", "10.77.0.2:50051", "everything"]), "ok\n");
    came_by_the_mesh(&world, 20);
}
