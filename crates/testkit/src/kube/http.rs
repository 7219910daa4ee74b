//! The server's HTTP: which request is which question, and watches.

use super::objects::{Objects, Part, Path, Refusal, Selector};
use super::{Shared, lock, patch, status};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

type Out = Response<Either<Full<Bytes>, Lines>>;

/// A watch's events, each a line.
pub(super) struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// `listener` is not tokio's yet, so that a test may begin within a runtime of its own.
pub(super) async fn serve(shared: Arc<Shared>, listener: std::net::TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        let (mut cuts, tls) = (shared.cuts.subscribe(), shared.tls.clone());
        cuts.mark_unchanged();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(answer(&shared, request).await) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection = async {
                match tls {
                    None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        drop(builder.serve_connection(TokioIo::new(stream), service).await);
                    }
                }
            };
            tokio::select! {
                () = connection => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Out {
    let (head, body) = request.into_parts();
    let asked = format!("{} {}", head.method, head.uri);
    lock(&shared.requests).push(asked.clone());
    // fails only when the server ends
    let _ = shared.frozen.subscribe().wait_for(|frozen| !frozen).await;
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if lock(&shared.refused).iter().any(|prefix| asked.starts_with(prefix)) {
        return whole(status(403, "Forbidden", "the test refuses it"));
    }
    if lock(&shared.hidden).iter().any(|prefix| asked.starts_with(prefix)) {
        return whole(status(404, "NotFound", "the server could not find the requested resource"));
    }
    if head.uri.path() == "/version" {
        return whole(json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "test",
        }));
    }
    let query: BTreeMap<String, String> = head.uri.query().map(parameters).unwrap_or_default();
    let Some((path, sub)) = path(head.uri.path()) else {
        return whole(status(404, "NotFound", "the server could not find the requested resource"));
    };
    if head.method == Method::GET && query.get("watch").is_some_and(|w| w == "1" || w == "true") {
        return watch(shared, path, &query);
    }
    let text = |name: http::HeaderName| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (accept, content) = (text(http::header::ACCEPT), text(http::header::CONTENT_TYPE));
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if head.method == Method::POST && path.resource == "tokenreviews" {
        return whole(shared.review(&body));
    }
    let part = if sub == "status" { Part::Status } else { Part::Main };
    let answered = {
        let mut objects = lock(&shared.objects);
        match head.method {
            Method::GET if path.name.is_empty() => Ok(list(&objects, &path, &query)),
            Method::GET => objects.get(&path).cloned().ok_or_else(|| super::objects::absent(&path)),
            Method::POST => {
                let text = |key: &str| body["metadata"][key].as_str().map(str::to_owned);
                let made = || text("generateName").map(|prefix| format!("{prefix}{:05}", objects.version()));
                let name = text("name").or_else(made).unwrap_or_default();
                objects.create(&Path { name, ..path }, body)
            }
            Method::PUT => objects.replace(&path, body, part),
            Method::PATCH => {
                let manager = query.get("fieldManager").map(String::as_str).unwrap_or_default();
                patched(&mut objects, &path, &body, (content, manager, part))
            }
            Method::DELETE => objects.delete(&path, &body),
            _ => Err((405, "MethodNotAllowed", "the server does not allow this method".into())),
        }
    };
    shared.told();
    match answered {
        Ok(object) if accept.contains("as=PartialObjectMetadata;") || accept.contains("as=PartialObjectMetadata,") => {
            whole(
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]}),
            )
        }
        Ok(object) => whole(object),
        Err((code, reason, message)) => whole(status(code, reason, &message)),
    }
}

fn whole(value: Value) -> Out {
    let code = value["code"].as_u64().filter(|_| value["kind"] == "Status").and_then(|code| u16::try_from(code).ok());
    let body = Either::Left(Full::new(Bytes::from(value.to_string())));
    let builder = Response::builder().status(code.unwrap_or(200)).header("content-type", "application/json");
    builder.body(body).unwrap()
}

fn parameters(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, beyond @ ..]) => {
                let pair = String::from_utf8_lossy(&[*high, *low]).into_owned();
                bytes.push(u8::from_str_radix(&pair, 16).unwrap_or(b'?'));
                rest = beyond;
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The object or list, and the subresource.
fn path(text: &str) -> Option<(Path, String)> {
    let steps: Vec<&str> = text.trim_matches('/').split('/').collect();
    let (group, rest) = match steps.as_slice() {
        ["api", version, rest @ ..] => ((*version).to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() && rest[0] != "status" => (*namespace, rest),
        _ => ("", rest),
    };
    let at = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
    let path = Path { group, resource: at(0), namespace: namespace.into(), name: at(1) };
    (!path.resource.is_empty()).then_some((path, at(2)))
}

fn selector(query: &BTreeMap<String, String>) -> Selector {
    let text = |key: &str| query.get(key).cloned().unwrap_or_default();
    Selector { labels: text("labelSelector"), fields: text("fieldSelector") }
}

/// `continue` is the name that the next page begins after.
fn list(objects: &Objects, path: &Path, query: &BTreeMap<String, String>) -> Value {
    let selector = selector(query);
    let limit = query.get("limit").and_then(|n| n.parse::<usize>().ok()).filter(|n| *n > 0).unwrap_or(usize::MAX);
    let key = |object: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]))
    };
    let after = query.get("continue").filter(|text| !text.is_empty());
    let mut all: Vec<&Value> = objects.all(path).filter(|object| selector.matches(object)).collect();
    all.sort_by_key(|object| key(object));
    let mut rest = all.into_iter().filter(|object| after.is_none_or(|after| key(object) > *after)).peekable();
    let items: Vec<Value> = rest.by_ref().take(limit).cloned().collect();
    let more = if rest.peek().is_some() { items.last().map(key).unwrap_or_default() } else { String::new() };
    json!({
        "kind": "List", "apiVersion": path.group,
        "metadata": {"resourceVersion": objects.version().to_string(), "continue": more}, "items": items,
    })
}

