//! The series that the folded configuration has in metrics: made when a service, a rule or an instance first appears, and
//! taken out when it is gone.
//!
//! Invariant: series outlive the last request that adds to them, and not by much: what a rule or an instance is counted by
//! stays until nobody but us holds its handle.

use fusewire_model::ServiceName;
use fusewire_telemetry::metrics::{Direction, InstanceMetrics, Metrics, RouteMetrics, ServiceMetrics};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Series {
    services: HashMap<(Direction, ServiceName), Arc<ServiceMetrics>>,
    /// By the rule's name: a route's rules are in the table of each of its authorities.
    routes: HashMap<String, Arc<RouteMetrics>>,
    /// By service and id: an instance that came back at another address goes on with the series of the one before.
    instances: HashMap<(ServiceName, String), Arc<InstanceMetrics>>,
}

impl Series {
    pub(super) fn service(
        &mut self,
        metrics: &Metrics,
        direction: Direction,
        name: &ServiceName,
    ) -> Arc<ServiceMetrics> {
        let made = || Arc::new(metrics.service(direction, name.as_str()));
        self.services.entry((direction, name.clone())).or_insert_with(made).clone()
    }

    pub(super) fn route(&mut self, metrics: &Metrics, rule: &str) -> Arc<RouteMetrics> {
        if let Some(known) = self.routes.get(rule) {
            return known.clone();
        }
        let made = Arc::new(metrics.route(rule));
        self.routes.insert(rule.to_owned(), made.clone());
        made
    }

    pub(super) fn instance(&mut self, metrics: &Metrics, service: &ServiceName, id: &str) -> Arc<InstanceMetrics> {
        let made = || Arc::new(metrics.instance(service.as_str(), id));
        self.instances.entry((service.clone(), id.to_owned())).or_insert_with(made).clone()
    }

    /// Takes out what is gone: services by what `there` says, rules and instances when nobody counts by them any more.
    pub(super) fn forget(&mut self, metrics: &Metrics, there: impl Fn(Direction, &ServiceName) -> bool) {
        self.services.retain(|(direction, name), series| {
            let stays = there(*direction, name);
            if !stays {
                metrics.forget_service(series);
            }
            stays
        });
        self.routes.retain(|_, series| {
            let stays = Arc::strong_count(series) > 1;
            if !stays {
                metrics.forget_route(series);
            }
            stays
        });
        self.instances.retain(|_, series| {
            let stays = Arc::strong_count(series) > 1;
            if !stays {
                metrics.forget_instance(series);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(metrics: &Metrics) -> Vec<&'static str> {
        let text = metrics.encode();
        ["service=\"a\"", "route=\"a[0]\"", "instance=\"a-1\""].into_iter().filter(|n| text.contains(n)).collect()
    }

    #[test]
    fn series_stay_while_a_request_may_add_to_them_and_go_with_what_they_are_about() {
        let (metrics, mut series) = (Metrics::new(), Series::default());
        let service = ServiceName::parse("a").unwrap();
        let _of_the_service = series.service(&metrics, Direction::Outbound, &service);
        let route = series.route(&metrics, "a[0]");
        let instance = series.instance(&metrics, &service, "a-1");
        assert!(Arc::ptr_eq(&route, &series.route(&metrics, "a[0]")));
        assert!(Arc::ptr_eq(&instance, &series.instance(&metrics, &service, "a-1")));
        series.forget(&metrics, |_, _| true);
        assert_eq!(names(&metrics).len(), 3);
        drop(instance);
        series.forget(&metrics, |_, _| true);
        assert_eq!(names(&metrics), ["service=\"a\"", "route=\"a[0]\""]);
        drop(route);
        series.forget(&metrics, |_, _| false);
        assert_eq!(names(&metrics).len(), 0);
    }
}
