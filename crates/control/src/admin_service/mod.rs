//! The Admin service: what operators ask of the mesh, and tell it; over mTLS and over the control plane's Unix socket.
//!
//! It decides who asks (the role of the identity that was proven; whoever opened the socket may do everything) and which role
//! a call needs: to see, viewer; to change configuration, operator; trust and tokens, admin. What a call does is in the
//! modules below. It deliberately lets a viewer ask what a change would do: that shows nothing new.
//!
//! Invariant: no call does anything before the role was checked.

mod details;
mod objects;

use crate::listen::{Peer, Role};
use crate::shared::Shared;
use crate::trust::admin as trust;
use crate::{kubernetes, replicas, status, traces};
use fusewire_api::v1::admin_server::Admin;
use fusewire_api::v1::{
    ApplyRequest, ApplyResponse, CreateTokenRequest, CreateTokenResponse, DeleteRequest, DenyRequest, DenyResponse,
    EndpointsRequest, EndpointsResponse, EnforcementRequest, EnforcementResponse, GetRequest, GetResponse,
    GetTraceRequest, GetTraceResponse, HistoryRequest, HistoryResponse, ListTokensRequest, ListTokensResponse,
    ListTracesRequest, ListTracesResponse, RevokeTokenRequest, RevokeTokenResponse, RollbackRequest, RotateRequest,
    RotateResponse, ServiceMapRequest, ServiceMapResponse, StatusRequest, StatusResponse, TrustRequest, TrustResponse,
};
use std::sync::Arc;
use tonic::codegen::http;
use tonic::{Request, Response, Status};

/// Files as they are read: some, of at most 4 MiB each; what is kept of a change is less.
pub(crate) const MAX_REQUEST: usize = 16 << 20;

#[derive(Clone)]
pub(crate) struct AdminService {
    shared: Arc<Shared>,
}

/// Who asks, where that was not proven by a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) role: Role,
    /// For the history: a SPIFFE ID, or `local`.
    pub(crate) author: String,
}

impl Caller {
    /// Whoever opened the socket, whose mode lets in its owner alone (and root).
    pub(crate) fn local(uid: Option<u32>) -> Self {
        let author = uid.map_or_else(|| "local".to_owned(), |uid| format!("local (uid {uid})"));
        Self { role: Role::Admin, author }
    }
}

impl AdminService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Who asks, if that role suffices.
    pub(crate) fn admit(&self, extensions: &http::Extensions, needed: Role) -> Result<Caller, Status> {
        let caller = match (extensions.get::<Caller>(), extensions.get::<Peer>()) {
            (Some(caller), _) => caller.clone(),
            (None, Some(Peer { id: None, .. })) => {
                return Err(Status::unauthenticated("a certificate is needed here: `fusewire login` gets one"));
            }
            (None, Some(peer @ Peer { id: Some(id), .. })) => {
                Caller { role: peer.role(self.shared.trust.domain()), author: id.to_string() }
            }
            (None, None) => return Err(Status::internal("the connection has no peer")),
        };
        if caller.role >= needed {
            return Ok(caller);
        }
        let Caller { role, author } = caller;
        tracing::info!(peer = author, role = role.word(), needed = needed.word(), "an admin call was refused");
        Err(Status::permission_denied(format!(
            "this needs the role {0}, and {author} has {1}: log in with a token made by `fusewire token create fusewire/{0}/<name>`",
            needed.word(),
            role.word()
        )))
    }
}

/// The role that a change needs, and only to ask what it would do.
fn to_change(dry_run: bool) -> Role {
    if dry_run { Role::Viewer } else { Role::Operator }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let caller = self.admit(request.extensions(), to_change(request.get_ref().dry_run))?;
        let room = details::room(&request);
        objects::apply(&self.shared, caller, request.into_inner(), room).await.map(Response::new)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.admit(request.extensions(), Role::Viewer)?;
        objects::get(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<ApplyResponse>, Status> {
        let caller = self.admit(request.extensions(), to_change(request.get_ref().dry_run))?;
        let room = details::room(&request);
        objects::delete(&self.shared, caller, request.into_inner(), room).await.map(Response::new)
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        self.admit(request.extensions(), Role::Viewer)?;
        objects::history(&self.shared, &request.into_inner()).await.map(Response::new)
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<ApplyResponse>, Status> {
        let caller = self.admit(request.extensions(), to_change(request.get_ref().dry_run))?;
        let room = details::room(&request);
        objects::roll_back(&self.shared, caller, request.into_inner(), room).await.map(Response::new)
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.admit(request.extensions(), Role::Viewer)?;
        let here = request.get_ref().this_replica_only;
        Ok(Response::new(if here { status::here(&self.shared) } else { replicas::status(&self.shared).await }))
    }

    async fn endpoints(&self, request: Request<EndpointsRequest>) -> Result<Response<EndpointsResponse>, Status> {
        self.admit(request.extensions(), Role::Viewer)?;
        status::endpoints(&self.shared, request.get_ref()).map(Response::new)
    }

    async fn enforcement(&self, request: Request<EnforcementRequest>) -> Result<Response<EnforcementResponse>, Status> {
        self.admit(request.extensions(), Role::Viewer)?;
        Ok(Response::new(kubernetes::enforcement(&self.shared)))
    }

    async fn list_traces(&self, request: Request<ListTracesRequest>) -> Result<Response<ListTracesResponse>, Status> {
        self.admit(request.extensions(), Role::Viewer)?;
        traces::list(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn get_trace(&self, request: Request<GetTraceRequest>) -> Result<Response<GetTraceResponse>, Status> {
        self.admit(request.extensions(), Role::Viewer)?;
        traces::get(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn service_map(&self, request: Request<ServiceMapRequest>) -> Result<Response<ServiceMapResponse>, Status> {
        self.admit(request.extensions(), Role::Viewer)?;
        Ok(Response::new(traces::service_map(&self.shared, request.into_inner()).await))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let caller = self.admit(request.extensions(), Role::Admin)?;
        trust::create_token(&self.shared, &caller.author, request.into_inner()).await.map(Response::new)
    }

    async fn list_tokens(&self, request: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        let caller = self.admit(request.extensions(), Role::Admin)?;
        trust::list_tokens(&self.shared, &caller.author, request.into_inner()).await.map(Response::new)
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let caller = self.admit(request.extensions(), Role::Admin)?;
        trust::revoke_token(&self.shared, &caller.author, request.into_inner()).await.map(Response::new)
    }

    async fn trust(&self, request: Request<TrustRequest>) -> Result<Response<TrustResponse>, Status> {
        let caller = self.admit(request.extensions(), Role::Viewer)?;
        trust::trust(&self.shared, &caller.author, request.into_inner()).await.map(Response::new)
    }

    async fn rotate(&self, request: Request<RotateRequest>) -> Result<Response<RotateResponse>, Status> {
        let needed = if request.get_ref().dry_run { Role::Viewer } else { Role::Admin };
        let caller = self.admit(request.extensions(), needed)?;
        trust::rotate(&self.shared, &caller.author, request.into_inner()).await.map(Response::new)
    }

    async fn deny(&self, request: Request<DenyRequest>) -> Result<Response<DenyResponse>, Status> {
        let caller = self.admit(request.extensions(), Role::Admin)?;
        trust::deny(&self.shared, &caller.author, request.into_inner()).await.map(Response::new)
    }
}
