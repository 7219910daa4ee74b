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

pub(super) struct Local {
    mesh: Arc<Mesh>,
    world: World,
    node: Node,
    held: Held,
    fold: Fold,
}

impl Local {
    /// With what nobody has to ask for in force.
    pub(super) fn begin(mesh: Arc<Mesh>, world: World, desk: &Desk) -> Self {
        let node = Node { workload: mesh.settings.workload.clone(), instance: mesh.settings.instance.clone() };
        let fold = Fold::new(&mesh);
        let mut local = Self { mesh, world, node, held: Held::default(), fold };
        local.publish(desk);
        local
    }

    pub(super) async fn run(mut self, mut desk: Desk) {
        while let Some(first) = desk.asks.recv().await {
            let now = self.mesh.clock.now();
            self.held.subscribe(first, now);
            while let Ok(next) = desk.asks.try_recv() {
                self.held.subscribe(next, now);
            }
            self.publish(&desk);
        }
    }

    fn publish(&mut self, desk: &Desk) {
        let Self { mesh, world, node, held, fold } = self;
        let wanted: Vec<Subscription> = held.subscriptions.keys().cloned().collect();
        let compiled = compile(world, node, &wanted);
        held.version = world.version().to_owned();
        held.resources.clear();
        for (_, resource) in compiled.resources {
            let hash = fusewire_api::resource_to_wire(&resource).hash;
            held.put(hash, resource);
        }
        for (subscription, answer) in compiled.answers {
            held.answer(&subscription, answer);
        }
        desk.publish(mesh, fold.snapshot(mesh, held));
    }
}
