//! The control plane's page, in a real browser: what a person finds on it, with nothing but a keyboard.

#![allow(clippy::unwrap_used)]

#[path = "page/shop.rs"]
mod shop;

use fusewire_testkit::browser::Browser;
use fusewire_testkit::client::get;
use fusewire_testkit::{Etcd, Mesh, Process, eventually, free_port};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use serde_json::Value;
use shop::{Story, metrics, nth, post, text, trace};

const FUSEWIRE: &str = env!("CARGO_BIN_EXE_fusewire");

/// A control plane with its page, and a browser.
struct Page {
    browser: Browser,
    web: u16,
    otlp: u16,
    /// When this test began, in nanoseconds since 1970.
    began: u64,
    _mesh: Mesh,
}

impl Page {
    fn new() -> Self {
        let mut mesh = Mesh::without_control(FUSEWIRE);
        std::fs::create_dir(mesh.path("config")).unwrap();
        let (web, otlp) = (free_port(), free_port());
        let (web_listen, otlp_listen) = (format!("127.0.0.1:{web}"), format!("127.0.0.1:{otlp}"));
        mesh.start_control(&["--web-listen", &web_listen, "--otlp-listen", &otlp_listen]);
        eventually("the page is served", || get(web, "localhost", "/").is_ok_and(|answer| answer.status == 200));
        let browser = Browser::start(mesh.dir.path());
        browser.size(1360, 860);
        Self { browser, web, otlp, began: shop::now(), _mesh: mesh }
    }

    /// The shop's requests of these numbers, a second from one to the next, all in the past.
    fn requests(&self, numbers: std::ops::Range<u64>) {
        for n in numbers {
            let start = self.began - 60_000_000_000 + n * 1_000_000_000;
            let answer = post(self.otlp, "/v1/traces", &nth(n, start).into_request());
            assert_eq!((answer.status, answer.body.len()), (200, 0), "no span is refused");
        }
    }

    fn go(&self, path: &str) {
        self.browser.go(&format!("http://127.0.0.1:{}/{path}", self.web));
    }

    fn rows(&self, expected: usize) {
        let script = format!("document.querySelectorAll('#list tbody tr').length === {expected}");
        self.browser.until(&format!("{expected} traces are listed"), &script);
    }

    fn search(&self) {
        self.browser.press(&["/"]);
        self.browser.until("the search has the focus", "document.activeElement.id === 'q'");
    }

    /// Waits until a trace of so many spans is shown, and read.
    fn opened(&self, spans: usize) {
        let script = format!(
            "document.activeElement.closest('#tree') && document.querySelectorAll('#tree > [role=row]').length === {spans}"
        );
        self.browser.until("the trace is open", &script);
    }

    /// Escape, and the list is back where it was.
    fn leaves(&self, row: usize) {
        self.browser.press(&["Escape"]);
        let script = format!("document.activeElement === document.querySelectorAll('#list tbody tr')[{row}]");
        self.browser.until("the list is back, and the focus where it was", &script);
    }

    /// What has the focus: its id, or its text.
    fn focused(&self) -> String {
        let told = self
            .browser
            .run("const e = document.activeElement; return e.id || e.innerText.replace(/\\s+/g, ' ').trim();");
        told.as_str().unwrap().to_owned()
    }

    fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector('{selector}')?.innerText ?? '(missing)';");
        self.browser.run(&script).as_str().unwrap().to_owned()
    }

    /// Nobody complained, and nothing was asked of anybody else.
    fn is_clean(&self) {
        assert_eq!(self.browser.console(), Vec::<String>::new());
        let own = format!("http://127.0.0.1:{}/", self.web);
        let asked = self.browser.requests();
        assert!(asked.iter().any(|url| url.starts_with(&own)));
        let others: Vec<_> = asked.iter().filter(|url| !url.starts_with(&own)).collect();
        assert!(others.is_empty(), "{others:?}");
    }
}

