//! What the application calls.

use crate::host::{GROUP, SHOP, World, curl, intercept, talk};
use fusewire_testkit::process::tool;
use fusewire_testkit::{Process, eventually};
use std::time::{Duration, Instant};

#[test]
fn a_call_to_an_instance_goes_through_both_sidecars_over_mtls_in_ipv4_and_ipv6() {
    let world = World::new(SHOP);
    world.intercept(1, &[]);
    world.intercept(2, &[]);
    for (url, service, path) in
        [("http://10.77.0.2:8080/four", "shop", "/four"), ("http://[fd77::2]:8080/six", "shop6", "/six")]
    {
        let (status, body) = curl(world.host(1), &[url]);
        assert_eq!((status, body.as_str()), (200, format!("shop {path} from=127.0.0.1 fields=\n").as_str()), "{url}");
        let out = World::logged(&world.web, path);
        assert_eq!((&out["direction"], &out["service"]), (&"outbound".into(), &service.into()), "{out}");
        assert_mutual(&world, path);
    }
    assert_eq!(talk(world.host(1), "10.77.0.2:8081", "ping"), "ping", "bytes");
    assert_eq!(talk(world.host(1), "10.77.0.2:8082", ""), "220 shop", "a server that speaks first");
    let tcp: Vec<_> = World::log_of(&world.shop).into_iter().filter(|line| line["protocol"] == "h2").collect();
    assert!(tcp.iter().all(|line| line["peer"] == "spiffe://fusewire.local/web"), "{tcp:?}");
}

/// The inbound sidecar knows who called.
fn assert_mutual(world: &World, path: &str) {
    let came = World::logged(&world.shop, path);
    assert_eq!(came["direction"], "inbound", "{came}");
    assert_eq!(came["peer"], "spiffe://fusewire.local/web", "{came}");
}

/// 10.77.9.9 is nowhere: a virtual address, which only the authority gives a meaning.
#[test]
fn a_call_to_an_address_that_is_no_instance_goes_by_its_authority_in_http1_and_http2() {
    let world = World::new(SHOP);
    world.host(1).told("ip", &["route", "add", "default", "via", "10.77.0.3"]);
    world.intercept(1, &[]);
    for (version, path) in [("--http1.1", "/one"), ("--http2-prior-knowledge", "/two")] {
        let url = format!("http://shop{path}");
        let answer = curl(world.host(1), &[version, "--connect-to", "shop:80:10.77.9.9:80", &url]);
        assert_eq!(answer, (200, format!("shop {path} from=127.0.0.1 fields=\n")), "{version}");
        assert_mutual(&world, path);
    }
}

#[test]
fn what_the_mesh_does_not_know_goes_on_as_it_is() {
    let world = World::new(SHOP);
    world.intercept(1, &[]);
    let web = world.host(1);
    for url in ["http://10.77.0.3:8080/a", "http://[fd77::3]:8080/a", "https://10.77.0.3:8084/a"] {
        let (status, body) = curl(web, &["-k", url]);
        let from = if url.contains("fd77") { "fd77::1" } else { "10.77.0.1" };
        assert_eq!((status, body), (200, format!("world /a from={from} fields=\n")), "{url}");
        let authority = url.split('/').nth(2).unwrap();
        let line = World::logged_for(&world.web, authority);
        assert!(line["detail"].as_str().unwrap().starts_with("passed through"), "{line}");
    }
    assert_eq!(talk(web, "10.77.0.3:8081", "*1\r\n"), "*1", "bytes that are no HTTP");
    assert_eq!(talk(web, "10.77.0.3:8082", ""), "220 world", "a server that speaks first");
    let (status, _) = curl(web, &["http://10.77.0.3:9/"]);
    assert_eq!(status, 0, "nobody listens there, and nobody answers in its place");
}

