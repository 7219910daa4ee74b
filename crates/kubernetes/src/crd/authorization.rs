//! `AuthorizationPolicy`: who may call a Service over mTLS.
//!
//! Several for one target add up: each lets its own callers in, and who is in none stays out.

use super::schema::{Schema, list, object, optional, required, text};
use super::target::{self, ACCOUNT, LABEL};

pub(crate) fn spec() -> Schema {
    let allow = "Who may call. [] lets nobody in. Several objects for one target add up.";
    let fields = vec![
        required("targetRefs", target::refs(&target::SERVICES, "Which services, in its own namespace.")),
        required("allow", list(caller(), (0, 256), allow)),
    ];
    object("Lets these callers in, and no other.", fields)
}

fn caller() -> Schema {
    let spiffe = "^spiffe://[a-z0-9.-]+(/[A-Za-z0-9._-]+)+$";
    let fields = vec![
        optional("namespace", text((1, 63), LABEL, "The namespace of a service account of this cluster.")),
        optional("serviceAccount", text((1, 253), ACCOUNT, "Its name.")),
        optional("spiffeId", text((10, 2_048), spiffe, "Anyone else, such as spiffe://partner.example/orders.")),
    ];
    object("A caller: a service account with its namespace, or a SPIFFE ID.", fields).rule(
        "has(self.spiffeId) ? !has(self.__namespace__) && !has(self.serviceAccount) : \
         has(self.__namespace__) && has(self.serviceAccount)",
        "must have namespace and serviceAccount, or spiffeId alone",
    )
}