#[test]
fn traces_are_filtered_opened_and_read_with_the_keyboard_alone() {
    let page = Page::new();
    let browser = &page.browser;
    page.requests(0..30);
    page.go("");
    page.rows(30);
    browser.screenshot("list");

    // search: the traces of inventory-3, which fails (3, 14, 25) and is probed (5, 16, 27)
    page.search();
    browser.type_text("Inventory-3");
    page.rows(6);
    assert!(page.text("#list tbody tr").contains("probe"));
    browser.press(&["Enter", "j", "ArrowDown", "k"]);
    let second = "document.activeElement === document.querySelectorAll('#list tbody tr')[1]";
    browser.until("the second row has the focus", second);
    assert_eq!(browser.run(&format!("return ({second}) && document.activeElement.ariaSelected;")), "true");

    // filter by what failed, by what circuits did, by status and by length
    page.search();
    browser.press(&["Backspace"]);
    page.rows(30);
    browser.run("document.getElementById('errors').focus();");
    browser.press(&[" "]);
    page.rows(8);
    browser.press(&["Tab"]);
    assert_eq!(page.focused(), "circuit");
    browser.press(&[" "]);
    page.rows(5);
    browser.run("document.getElementById('status').focus();");
    browser.type_text("circuit-open");
    page.rows(2);
    assert!(page.text("#list tbody td.events").contains("rejected"));
    assert!(
        browser.run("return location.hash;").as_str().unwrap().contains("errors=1"),
        "the address says what is shown"
    );
    browser.run("document.getElementById('clear').focus();");
    browser.press(&["Enter"]);
    page.rows(30);
    browser.run("document.getElementById('min').focus();");
    browser.type_text("40");
    let long = "[...document.querySelectorAll('#list .number')].every(e => parseFloat(e.innerText) >= 40)";
    browser.until(
        "only long ones are left",
        &format!("document.querySelectorAll('#list tbody tr').length < 30 && {long}"),
    );
    browser.run("document.getElementById('clear').focus();");
    browser.press(&["Enter"]);
    page.rows(30);

    // open one that was a probe: the third from the top (29, 28, 27)
    page.search();
    browser.press(&["Enter", "Home", "j", "j", "Enter"]);
    page.opened(8);
    let levels =
        browser.run("return [...document.querySelectorAll('#tree > [role=row]')].map(row => row.ariaLevel).join('');");
    assert_eq!(levels, "12345667", "a tree, children by their start");
    assert!(page.focused().starts_with("▾ web GET /items/17"), "{}", page.focused());
    for (kind, words) in [("probe", "probe"), ("redial", "other instance")] {
        assert_eq!(page.text(&format!("#tree .label.{kind}")), words);
    }
    let bar = "return [...document.querySelectorAll('#tree .span')].map(bar => bar.getBoundingClientRect())";
    let nested = format!(
        "{bar}.every((bar, at, all) => bar.left >= all[0].left - 1 && bar.right <= all[0].right + 1 && bar.width >= 1);"
    );
    assert_eq!(browser.run(&nested), true, "every span lies within the first");
    browser.press(&["ArrowDown", "j", "j", "j"]);
    browser.until("its details are shown", "document.querySelector('#details').innerText.includes('/items/17')");
    let details = page.text("#details");
    for told in ["GET /stock/17", "fusewire.attempts", "fusewire.redial", "fusewire.probe", "sent without proof"] {
        assert!(details.contains(told), "{told}: {details}");
    }
    browser.screenshot("waterfall");
    let shown = "[...document.querySelectorAll('#tree > [role=row]')].filter(row => !row.hidden).length";
    browser.press(&["ArrowLeft"]);
    browser.until("its children are folded away", &format!("{shown} === 5"));
    browser.press(&["ArrowRight"]);
    browser.until("and back", &format!("{shown} === 8"));
    browser.press(&["Enter"]);
    assert_eq!(page.focused(), "details");
    page.leaves(2);
    page.is_clean();
}

#[test]
fn who_types_and_opens_a_trace_at_once_comes_back_to_what_was_typed() {
    let page = Page::new();
    let browser = &page.browser;
    page.requests(0..4);
    page.go("");
    page.rows(4);
    for back in [&["Escape"][..], &["t"]] {
        page.search();
        browser.press(&["Backspace", "3", "Enter", "Home", "Enter"]);
        browser.until("the trace is open", "location.hash.startsWith('#/trace/')");
        browser.run("window.opened = performance.now();");
        browser.until("what was typed would have been heeded", "performance.now() > opened + 600");
        assert!(browser.run("return location.hash;").as_str().unwrap().starts_with("#/trace/"));
        assert_eq!(browser.run("return document.getElementById('back').hash;"), "#/traces?q=3");
        browser.press(back);
        browser.until(
            "the list is back",
            "location.hash === '#/traces?q=3' && !document.getElementById('view-traces').hidden",
        );
    }
    browser.run("location.hash = '#/trace/xyz';");
    browser.until(
        "what is no id is called so",
        "document.getElementById('trace-empty').innerText.includes('xyz is no trace id')",
    );
    assert_eq!(browser.run("return document.getElementById('notice').hidden;"), true);
    page.is_clean();
}