/// As SMTP and MySQL do. Nothing says what it speaks: the first connection waits a moment for a request that does not come.
#[test]
fn a_service_whose_server_speaks_first_needs_no_configuration() {
    let undeclared = "\nservices: {mail: {identity: shop, instances: [{id: mail-1, address: '10.77.0.2:8082', sidecar: '10.77.0.2:15008'}]}}\n";
    let world = World::new(undeclared);
    world.intercept(1, &[]);
    for _ in 0..5 {
        assert_eq!(talk(world.host(1), "10.77.0.2:8082", ""), "220 shop");
    }
    eventually("they came by the mesh", || {
        let came = World::log_of(&world.shop);
        came.iter().filter(|line| line["peer"] == "spiffe://fusewire.local/web" && line["method"] == "CONNECT").count()
            == 5
    });
}

#[test]
fn a_connection_of_bytes_that_is_idle_is_kept_alive_on_every_part_of_its_way() {
    let world = World::new(SHOP);
    world.intercept(1, &[]);
    world.intercept(2, &[]);
    let script = "import socket\n\
                  calls = [socket.create_connection((a, 8081), 20) for a in ('10.77.0.2', '10.77.0.3')]\n\
                  for c in calls: c.sendall(b'ping'); assert c.recv(4) == b'ping'\n\
                  print('idle', flush=True)\ncalls[0].recv(1)";
    let mut idle = world.host(1).command(tool("python3"));
    let idle = Process::start(idle.args(["-c", script]), world.dir.path().join("idle.log"));
    eventually("it is idle", || idle.output().contains("idle"));
    for (n, socket, of) in [
        (1, "sport = :15001", "from the application"),
        (1, "dport = :15008", "to the other sidecar"),
        (
            1,
            "dport = :8081 and src 10.77.0.1 and dst 10.77.0.3",
            "to what the mesh does not know, and the application's own",
        ),
        (2, "sport = :15006", "from the other sidecar"), // redirected too
        (2, "dport = :8081", "to the application"),
    ] {
        eventually(&format!("the connection {of} is kept alive"), || {
            world.host(n).told("ss", &["-Htno", "state", "established", socket]).contains("timer:(keepalive")
        });
    }
}

/// HTTP/2 is served to see whom it is for, and goes on to where it was going.
#[test]
fn http2_that_the_mesh_does_not_know_goes_on_too() {
    let world = World::new(SHOP);
    let _nginx = world.nginx(3, 8099);
    world.intercept(1, &[]);
    let url = "http://10.77.0.3:8099/index.html";
    let (status, body) = curl(world.host(1), &["--http2-prior-knowledge", "-w", " %{http_version}\n%{http_code}", url]);
    assert_eq!((status, body.as_str()), (200, "from nginx 2"), "h2 to the end");
    assert_eq!(World::logged(&world.web, "/index.html")["service"], "passthrough");
}

#[test]
fn tls_of_the_applications_own_reaches_an_instance_through_the_mesh_unread() {
    let secure =
        "\nservices: {shop: {instances: [{id: shop-1, address: '10.77.0.2:8084', sidecar: '10.77.0.2:15008'}]}}\n";
    let world = World::new(secure);
    world.intercept(1, &[]);
    let answer = curl(world.host(1), &["-k", "https://10.77.0.2:8084/tls"]);
    assert_eq!(answer, (200, "shop /tls from=127.0.0.1 fields=\n".into()));
    eventually("both sidecars log bytes", || {
        let tcp =
            |log: &[serde_json::Value]| log.iter().any(|line| line["protocol"] == "tcp" && line["service"] == "shop");
        let came = World::log_of(&world.shop);
        tcp(&World::log_of(&world.web)) && came.iter().any(|line| line["peer"] == "spiffe://fusewire.local/web")
    });
}

#[test]
fn what_the_mesh_does_not_know_is_refused_where_that_is_asked_for() {
    let world = World::with(SHOP, "refuse");
    world.intercept(1, &[]);
    let web = world.host(1);
    assert_eq!(curl(web, &["http://10.77.0.2:8080/"]).0, 200, "what it knows");
    let (status, head) = curl(web, &["-D", "-", "-o", "/dev/null", "http://10.77.0.3:8080/"]);
    assert!(status == 404 && head.contains("fusewire-reason: no-route"), "{head}");
    assert_eq!(curl(web, &["-k", "https://10.77.0.3:8084/"]).0, 0, "TLS can only be ended");
    assert_eq!(World::logged_for(&world.web, "10.77.0.3:8084")["reason"], "no-route");
}

