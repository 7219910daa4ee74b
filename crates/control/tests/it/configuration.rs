use crate::harness::{Control, write};
use crate::wire::{Stream, hello, lines, service};
use fusewire_control::{ControlError, TrustError};
use serde_json::Value;
use std::time::{Duration, Instant};

const SHOP: &str = "services:\n  shop: {instances: [{id: a, address: 10.0.0.1:80}]}\n";

fn valid(status: &Value) -> bool {
    status["configuration"]["valid"] == true
}

#[tokio::test]
async fn bad_yaml_keeps_the_last_good_and_says_where_it_is_bad() {
    let control = Control::start(SHOP).await;
    let identity = control.joined("web").await;
    let before = control.status().await;
    assert!(valid(&before), "{before:#}");
    control.write("services:\n  shop: {instances: [{id: a, address: nowhere}]}\n  other: {protocol: htpp}\n");
    let status = control.status_when("faults", |s| !valid(s)).await;
    let faults = status["configuration"]["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 2, "{status:#}");
    assert!(faults[0]["file"].as_str().unwrap().ends_with("mesh.yaml"));
    assert_eq!((faults[0]["line"].as_u64(), faults[1]["line"].as_u64()), (Some(2), Some(3)), "{status:#}");
    assert_eq!(faults[1]["path"], "services.other.protocol");
    assert_eq!(status["configuration"]["version"], before["configuration"]["version"]);
    let (_stream, told) = Stream::synced(control.address, &identity, hello(vec![service("shop")])).await;
    assert!(lines(&told).contains(&"answer shop: shop".to_owned()), "{told:?}");

    control.write(SHOP);
    let status = control.status_when("valid again", valid).await;
    assert_eq!(status["configuration"]["version"], before["configuration"]["version"]);
}

#[tokio::test]
async fn what_looks_like_nothing_never_takes_away_what_was_there() {
    let control = Control::start(SHOP).await;
    let before = control.status().await["configuration"]["version"].clone();
    let file = control.dir.path().join("mesh/mesh.yaml");
    let folder = control.dir.path().join("mesh");
    let still = |status: &Value| assert_eq!(status["configuration"]["version"], before, "{status:#}");

    // truncated, and its writer is slow
    std::fs::write(&file, "").unwrap();
    still(&control.status_when("an empty file is a fault", |s| !valid(s)).await);
    control.write(SHOP);
    still(&control.status_when("valid again", valid).await);
    // an unmounted volume
    std::fs::remove_file(&file).unwrap();
    still(&control.status_when("an empty folder is a fault", |s| !valid(s)).await);
    control.write(SHOP);
    still(&control.status_when("valid again", valid).await);
    // gone altogether
    std::fs::rename(&folder, control.dir.path().join("away")).unwrap();
    still(&control.status_when("a missing folder is a fault", |s| !valid(s)).await);
    std::fs::rename(control.dir.path().join("away"), &folder).unwrap();
    still(&control.status_when("valid again", valid).await);
}

#[tokio::test]
async fn a_config_maps_symlink_swap_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mesh = dir.path().join("mesh");
    for (version, yaml) in [("..1", SHOP), ("..2", "services: {shop: , more: }\n")] {
        std::fs::create_dir_all(mesh.join(version)).unwrap();
        std::fs::write(mesh.join(version).join("mesh.yaml"), yaml).unwrap();
    }
    std::os::unix::fs::symlink("..1", mesh.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/mesh.yaml", mesh.join("mesh.yaml")).unwrap();
    let control = Control::start_in(dir, |_| {}).await.unwrap();
    let before = control.status().await;
    std::os::unix::fs::symlink("..2", mesh.join("..data_tmp")).unwrap();
    std::fs::rename(mesh.join("..data_tmp"), mesh.join("..data")).unwrap();
    let changed = |s: &Value| s["configuration"]["version"] != before["configuration"]["version"];
    assert!(valid(&control.status_when("the swap", changed).await));
}

#[tokio::test]
async fn several_files_are_one_mesh_and_hidden_or_other_files_are_none() {
    let control = Control::start(SHOP).await;
    let before = control.status().await;
    let mesh = control.dir.path().join("mesh");
    std::fs::write(mesh.join(".hidden.yaml"), "services: {broken").unwrap();
    std::fs::write(mesh.join("notes.txt"), "services: {broken").unwrap();
    write(&mesh.join("more.yml"), "routes:\n  web: {to: shop}\n");
    let changed = |s: &Value| s["configuration"]["version"] != before["configuration"]["version"];
    let status = control.status_when("the second file", changed).await;
    assert!(valid(&status));
    assert_eq!(status["configuration"]["files"].as_array().unwrap().len(), 2, "{status:#}");
}

#[tokio::test]
async fn a_change_is_with_the_sidecar_within_a_second() {
    let control = Control::start(SHOP).await;
    let identity = control.joined("web").await;
    let (mut stream, told) = Stream::synced(control.address, &identity, hello(vec![service("shop")])).await;
    stream.ack(&told).await;
    let mut best = Duration::MAX;
    for weight in [2, 3, 4, 5, 6] {
        let yaml = format!("services:\n  shop: {{instances: [{{id: a, address: 10.0.0.1:80, weight: {weight}}}]}}\n");
        let start = Instant::now();
        control.write(&yaml);
        let told = stream.until_synced().await;
        best = best.min(start.elapsed());
        assert_eq!(lines(&told), ["endpoints shop", "synced"]);
        stream.ack(&told).await;
        control.status_when("live", |s| s["sidecars"][0]["current"] == true).await;
        if best < Duration::from_secs(1) {
            return; // one of five: the machine may be busy with other tests
        }
    }
    panic!("the quickest of five changes took {best:?}");
}

#[tokio::test]
async fn a_missing_folder_at_the_start_is_an_error_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let refused = Control::start_in(dir, |_| {}).await.err().unwrap();
    assert!(matches!(refused, ControlError::Configuration(_)), "{refused}");
    assert!(refused.to_string().contains("--config"), "{refused}");
}

#[tokio::test]
async fn a_restart_with_broken_files_goes_on_with_the_last_good() {
    let control = Control::start(SHOP).await;
    let before = control.status().await;
    control.write("services: {shop: {protocol: htpp}}");
    let dir = control.kill().await;
    let control = Control::start_in(dir, |_| {}).await.unwrap();
    let status = control.status().await;
    assert!(!valid(&status), "{status:#}");
    assert_eq!(status["configuration"]["version"], before["configuration"]["version"]);
}

#[tokio::test]
async fn a_first_start_with_broken_files_is_an_error_that_names_them_all() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("mesh")).unwrap();
    write(&dir.path().join("mesh/a.yaml"), "services: {shop: {protocol: htpp}}");
    write(&dir.path().join("mesh/b.yaml"), "servces: {}");
    let refused = Control::start_in(dir, |_| {}).await.err().unwrap().to_string();
    assert!(refused.contains("a.yaml:1:") && refused.contains("b.yaml:1:"), "{refused}");
}

#[tokio::test]
async fn the_trust_domain_is_fixed_once_the_authority_is_made() {
    let control = Control::start(SHOP).await;
    control.write(&format!("trust_domain: other.example\n{SHOP}"));
    let status = control.status_when("a fault", |s| !valid(s)).await;
    assert_eq!(status["configuration"]["faults"][0]["path"], "trust_domain");
    assert_eq!(status["trust_domain"], "fusewire.local");
    let dir = control.stop().await;
    let refused = Control::start_in(dir, |_| {}).await.err().unwrap();
    assert!(matches!(refused, ControlError::Trust(TrustError::Domain { .. })), "{refused}");
}
