//! The request as it leaves: what is kept so that an unsent one can be sent again, and the form each kind of instance gets.

use super::body::{Flow, SendBody};
use super::filters::Filters;
use super::headers;
use super::unread::{Message, Unread};
use crate::fault::Fault;
use crate::upstream::instance::Instance;
use bytes::Bytes;
use fusewire_model::service::Protocol;
use fusewire_resilience::retry::{Repeat, ReplayPool, repeat};
use http::header::{self, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;
use std::sync::Arc;
use tokio::sync::oneshot;

/// 16 bytes in base64, as RFC 6455, section 4.1 wants. A constant: the key guards against caches that mistake an HTTP
/// answer for a switch, and there is none between a sidecar and its application.
const KEY: &str = "ZnVzZXdpcmUtd3MtaDItMQ==";

pub(crate) struct Outgoing {
    head: request::Parts,
    /// The fields as they were before those of the backend, for another service; `None`: the same.
    before: Option<Box<HeaderMap>>,
    authority: Authority,
    /// Set where the caller wants to switch protocols (WebSocket): the token.
    pub(crate) upgrade: Option<HeaderValue>,
    /// The caller's.
    has_body: bool,
    /// The caller's own: one that a route's rule puts there promises nothing.
    has_idempotency_key: bool,
    /// A body that is there already: of a copy.
    own: Option<Box<Bytes>>,
    /// Where both directions meet, where there is a body or an idle timeout.
    pub(crate) flow: Option<Arc<Flow>>,
    protocol: &'static str,
    is_grpc: bool,
    /// What belongs together with it, where the service's balancer hashes.
    pub(crate) key: Option<u64>,
}

impl Outgoing {
    /// Takes the caller's request apart. `authority` is what the request was for; `idle`: a flow is needed to time it.
    pub(crate) fn new(
        request: Request<Incoming>,
        authority: Authority,
        upgrade: Option<HeaderValue>,
        (protocol, key): (&'static str, Option<u64>),
        idle: bool,
        replay: &Arc<ReplayPool>,
    ) -> Self {
        let (mut head, body) = request.into_parts();
        head.extensions = http::Extensions::new();
        headers::strip_hop_by_hop(&mut head.headers);
        headers::plain_length(&mut head.headers);
        headers::strip_ours(&mut head.headers);
        let has_body = upgrade.is_none() && !body.is_end_stream();
        let flow = (has_body || idle).then(Arc::<Flow>::default);
        if upgrade.is_some() {
            head.headers.remove(header::CONTENT_LENGTH); // `0`, or hyper would announce what never comes
        }
        if has_body && let Some(flow) = &flow {
            flow.keep(Unread::new(body, head.version, Message::Request), replay.begin());
        }
        let has_idempotency_key = head.headers.contains_key(&headers::IDEMPOTENCY_KEY);
        Self {
            head,
            before: None,
            authority,
            upgrade,
            has_body,
            has_idempotency_key,
            own: None,
            flow,
            protocol,
            is_grpc: protocol == "grpc",
            key,
        }
    }

    /// As the route's rule says.
    pub(crate) fn edit(&mut self, filters: &Filters) -> Result<(), Fault> {
        filters.request(&mut self.head, &mut self.authority)
    }

    /// As it says for the one backend alone: no other service sees that.
    pub(crate) fn edit_for_backend(&mut self, filters: &Filters) {
        if filters.edits_for_backend() {
            self.before = Some(Box::new(self.head.headers.clone()));
            filters.backend(&mut self.head);
        }
    }

    /// The same for another service, without the caller's body.
    pub(crate) fn copy(&self) -> Self {
        let (head, authority) = (self.head.clone(), self.authority.clone());
        let (protocol, is_grpc) = (self.protocol, self.is_grpc);
        Self {
            head,
            before: None,
            authority,
            upgrade: None,
            has_body: false,
            has_idempotency_key: false,
            own: None,
            flow: None,
            protocol,
            is_grpc,
            key: None,
        }
    }

    pub(crate) fn with(mut self, body: Bytes) -> Self {
        self.own = (!body.is_empty()).then(|| Box::new(body));
        self
    }

    pub(crate) fn has_body(&self) -> bool {
        self.has_body
    }

    /// Whoever waits for the whole body gets it, in pieces, when it has come; nobody does where it is more than is kept.
    pub(crate) fn tell_whole(&self, waiting: Vec<oneshot::Sender<Vec<Bytes>>>) {
        if let Some(flow) = self.flow.as_ref().filter(|_| !waiting.is_empty()) {
            flow.tell_whole(waiting);
        }
    }

    pub(crate) fn head(&self) -> &request::Parts {
        &self.head
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Whether doing it twice is doing it once: as the policy says, by an `Idempotency-Key`, or by its method (RFC 9110,
    /// section 9.2.2).
    pub(crate) fn repeat(&self, declared: Option<Repeat>) -> Repeat {
        if self.upgrade.is_some() {
            return Repeat::Unsafe; // what follows are bytes
        }
        let key = self.has_idempotency_key.then_some(Repeat::Idempotent);
        repeat(self.head.method.as_str(), declared.or(key))
    }

    /// Whether the request can serve as a probe: it may be repeated, and nothing of it would be lost.
    pub(crate) fn replayable(&self, declared: Option<Repeat>) -> bool {
        !self.has_body && self.repeat(declared) == Repeat::Idempotent
    }

    /// Waits until an attempt that has ended has let go of the body.
    pub(crate) async fn come_home(&self) {
        if let Some(flow) = self.flow.as_ref().filter(|_| self.has_body) {
            flow.come_home().await;
        }
    }

    /// Whether all of the request is there to be sent, again perhaps.
    pub(crate) fn is_whole(&self) -> bool {
        !self.has_body || self.flow.as_ref().is_some_and(|flow| flow.is_home())
    }

    /// The request for `instance` of the service that it was for, or of another; `None` where too much of its body has flowed
    /// to be sent from its beginning.
    pub(crate) fn build(&self, instance: &Instance, protocol: Protocol, other: bool) -> Option<Request<SendBody>> {
        let body = match &self.flow {
            Some(flow) if self.has_body => SendBody::from_home(flow)?,
            _ => self.own.as_deref().cloned().map_or(SendBody::Empty, SendBody::whole),
        };
        let mut head = self.head.clone();
        if let Some(before) = self.before.as_ref().filter(|_| other) {
            head.headers = (**before).clone();
        }
        if instance.key.sidecar.is_some() {
            self.for_sidecar(&mut head, instance);
        } else {
            self.for_application(&mut head, protocol);
        }
        Some(Request::from_parts(head, body))
    }

    /// On the wire between sidecars: HTTP/2, the target's port beside it; upgrades as CONNECT streams.
    fn for_sidecar(&self, head: &mut request::Parts, instance: &Instance) {
        let fields = &mut head.headers;
        fields.insert(headers::PORT, HeaderValue::from(instance.key.address.port()));
        fields.insert(headers::PROTOCOL, HeaderValue::from_static(self.protocol));
        if let Some(token) = &self.upgrade {
            fields.insert(headers::UPGRADE, token.clone());
            let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
            if let Ok(path) = HeaderValue::from_str(path) {
                fields.insert(headers::PATH, path);
            }
            head.method = Method::CONNECT;
        }
        headers::to_http2(head, self.authority.clone());
    }

    /// To an application: HTTP/2 for gRPC or where it is declared, HTTP/1.1 otherwise.
    fn for_application(&self, head: &mut request::Parts, protocol: Protocol) {
        let http2 = match protocol {
            Protocol::Http2 => true,
            Protocol::Http => self.is_grpc,
            Protocol::Http1 | Protocol::Opaque => false,
        };
        if http2 && self.upgrade.is_none() {
            headers::to_http2(head, self.authority.clone());
        } else {
            headers::to_http1(head, self.authority.as_str());
            head.headers.remove(header::TE); // it would need `connection: te`, and HTTP/1.1 trailers come unasked
            if let Some(token) = &self.upgrade {
                head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                head.headers.insert(header::UPGRADE, token.clone());
                // over HTTP/2 a WebSocket has no key (RFC 8441, section 5); over HTTP/1.1 it must
                let key = head.headers.entry(header::SEC_WEBSOCKET_KEY);
                key.or_insert_with(|| HeaderValue::from_static(KEY));
            }
        }
        debug_assert!(head.version == Version::HTTP_2 || head.version == Version::HTTP_11);
    }
}