#[test]
fn a_control_plane_that_is_away_cuts_nobody_off() {
    let mut world = World::new(SHOP);
    world.intercept(1, &[]);
    let web = world.network.host(1);
    assert_eq!(curl(web, &["http://10.77.0.2:8080/before"]).0, 200);
    world.control.kill();
    eventually("the sidecar has noticed", || world.metric(1, "fusewire_config_connected") == 0.0);
    let began = Instant::now();
    assert_eq!(curl(web, &["http://10.77.0.3:8080/unknown"]), (200, "world /unknown from=10.77.0.1 fields=\n".into()));
    assert!(began.elapsed() < Duration::from_secs(4), "less than discovery_timeout: {:?}", began.elapsed());
    assert_eq!(curl(web, &["http://10.77.0.2:8080/known"]).0, 200);
    assert_eq!(World::logged(&world.shop, "/known")["peer"], "spiffe://fusewire.local/web");
}

#[test]
fn excluded_ports_and_networks_do_not_come_to_the_sidecar_and_only_included_ones_do() {
    let world = World::new(SHOP);
    let web = world.host(1);
    let intercepted = || {
        let before = World::log_of(&world.web).len();
        let (status, body) = curl(web, &["http://10.77.0.2:8080/x"]);
        assert_eq!(status, 200);
        // by the mesh the application is called by its sidecar, directly by the caller
        let by_mesh = body.contains("from=127.0.0.1");
        assert!(by_mesh || body.contains("from=10.77.0.1"), "{body}");
        if !by_mesh {
            assert_eq!(World::log_of(&world.web).len(), before, "the sidecar has seen it");
        }
        by_mesh
    };
    let cases: [(&[&str], bool); 8] = [
        (&[], true),
        (&["--exclude-outbound-ports", "80,8000-8090"], false),
        (&["--exclude-outbound-ports", "8081-9000,80"], true),
        (&["--exclude-outbound-cidrs", "10.77.0.0/24,fd00::/8"], false),
        (&["--include-outbound-ports", "443"], false),
        (&["--include-outbound-ports", "8080", "--include-outbound-cidrs", "10.0.0.0/8"], true),
        (&["--include-outbound-cidrs", "fd00::/8"], false),
        (&["--include-outbound-cidrs", "10.0.0.0/8", "--exclude-outbound-cidrs", "10.77.0.2"], false),
    ];
    for backend in ["nft", "iptables-nft", "iptables-legacy"] {
        for (wishes, wanted) in cases {
            world.intercept(1, &[&["--backend", backend], wishes].concat());
            assert_eq!(intercepted(), wanted, "{backend} {wishes:?}");
        }
    }
}

#[test]
fn an_application_that_calls_its_own_address_reaches_itself_and_nothing_goes_round() {
    let world = World::new(SHOP);
    world.intercept(2, &[]);
    let shop = world.host(2);
    for url in ["http://10.77.0.2:8080/own", "http://127.0.0.1:8080/own", "http://[fd77::2]:8080/own"] {
        let (status, body) = curl(shop, &[url]);
        assert!(status == 200 && body.starts_with("shop /own"), "{url}: {status} {body}");
    }
    assert!(World::log_of(&world.shop).is_empty(), "loopback is left alone");
    // by its service's name the mesh chooses the instance, which is itself
    shop.told("ip", &["route", "add", "default", "via", "10.77.0.3"]);
    let answer = curl(shop, &["--connect-to", "shop:80:10.77.9.9:80", "http://shop/self"]);
    assert_eq!(answer, (200, "shop /self from=127.0.0.1 fields=\n".into()));
    let times = World::log_of(&world.shop).iter().filter(|line| line["path"] == "/self").count();
    assert_eq!(times, 2, "once out, once in");
}