#[test]
fn new_traces_move_nothing_under_who_reads() {
    let page = Page::new();
    let browser = &page.browser;
    page.requests(0..5);
    page.go("");
    page.rows(5);
    page.requests(5..9);
    page.rows(9);
    browser.press(&["j", "j", "j"]);
    let before = page.focused();
    page.requests(9..12);
    browser.until("they are counted", "document.getElementById('newer').innerText.startsWith('3 newer traces')");
    assert_eq!(page.focused(), before);
    page.rows(9);
    // a late span joins a trace that is shown
    let late = trace(
        0x4bf9_2f35_77b3_4da6_0000_0000_0000_0000 + 6,
        page.began - 54_000_000_000 + 2_000_000_000,
        Story::Well,
        9_000,
    );
    post(page.otlp, "/v1/traces", &late.into_request());
    browser.until("it is longer now", "document.querySelectorAll('#list tbody tr')[2].innerText.includes('2.01 s')");
    assert!(browser.run("return document.activeElement === document.querySelectorAll('#list tbody tr')[2];") == true);
    browser.press(&["n"]);
    page.rows(12);
    browser.press(&["p"]);
    assert_eq!(page.text("#pause"), "Stopped");
    page.requests(12..13);
    browser.press(&["p"]);
    browser.press(&["Escape"]);
    page.rows(13);
    page.is_clean();
}

#[test]
fn every_control_can_be_reached_by_tab_and_the_help_says_the_keys() {
    let page = Page::new();
    let browser = &page.browser;
    page.requests(0..60);
    page.go("");
    page.rows(50);
    let mut reached = Vec::new();
    for _ in 0..13 {
        browser.press(&["Tab"]);
        let outline = "return getComputedStyle(document.activeElement).outlineStyle;";
        assert_ne!(browser.run(outline), "none", "the focus is seen on {}", page.focused());
        reached.push(page.focused());
    }
    for id in [
        "tab-traces",
        "tab-map",
        "pause",
        "help-open",
        "q",
        "service",
        "status",
        "min",
        "errors",
        "circuit",
        "clear",
        "older",
    ] {
        assert!(reached.iter().any(|at| at == id), "{id}: {reached:?}");
    }
    assert!(reached.iter().any(|at| at.contains("GET /items/17")), "a row: {reached:?}");
    browser.run("document.getElementById('older').focus();");
    browser.press(&["Enter"]);
    page.rows(60);
    browser.press(&["?"]);
    browser.until("help is shown", "document.getElementById('help').open");
    assert!(page.text("#help").contains("search"));
    browser.press(&["Escape"]);
    browser.until("help is gone", "!document.getElementById('help').open");
    page.is_clean();
}

