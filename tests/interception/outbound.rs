//! What the application calls.

use crate::host::{SHOP, World, curl};

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
        let came = World::logged(&world.shop, path);
        assert_eq!(came["direction"], "inbound", "{came}");
        assert_eq!(came["peer"], "spiffe://fusewire.local/web", "{came}");
    }
}