#[test]
fn a_connection_that_leads_back_to_the_sidecar_is_refused() {
    let world = World::new(SHOP);
    let web = world.host(1);
    for address in ["127.0.0.1:15001", "[::1]:15001", "127.0.0.1:15006", "10.77.0.1:15006", "[fd77::1]:15006"] {
        assert_eq!(curl(web, &[&format!("http://{address}/")]).0, 0, "{address}, without rules");
    }
    world.intercept(1, &[]);
    for address in ["127.0.0.1:15001", "[::1]:15001", "10.77.0.1:15006", "[fd77::1]:15006"] {
        assert_eq!(curl(web, &[&format!("http://{address}/")]).0, 0, "{address}");
    }
    for address in ["10.77.0.1:15001", "10.77.0.1:15006", "[fd77::1]:15006"] {
        assert_eq!(curl(world.host(3), &[&format!("http://{address}/")]).0, 0, "{address}, from outside");
    }
    let refused = world.metric(1, "fusewire_intercept_refused_total");
    assert_eq!(refused, 12.0);
    assert!(world.web.output().contains("an intercepted connection is refused"), "and said");
}

/// Every connection that the sidecar made would come back to it as a new one.
#[test]
fn rules_that_do_not_leave_the_sidecar_alone_do_not_make_it_call_itself_for_ever() {
    let world = World::new(SHOP);
    intercept(world.host(1), &["up", "--gid", &(GROUP + 1).to_string()]);
    assert_eq!(curl(world.host(1), &["http://10.77.0.3:8080/"]).0, 0);
    let log = world.web.output();
    assert!(log.contains("which the rules must leave alone"), "{log}");
    assert!(world.metric(1, "fusewire_downstream_connections") < 5.0);
}

/// The same where the mesh knows the instance, and that it is spoken to in clear.
#[test]
fn nor_where_the_sidecar_calls_an_instance_in_clear() {
    let world = World::new(
        "\npolicies: {default: {plain: allow}}\nservices:\n  \
         page: {instances: [{id: page-1, address: '10.77.0.3:8080'}]}\n  \
         other: {instances: [{id: other-1, address: '[fd77::3]:8080'}]}\n  \
         bytes: {protocol: opaque, instances: [{id: bytes-1, address: '10.77.0.3:8081'}]}\n",
    );
    world.intercept(1, &[]);
    assert_eq!(curl(world.host(1), &["http://10.77.0.3:8080/right"]).0, 200);
    assert_eq!(talk(world.host(1), "10.77.0.3:8081", "ping"), "ping");
    assert_eq!(World::logged(&world.web, "/right")["service"], "page");
    assert_eq!(world.metric(1, "fusewire_intercept_refused_total"), 0.0);
    intercept(world.host(1), &["up", "--gid", &(GROUP + 1).to_string()]);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let (status, body) = curl(world.host(1), &[version, "http://[fd77::3]:8080/wrong"]);
        assert!(status >= 500, "{version}: {status} {body}");
    }
    for _ in 0..5 {
        assert_eq!(talk(world.host(1), "10.77.0.3:8081", "ping"), "");
    }
    let log = world.web.output();
    assert!(log.contains("which the rules must leave alone"), "{log}");
    assert!(world.metric(1, "fusewire_intercept_refused_total") >= 5.0);
    eventually("none is left", || world.metric(1, "fusewire_downstream_connections") < 5.0);
}

