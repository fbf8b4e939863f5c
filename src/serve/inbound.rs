//! What other sites ask of this one, handed to the room that answers.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, FutureExt};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use crate::body::Body;
use crate::id::{ShareId, SiteId};
use crate::link::{self, Inbound, Net};
use crate::notice::{Notice, Origin};
use crate::relay::{Caller, HttpRelay, seam};
use crate::tree::Tree;

/// What there is to ask; replaced as a whole at a reload.
pub struct Rooms<T: Tree> {
    /// The rooms are built: what is not among them is not at this site.
    pub open: bool,
    pub homes: BTreeMap<ShareId, Arc<Notice<T>>>,
    pub relay: Option<Arc<HttpRelay>>,
    /// They own whoever has this.
    pub links: Weak<dyn Net>,
}

impl<T: Tree> Default for Rooms<T> {
    fn default() -> Self {
        let links: Weak<crate::link::Links> = Weak::new();
        Self { open: false, homes: BTreeMap::new(), relay: None, links }
    }
}

/// Empty until the rooms are built: the links listen before.
pub struct Dispatch<T: Tree> {
    rooms: Arc<ArcSwap<Rooms<T>>>,
    leader: Arc<OnceLock<Weak<dyn Leader>>>,
}

/// Answers what sites ask each other about who leads a share, and about copies.
pub trait Leader: Send + Sync {
    fn knows(&self, what: &str) -> bool;
    fn inbound(
        self: Arc<Self>,
        from: SiteId,
        share: ShareId,
        what: String,
        request: Request<Body>,
    ) -> BoxFuture<'static, Response<Body>>;
}

impl<T: Tree> Dispatch<T> {
    pub fn set(&self, rooms: Rooms<T>) {
        self.rooms.store(Arc::new(rooms));
    }

    /// The site is whole. Once.
    pub fn open(&self, leader: Weak<dyn Leader>) {
        let _once = self.leader.set(leader);
    }
}

impl<T: Tree> Default for Dispatch<T> {
    fn default() -> Self {
        Self { rooms: Arc::default(), leader: Arc::default() }
    }
}
impl<T: Tree> Clone for Dispatch<T> {
    fn clone(&self) -> Self {
        Self { rooms: self.rooms.clone(), leader: self.leader.clone() }
    }
}

/// A site that promises something else about a share changes nothing of it here (R10).
fn differs(share: &ShareId) -> String {
    format!("this site's map describes {share} differently: put the same file at both sites")
}

fn refuse(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        // It reaches the client if the request was one.
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

impl<T: Tree> Inbound for Dispatch<T> {
    fn call(&self, from: link::Caller, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let rooms = self.rooms.load_full();
        let leader = self.leader.get().and_then(Weak::upgrade);
        async move {
            let path = request.uri().path().to_owned();
            let Some((share, what)) =
                path.strip_prefix("/v1/share/").and_then(|rest| rest.split_once('/'))
            else {
                return refuse(StatusCode::NOT_FOUND, format!("{path} is no request between sites"));
            };
            let Ok(share) = share.parse::<ShareId>() else {
                return refuse(StatusCode::BAD_REQUEST, "no share has such a name".into());
            };
            if !rooms.open {
                return refuse(StatusCode::SERVICE_UNAVAILABLE, "this site is starting".into());
            }
            if what == "outcome" || what == "http" || what.starts_with("http/") {
                let Some(relay) = &rooms.relay else {
                    return refuse(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "this site has no HTTP server".into(),
                    );
                };
                let class = match from.class {
                    link::Class::Control => seam::Class::Control,
                    link::Class::Bulk => seam::Class::Bulk,
                };
                let reads = [Method::GET, Method::HEAD, Method::OPTIONS];
                let reads = reads.contains(request.method()) || request.method() == "PROPFIND";
                let odd = |links: Arc<dyn Net>| links.disagrees(&from.site, &share);
                if !reads && what != "outcome" && rooms.links.upgrade().is_some_and(odd) {
                    return refuse(StatusCode::SERVICE_UNAVAILABLE, differs(&share));
                }
                let link::Caller { site, session, since, .. } = from;
                let caller = Caller { site, class, session, since };
                if what == "outcome" {
                    return relay.outcome(&caller, &share, request.headers()).await;
                }
                return relay.serve_peer(&caller, &share, request).await;
            }
            if from.class == link::Class::Control && ["content", "snapshot"].contains(&what) {
                // The journal and leases share that connection, and must never wait behind it.
                let text = format!("`{what}` takes the bulk connection");
                return refuse(StatusCode::BAD_REQUEST, text);
            }
            let leader = leader.filter(|leader| leader.knows(what));
            if let Some(leader) =
                leader.filter(|_| what != "content" || !rooms.homes.contains_key(&share))
            {
                let what = what.to_owned();
                return leader.inbound(from.site, share, what, request).await;
            }
            let Some(home) = rooms.homes.get(&share) else {
                return refuse(
                    StatusCode::MISDIRECTED_REQUEST,
                    format!("the primary copy of {share} is not at this site"),
                );
            };
            if !home.copies().contains(&from.site) {
                return refuse(
                    StatusCode::FORBIDDEN,
                    format!("{} holds no copy of {share} by this site's map", from.site),
                );
            }
            let at_odds = |links: Arc<dyn Net>| links.disagrees(&from.site, &share);
            if what == "lease" && rooms.links.upgrade().is_some_and(at_odds) {
                return refuse(StatusCode::CONFLICT, differs(&share));
            }
            let origin = Origin { site: from.site, session: from.session };
            home.clone().inbound(origin, what, request).await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Class, Session};
    use crate::tree::model::Model;

    #[tokio::test]
    async fn what_may_be_large_is_not_answered_on_the_control_connection() {
        let dispatch: Dispatch<Model> = Dispatch::default();
        dispatch.set(Rooms { open: true, ..Rooms::default() });
        let addr = "127.0.0.1:1".parse().unwrap();
        for (class, want) in [(Class::Control, 400), (Class::Bulk, 421)] {
            for what in ["content", "snapshot"] {
                let from = "osaka".parse().unwrap();
                let from = link::Caller {
                    site: from,
                    class,
                    session: Session::default(),
                    since: Session::default(),
                    addr,
                };
                let request = Request::post(format!("/v1/share/eng/{what}")).body(Body::Empty).unwrap();
                assert_eq!(dispatch.call(from, request).await.status(), want, "{what}");
            }
        }
    }
}
