//! A pod's volumes, as folders of this machine.
//!
//! It decides that a token is for one pod and one audience, and that the API server knows it from then on; and that files are
//! links to links, as the kubelet makes them, so that all of them could change at once.

use crate::kubelet::Sandbox;
use crate::node::Node;
use serde_json::Value;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::Path;

/// `false`: a ConfigMap is not there yet.
pub(crate) fn mount(node: &Node, sandbox: &mut Sandbox) -> bool {
    account(node, sandbox);
    for volume in sandbox.pod["spec"]["volumes"].as_array().cloned().unwrap_or_default() {
        let name = volume["name"].as_str().unwrap().to_owned();
        let at = sandbox.dir.join("volumes").join(&name);
        folder(&at, 0o755);
        let made = if volume["emptyDir"].is_object() {
            folder(&at, 0o777);
            let group = sandbox.pod["spec"]["securityContext"]["fsGroup"].as_u64();
            chown(&at, None, group.and_then(|group| u32::try_from(group).ok())).unwrap();
            true
        } else if volume["configMap"].is_object() {
            config_map(node, sandbox, &volume["configMap"], &at)
        } else {
            let sources =
                volume["projected"]["sources"].as_array().unwrap_or_else(|| panic!("no volume here: {volume}"));
            sources.iter().all(|source| {
                let token = &source["serviceAccountToken"];
                let audience = token["audience"].as_str().unwrap();
                file(&at, token["path"].as_str().unwrap(), &node.token(&sandbox.pod, audience));
                true
            })
        };
        if !made {
            return false;
        }
        sandbox.volumes.insert(name, at);
    }
    true
}

/// What every pod finds of the API server, and of names.
fn account(node: &Node, sandbox: &Sandbox) {
    folder(&sandbox.account, 0o755);
    let namespace = sandbox.pod["metadata"]["namespace"].as_str().unwrap();
    let name = sandbox.pod["metadata"]["name"].as_str().unwrap();
    std::fs::write(sandbox.account.join("namespace"), namespace).unwrap();
    std::fs::write(sandbox.account.join("ca.crt"), &node.roots).unwrap();
    let token = node.token(&sandbox.pod, "https://kubernetes.default.svc");
    std::fs::write(sandbox.account.join("token"), token).unwrap();
    std::fs::write(sandbox.dir.join("hosts"), format!("127.0.0.1 localhost\n{} {name}\n", sandbox.host.v4)).unwrap();
    let search = format!("search {namespace}.svc.cluster.local svc.cluster.local cluster.local");
    let resolv = format!("{search}\nnameserver {}\noptions ndots:5\n", node.ip());
    std::fs::write(sandbox.dir.join("resolv.conf"), resolv).unwrap();
}

fn config_map(node: &Node, sandbox: &Sandbox, volume: &Value, at: &Path) -> bool {
    let namespace = sandbox.pod["metadata"]["namespace"].as_str().unwrap();
    let Some(map) = node.api.get("configmaps", namespace, volume["name"].as_str().unwrap()) else { return false };
    let all = || map["data"].as_object().unwrap().keys().map(|key| (key.clone(), key.clone())).collect();
    let items = volume["items"].as_array().map(|items| {
        let item = |item: &Value| (item["key"].as_str().unwrap().to_owned(), item["path"].as_str().unwrap().to_owned());
        items.iter().map(item).collect::<Vec<_>>()
    });
    for (key, path) in items.unwrap_or_else(all) {
        let Some(text) = map["data"][&key].as_str() else { return false };
        file(at, &path, text);
    }
    true
}

fn file(at: &Path, path: &str, text: &str) {
    folder(&at.join("..2026"), 0o755);
    std::fs::write(at.join("..2026").join(path), text).unwrap();
    for (to, link) in [("..2026".into(), "..data"), (Path::new("..data").join(path), path)] {
        if at.join(link).symlink_metadata().is_err() {
            symlink(to, at.join(link)).unwrap();
        }
    }
}

/// With exactly this mode, whatever the umask.
fn folder(at: &Path, mode: u32) {
    DirBuilder::new().recursive(true).mode(mode).create(at).unwrap();
    std::fs::set_permissions(at, Permissions::from_mode(mode)).unwrap();
}