#[test]
fn the_map_shows_rates_and_circuits_and_goes_on_doing_so() {
    let page = Page::new();
    let browser = &page.browser;
    page.go("#/map");
    browser.until("it says that nothing is known yet", "!document.getElementById('map-empty').hidden");
    let mut n = 1;
    let mut tell = || {
        n += 1;
        let answer = post(page.otlp, "/v1/metrics", &metrics(n));
        assert_eq!((answer.status, answer.body.len()), (200, 0), "no value is refused");
    };
    tell();
    let drawn = "return [...document.querySelectorAll('#drawing a.node')].map(node => node.dataset.key).join(' ');";
    eventually("the services are drawn", || {
        tell();
        browser.run(drawn) == "catalog inventory web"
    });
    let map = || serde_json::from_slice::<Value>(&get(page.web, "localhost", "/api/map").unwrap().body).unwrap();
    eventually("rates are known", || map()["edges"][1]["traffic"]["rate"].as_f64().unwrap_or(0.0) > 0.0);
    let told = map();
    let calls: Vec<_> =
        told["edges"].as_array().unwrap().iter().map(|e| format!("{} {}", e["from"], e["to"])).collect();
    assert_eq!(calls, ["\"catalog\" \"inventory\"", "\"web\" \"catalog\""]);
    let share = |of: &Value| of["traffic"]["errors"].as_f64().unwrap() / of["traffic"]["rate"].as_f64().unwrap();
    assert!((share(&told["edges"][1]) - 8.0 / 198.0).abs() < 1e-6, "{told:#}");
    assert!((share(&told["nodes"][1]) - 12.0 / 198.0).abs() < 1e-6, "{told:#}");
    assert!(
        told["nodes"][1]["traffic"]["p50_ms"].as_f64().unwrap()
            < told["nodes"][1]["traffic"]["p99_ms"].as_f64().unwrap()
    );
    browser.until("circuits are shown", "document.querySelector('#drawing').innerHTML.includes('inventory-3 open')");
    assert!(page.text("#map-tables").contains("inventory-4 half-open"));
    browser.until("rates are shown", "/\\d\\/s/.test(document.querySelector('#drawing text.flow').textContent)");
    // by Tab to a service, and to its traces
    browser.run("document.querySelector('#drawing a.node').focus();");
    let first = browser.run("return document.querySelector('#drawing .big').textContent;");
    eventually("numbers change and the focus stays", || {
        tell();
        browser.run("return document.querySelector('#drawing .big').textContent;") != first
    });
    assert_eq!(browser.run("return document.activeElement.dataset.key;"), "catalog");
    for (name, scheme, width, height) in
        [("map", "light", 1360, 860), ("map-dark", "dark", 1360, 860), ("map-narrow", "light", 500, 860)]
    {
        browser.prefers(scheme);
        browser.size(width, height);
        browser.screenshot(name);
    }
    page.requests(0..3);
    browser.press(&["Enter"]);
    page.rows(3);
    assert_eq!(browser.run("return document.getElementById('service').value;"), "catalog");
    page.is_clean();
}

#[test]
fn hostile_names_are_text_and_nothing_else() {
    const SCRIPT: &str = "<script>window.struck = 1</script>";
    const IMAGE: &str = "\"><img src=x onerror=window.struck=2>";
    // the last three are what every object of the language has
    const NAMES: [&str; 4] = [IMAGE, "constructor", "toString", "__proto__"];
    let page = Page::new();
    let browser = &page.browser;
    let mut hostile = nth(3, page.began - 1_000_000_000).into_request();
    for (at, resource) in hostile.resource_spans.iter_mut().enumerate() {
        resource.resource.as_mut().unwrap().attributes =
            vec![text("service.name", &format!("{SCRIPT}{at}")), text(IMAGE, SCRIPT)];
        for span in &mut resource.scope_spans[0].spans {
            span.name = format!("{SCRIPT}{IMAGE}");
            span.attributes =
                vec![text(SCRIPT, IMAGE), text("fusewire.reason", SCRIPT), text("__proto__", "constructor")];
            let event = |name: &str| Event {
                name: name.into(),
                attributes: vec![text("javascript:window.struck=3", "\u{202e}\0")],
                ..Default::default()
            };
            span.events = NAMES.map(event).into();
            if let Some(status) = &mut span.status {
                status.message = SCRIPT.into();
            }
        }
    }
    assert_eq!(post(page.otlp, "/v1/traces", &hostile).status, 200);
    page.go("");
    page.rows(1);
    assert!(page.text("#list tbody").contains(SCRIPT));
    browser.press(&["j", "Enter"]);
    page.opened(7);
    assert!(page.text("#details").contains(IMAGE) && page.text("#tree").contains(SCRIPT));
    let names =
        browser.run("return [...document.querySelectorAll('#details .event b')].map(name => name.textContent);");
    assert_eq!(names, serde_json::json!(NAMES));
    assert_eq!(browser.run("return document.getElementById('notice').hidden;"), true);
    for n in [1, 2] {
        let mut told = metrics(n);
        for resource in &mut told.resource_metrics {
            resource.resource.as_mut().unwrap().attributes[0] = text("service.name", &format!("{SCRIPT}{IMAGE}"));
        }
        post(page.otlp, "/v1/metrics", &told);
    }
    browser.press(&["m"]);
    browser.until("the map is drawn", "document.querySelectorAll('#drawing a.node').length === 3");
    assert!(page.text("#map-tables").contains(SCRIPT));
    assert_eq!(browser.run("return window.struck ?? null;"), Value::Null);
    let made = "return document.querySelectorAll('script').length + document.querySelectorAll('body img').length;";
    assert_eq!(browser.run(made), 2, "the page's own script and sign");
    page.is_clean();
}

