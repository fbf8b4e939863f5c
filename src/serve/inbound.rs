//! What other sites ask of this one, handed to the room that answers.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::Site;
use crate::body::Body;
use crate::id::ShareId;
use crate::link::{self, Inbound, Links};
use crate::notice::{Notice, Origin};
use crate::relay::{Caller, HttpRelay, seam};
use crate::tree::Disk;

/// What there is to ask; replaced as a whole at a reload.
#[derive(Default)]
pub struct Rooms {
    /// The rooms are built: what is not among them is not at this site.
    pub open: bool,
    pub homes: BTreeMap<ShareId, Arc<Notice<Disk>>>,
    pub relay: Option<Arc<HttpRelay>>,
    /// They own whoever has this.
    pub links: Weak<Links>,
}

/// Empty until the rooms are built: the links listen before.
#[derive(Clone, Default)]
pub struct Dispatch {
    rooms: Arc<ArcSwap<Rooms>>,
    site: Arc<OnceLock<Weak<Site>>>,
}

impl Dispatch {
    pub fn set(&self, rooms: Rooms) {
        self.rooms.store(Arc::new(rooms));
    }

    /// The site is whole. Once.
    pub fn open(&self, site: &Arc<Site>) {
        let _once = self.site.set(Arc::downgrade(site));
    }
}

fn refuse(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    response
}

impl Inbound for Dispatch {
    fn call(
        &self,
        from: link::Caller,
        request: Request<Incoming>,
    ) -> BoxFuture<'static, Response<Body>> {
        let rooms = self.rooms.load_full();
        let site = self.site.get().and_then(Weak::upgrade);
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
            let Some(site) = site.filter(|_| rooms.open) else {
                return refuse(StatusCode::SERVICE_UNAVAILABLE, "this site is starting".into());
            };
            if what == "http" || what.starts_with("http/") {
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
                let caller = Caller { site: from.site, class, session: from.session };
                return relay.serve_peer(&caller, &share, request.map(Body::from)).await;
            }
            if Site::knows(what) && (what != "content" || !rooms.homes.contains_key(&share)) {
                return site.inbound(&from.site, &share, what, request).await;
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
            let at_odds = |links: Arc<Links>| links.disagrees(&from.site, &share);
            if what == "lease" && rooms.links.upgrade().is_some_and(at_odds) {
                return refuse(
                    StatusCode::CONFLICT,
                    format!(
                        "this site's map describes {share} differently: put the same file at both sites"
                    ),
                );
            }
            let origin = Origin { site: from.site, session: from.session };
            home.clone().inbound(origin, what, request).await
        }
        .boxed()
    }
}