fn patched(
    objects: &mut Objects,
    path: &Path,
    body: &Value,
    (content, manager, part): (&str, &str, Part),
) -> Result<Value, Refusal> {
    let is_apply = content.starts_with("application/apply-patch");
    let Some(mut object) = objects.get(path).cloned() else {
        if is_apply && matches!(part, Part::Main) {
            return objects.create(path, body.clone());
        }
        return Err(super::objects::absent(path));
    };
    let uid = &body["metadata"]["uid"];
    if !uid.is_null() && *uid != object["metadata"]["uid"] {
        return Err((409, "Conflict", format!("Precondition failed: UID in precondition: {uid}")));
    }
    if is_apply {
        let before = objects.applied(path, manager);
        let applied = patch::apply(&mut object, body, &before);
        objects.set_applied(path, manager, applied);
    } else if content.starts_with("application/json-patch") {
        patch::json(&mut object, body).map_err(|message| (422, "Invalid", message))?;
    } else {
        // one without a version applies to whatever is there
        patch::merge(&mut object, body);
    }
    objects.replace(path, object, part)
}

fn watch(shared: &Arc<Shared>, path: Path, query: &BTreeMap<String, String>) -> Out {
    let (lines, body) = mpsc::channel(64);
    let text = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
    let from: u64 = text("resourceVersion").parse().unwrap_or(0);
    let begin = if text("sendInitialEvents") == "true" {
        Begin::Listed
    } else if from == 0 {
        Begin::Present
    } else {
        Begin::After(from)
    };
    let seconds = text("timeoutSeconds").parse().unwrap_or(300);
    let watching = Watching { shared: shared.clone(), path, selector: selector(query), lines, begin };
    tokio::spawn(async move {
        // ends in order, as a real server's after its time
        let _ = tokio::time::timeout(Duration::from_secs(seconds), watching.run()).await;
    });
    Response::builder().header("content-type", "application/json").body(Either::Right(Lines(body))).unwrap()
}

#[derive(Clone, Copy)]
enum Begin {
    After(u64),
    /// What is there, and then on.
    Present,
    /// The same, with a bookmark between.
    Listed,
}

struct Watching {
    shared: Arc<Shared>,
    path: Path,
    selector: Selector,
    lines: mpsc::Sender<Bytes>,
    begin: Begin,
}

impl Watching {
    /// Until nobody reads.
    async fn run(self) -> Option<()> {
        let mut changed = self.shared.version.subscribe();
        let (mut at, mut bookmarks) = self.first().await?;
        loop {
            let events = {
                let objects = lock(&self.shared.objects);
                let marked = objects.bookmarks() != bookmarks;
                bookmarks = objects.bookmarks();
                if at < objects.oldest() {
                    vec![json!({"type": "ERROR", "object": status(410, "Expired", "too old resource version")})]
                } else {
                    let mut events = objects.since(at, &self.path, &self.selector);
                    at = objects.version();
                    events.extend(marked.then(|| self.mark(at, json!({}))));
                    events
                }
            };
            let expired = events.first().is_some_and(|event| event["type"] == "ERROR");
            for event in events {
                self.send(&event).await?;
            }
            if expired {
                return None;
            }
            tokio::select! {
                changed = changed.changed() => changed.ok()?,
                () = self.lines.closed() => return None,
            }
            // one that does not answer does not tell either
            let _ = self.shared.frozen.subscribe().wait_for(|frozen| !frozen).await;
        }
    }

    async fn first(&self) -> Option<(u64, u64)> {
        let (present, at, bookmarks) = {
            let objects = lock(&self.shared.objects);
            if let Begin::After(from) = self.begin {
                return Some((from, objects.bookmarks()));
            }
            let all = objects.all(&self.path).filter(|object| self.selector.matches(object)).cloned();
            (all.collect::<Vec<Value>>(), objects.version(), objects.bookmarks())
        };
        for object in present {
            self.send(&json!({"type": "ADDED", "object": object})).await?;
        }
        if matches!(self.begin, Begin::Listed) {
            self.send(&self.mark(at, json!({"k8s.io/initial-events-end": "true"}))).await?;
        }
        Some((at, bookmarks))
    }

    fn mark(&self, at: u64, annotations: Value) -> Value {
        let metadata = json!({"resourceVersion": at.to_string(), "annotations": annotations});
        json!({"type": "BOOKMARK", "object": {"kind": "Any", "apiVersion": self.path.group, "metadata": metadata}})
    }

    async fn send(&self, event: &Value) -> Option<()> {
        self.lines.send(Bytes::from(format!("{event}\n"))).await.ok()
    }
}