/// Of a service that has an address of its own and routes: each request takes them, whatever name the caller used, and what is
/// no HTTP goes to the service itself.
#[test]
fn who_calls_a_services_own_address_takes_its_routes_by_any_name_and_bytes_go_to_the_service() {
    let routed = "
services:
  shop:
    addresses: ['10.77.9.9:80', '10.77.9.9:7']
    instances: [{id: shop-1, address: '10.77.0.2:8080', sidecar: '10.77.0.2:15008'}]
  secure:
    identity: shop
    addresses: ['10.77.9.9:443']
    instances: [{id: secure-1, address: '10.77.0.2:8084', sidecar: '10.77.0.2:15008'}]
routes:
  shop: {rules: [{match: {path: {prefix: /old}}, redirect: {path: {prefix: /new}}}, {to: shop}]}
  secure: {rules: [{match: {path: {prefix: /x}}, to: shop}, {to: shop}]}
";
    let world = World::new(routed);
    world.host(1).told("ip", &["route", "add", "default", "via", "10.77.0.3"]);
    world.intercept(1, &[]);
    for args in
        [&[][..], &["-H", "Host: elsewhere.example"], &["-H", "Host:", "--http1.0"], &["--http2-prior-knowledge"]]
    {
        let answer = curl(world.host(1), &[args, &["http://10.77.9.9/by-address"]].concat());
        assert_eq!(answer, (200, "shop /by-address from=127.0.0.1 fields=\n".into()), "{args:?}");
        let (status, _) = curl(world.host(1), &[args, &["http://10.77.9.9/old"]].concat());
        assert_eq!(status, 302, "{args:?}");
    }
    assert_eq!(World::logged(&world.shop, "/by-address")["peer"], "spiffe://fusewire.local/web");
    let answer = curl(world.host(1), &["-k", "https://10.77.9.9/tls"]);
    assert_eq!(
        answer,
        (200, "shop /tls from=127.0.0.1 fields=\n".into()),
        "a route looks at requests, and TLS shows none"
    );
}

/// 10.77.9.9 is nowhere: only what TLS names in clear gives it a meaning.
#[test]
fn tls_to_an_address_that_the_mesh_does_not_know_goes_by_the_name_that_it_asks_for() {
    let secure =
        "\nservices: {shop: {instances: [{id: shop-1, address: '10.77.0.2:8084', sidecar: '10.77.0.2:15008'}]}}\n";
    for unknown in ["allow", "refuse"] {
        let world = World::with(secure, unknown);
        world.host(1).told("ip", &["route", "add", "default", "via", "10.77.0.3"]);
        world.intercept(1, &[]);
        let web = world.host(1);
        let answer = curl(web, &["-k", "--connect-to", "shop:443:10.77.9.9:443", "https://shop/named"]);
        assert_eq!(answer, (200, "shop /named from=127.0.0.1 fields=\n".into()), "{unknown}");
        eventually("it came by the mesh", || {
            World::log_of(&world.shop).iter().any(|line| line["peer"] == "spiffe://fusewire.local/web")
        });
        let stranger = ["-k", "--connect-to", "other:8084:10.77.0.3:8084", "https://other:8084/a"];
        assert_eq!(curl(web, &stranger).0, if unknown == "allow" { 200 } else { 0 }, "{unknown}: a name of nobody");
        assert_eq!(
            curl(web, &["-k", "https://10.77.0.3:8084/a"]).0,
            if unknown == "allow" { 200 } else { 0 },
            "no name"
        );
    }
}

/// Neither says where its message ends. The limits below are far above what it takes and far below what a request that is slow
/// to come is waited for.
#[test]
fn a_first_message_of_one_word_is_no_request_that_is_waited_for() {
    let undeclared = "\nservices: {echo: {identity: shop, instances: [{id: echo-1, address: '10.77.0.2:8081', sidecar: '10.77.0.2:15008'}]}}\n";
    let world = World::new(undeclared);
    world.intercept(1, &[]);
    for address in ["10.77.0.2", "10.77.0.3"] {
        let script = format!(
            "import socket\nc = socket.create_connection(('{address}', 8081), 5)\nc.sendall(b'ping')\nprint(c.recv(4).decode())\n\
             c = socket.create_connection(('{address}', 8081), 5)\nc.sendall(b'over')\nc.shutdown(socket.SHUT_WR)\nprint(c.recv(4).decode())"
        );
        assert_eq!(world.host(1).told("python3", &["-c", &script]), "ping\nover\n", "{address}");
    }
}