#[test]
fn the_page_is_readable_in_the_dark_and_on_a_narrow_screen() {
    let page = Page::new();
    let browser = &page.browser;
    page.requests(0..30);
    page.go("");
    page.rows(30);
    let wide = "return document.documentElement.scrollWidth <= innerWidth;";
    let bright =
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b);";
    for (scheme, width) in [("light", 1360), ("dark", 1360), ("dark", 900), ("light", 500), ("dark", 500)] {
        browser.prefers(scheme);
        browser.size(width, 860);
        let brightness = browser.run(bright).as_u64().unwrap();
        assert!(if scheme == "dark" { brightness < 120 } else { brightness > 650 }, "{scheme}: {brightness}");
        assert_eq!(browser.run(wide), true, "nothing sticks out at {width}");
        browser.screenshot(&format!("list-{scheme}-{width}"));
        browser.press(&["Home", "j", "j", "Enter"]);
        page.opened(8);
        assert_eq!(browser.run(wide), true, "nothing sticks out of a trace at {width}");
        browser.press(&["j", "j", "j", "j"]);
        browser.screenshot(&format!("waterfall-{scheme}-{width}"));
        page.leaves(2);
    }
    page.is_clean();
}

#[test]
fn traces_of_all_control_planes_are_one_list_and_one_that_does_not_answer_is_named() {
    let mesh = Mesh::without_control(FUSEWIRE);
    std::fs::create_dir(mesh.path("config")).unwrap();
    let etcd = Etcd::start(mesh.dir.path());
    let start = |name: &str| {
        let [grpc, web, otlp] = [free_port(), free_port(), free_port()];
        let mut command = mesh.command();
        command.args(["control", "--config", "config", "--data-dir", name, "--replica", name]);
        for (option, port) in [("--listen", grpc), ("--web-listen", web), ("--otlp-listen", otlp)] {
            command.args([option, &format!("127.0.0.1:{port}")]);
        }
        command.args(["--store", &format!("etcd://127.0.0.1:{}", etcd.port())]);
        let process = Process::start(&mut command, mesh.path(&format!("{name}.log")));
        eventually("it serves its page", || get(web, "localhost", "/").is_ok_and(|answer| answer.status == 200));
        (process, web, otlp)
    };
    let (_a, web, otlp_a) = start("a");
    let (b, _, otlp_b) = start("b");
    let now = shop::now();
    post(otlp_a, "/v1/traces", &nth(1, now - 5_000_000_000).into_request());
    post(otlp_b, "/v1/traces", &nth(2, now - 4_000_000_000).into_request());
    // one whose sidecars are connected to different control planes
    let mut split = nth(5, now - 3_000_000_000).into_request();
    let rest = split.resource_spans.split_off(4);
    post(otlp_a, "/v1/traces", &split);
    post(otlp_b, "/v1/traces", &ExportTraceServiceRequest { resource_spans: rest });

    let browser = Browser::start(mesh.dir.path());
    browser.size(1360, 860);
    browser.go(&format!("http://127.0.0.1:{web}/"));
    browser.until("all are listed", "document.querySelectorAll('#list tbody tr').length === 3");
    browser.press(&["j", "Enter"]);
    browser.until("the trace is whole", "document.querySelectorAll('#tree > [role=row]').length === 8");
    // not before: who reports nothing more is soon left out
    post(otlp_a, "/v1/metrics", &metrics(1));
    let mut other = metrics(1);
    other.resource_metrics[0].resource.as_mut().unwrap().attributes[0] = text("service.name", "batch");
    post(otlp_b, "/v1/metrics", &other);
    browser.press(&["m"]);
    browser.until("all are on the map", "document.querySelectorAll('#drawing a.node').length === 4");
    assert_eq!(browser.run("return document.getElementById('notice').hidden;"), true);
    drop(b);
    browser.until(
        "the one that is gone is named",
        "/did not answer: b \\(/.test(document.getElementById('notice').innerText)",
    );
    browser.press(&["t"]);
    browser.until("what is left is shown", "document.querySelectorAll('#list tbody tr').length === 3");
    browser.press(&["Escape"]);
    browser.until("and only that", "document.querySelectorAll('#list tbody tr').length === 2");
    assert_eq!(browser.console(), Vec::<String>::new());
}
