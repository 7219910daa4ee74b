//! No control plane: the file that the sidecar booted from is the whole world.

use super::Desk;
use super::fold::Fold;
use super::held::Held;
use crate::mesh::Mesh;
use fusewire_model::World;
use fusewire_model::compile::compile;
use fusewire_model::node::Node;
use fusewire_model::resource::Subscription;
use std::sync::Arc;

pub(crate) async fn run(mesh: Arc<Mesh>, world: World, mut desk: Desk) {
    let node = Node { workload: mesh.settings.workload.clone(), instance: mesh.settings.instance.clone() };
    let mut held = Held::default();
    let mut fold = Fold::new(&mesh);
    loop {
        let wanted: Vec<Subscription> = held.subscriptions.keys().cloned().collect();
        let compiled = compile(&world, &node, &wanted);
        held.version = world.version().to_owned();
        held.resources.clear();
        for (_, resource) in compiled.resources {
            let hash = fusewire_api::resource_to_wire(&resource).hash;
            held.put(hash, resource);
        }
        for (subscription, answer) in compiled.answers {
            held.answer(&subscription, answer);
        }
        desk.publish(&mesh, fold.snapshot(&mesh, &held));
        let Some(first) = desk.asks.recv().await else { return };
        let now = mesh.clock.now();
        held.subscribe(first, now);
        while let Ok(next) = desk.asks.try_recv() {
            held.subscribe(next, now);
        }
    }
}
