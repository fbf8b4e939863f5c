//! What other sites ask about who leads a share, and tell of it. Not here: what follows from it at this site.

use http::{Request, Response, StatusCode};
use prost::Message as _;

use super::*;
use crate::body::{Body, collect};
use crate::notice::NoticeError;

impl<H: Host> Leading<H> {
    /// What another site asks about the lead of a share, or of a copy.
    pub(super) async fn answer(
        self,
        from: &SiteId,
        share: &ShareId,
        what: &str,
        request: Request<Body>,
    ) -> Response<Body> {
        let part = self.map().shares.get(share).and_then(|row| row.at(from)).is_some();
        if !part {
            return refuse(StatusCode::FORBIDDEN, format!("{from} has no part in {share}"));
        }
        match what {
            "who" => self.who(share),
            "lead" | "hand-over" | "step-down" | "locks" | "step-on" => {
                let body = collect(request.into_body(), MESSAGE_MAX).await;
                let Ok(body) = body else { return refuse(StatusCode::BAD_REQUEST, "no message") };
                match what {
                    "lead" => self.told(from, share, &body).await,
                    "step-down" => self.step_down(from, share).await,
                    "locks" => self.locks_after(share, &body),
                    "step-on" => self.step_on(share, &body),
                    _ => self.hand_over(from, share, &body).await,
                }
            }
            _ => {
                let Some(follow) = self.copy(share) else {
                    return refuse(StatusCode::MISDIRECTED_REQUEST, "there is no copy here");
                };
                let here = self.shelf(share).ok().zip(self.disk(share));
                if !self.may_lead(share, from) {
                    let why = format!("by this site's map {from} has no copy of {share}");
                    return refuse(StatusCode::FORBIDDEN, why);
                }
                match (what, here) {
                    ("report", _) => {
                        tracing::warn!(
                            %share, %from, seconds = FENCE.as_secs(),
                            "the site may take over: nothing is kept for the primary meanwhile"
                        );
                        report(follow).await
                    }
                    ("records", Some((shelf, _))) => crate::notice::records(shelf, request).await,
                    (_, Some((shelf, disk))) => match self.moving().contents.enter(share, from) {
                        Some(line) => crate::notice::content(&shelf, &disk, line, request),
                        None => crate::notice::busy(),
                    },
                    (_, None) => refuse(StatusCode::MISDIRECTED_REQUEST, "there is no copy here"),
                }
            }
        }
    }

    /// Another site says that it leads, or that it has stepped down for this one.
    async fn told(&self, from: &SiteId, share: &ShareId, body: &[u8]) -> Response<Body> {
        let Some(lead) = said::Lead::decode(body).ok().and_then(|lead| from_wire(&lead)) else {
            return refuse(StatusCode::BAD_REQUEST, "no message");
        };
        if lead.site == *self.me() {
            return self.handed(from, share, lead).await;
        }
        if lead.site != *from {
            return refuse(
                StatusCode::BAD_REQUEST,
                "a site tells of its own lead, or of its successor's",
            );
        }
        if !self.may_lead(share, from) {
            return refuse(
                StatusCode::FORBIDDEN,
                format!("by this site's map {from} has no copy of {share}"),
            );
        }
        if let Err(error) = self.assume(share, lead, Grounds::Heard).await {
            tracing::error!(%share, primary = %from, %error, "the new primary cannot be followed");
            return refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        }
        self.who(share)
    }

    /// The primary until now has stepped down for this site, which was killed or cut off before it knew.
    async fn handed(&self, from: &SiteId, share: &ShareId, lead: Lead) -> Response<Body> {
        let known = self.shelf(share).ok().and_then(|shelf| shelf.meta().lead);
        let newer = known.filter(|known| comes_after(&lead, known));
        if newer.as_ref().is_some_and(|known| known.site != *from) {
            return refuse(
                StatusCode::FORBIDDEN,
                format!("{from} is not the primary, as far as is known"),
            );
        }
        if newer.is_none() {
            return self.who(share);
        }
        let Some(follow) = self.copy(share) else {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the copy is not running here");
        };
        match self.take_over(share, from, &follow, lead).await {
            Ok(done) => {
                tracing::warn!(%share, "{done}");
                self.who(share)
            }
            Err(why) => {
                tracing::warn!(%share, "{why}");
                refuse(StatusCode::SERVICE_UNAVAILABLE, why)
            }
        }
    }

    fn who(&self, share: &ShareId) -> Response<Body> {
        match self.shelf(share).map(|shelf| shelf.meta().lead) {
            Ok(Some(lead)) => reply(&to_wire(&lead)),
            _ => refuse(StatusCode::SERVICE_UNAVAILABLE, "the catalog cannot be read"),
        }
    }

    /// The primary lets no change begin until it is asked to hand over, or the pause is over.
    async fn step_down(&self, from: &SiteId, share: &ShareId) -> Response<Body> {
        let Some(notice) = self.home(share) else {
            return refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "the primary copy is not here; if its move to here was broken off, give the command here",
            );
        };
        if !self.may_lead(share, from) {
            return refuse(
                StatusCode::FORBIDDEN,
                format!("by this site's map {from} has no copy of {share}"),
            );
        }
        let resigning = match notice.resign().await {
            Ok(resigning) => resigning,
            Err(error @ NoticeError::NotNow(_)) => {
                return refuse(StatusCode::CONFLICT, error.to_string());
            }
            Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        };
        let mut token = [0; 8];
        work::random(&mut token);
        let (head, token) = (resigning.head, u64::from_ne_bytes(token));
        tracing::info!(%share, to = %from, record = head.at.seq.0, "no change begins: the primary copy is to move");
        self.pauses().insert(share.clone(), Pause { token, resigning });
        let (site, share) = (self.clone(), share.clone());
        work::spawn(async move {
            tokio::time::sleep(PAUSE).await;
            let mut pauses = site.pauses();
            if pauses.get(&share).is_some_and(|pause| pause.token == token) {
                pauses.remove(&share);
                tracing::warn!(%share, "the primary copy stays here: nobody took it over");
            }
        });
        reply(&said::Stepping {
            epoch: head.at.epoch.0,
            seq: head.at.seq.0,
            chain: bytes::Bytes::copy_from_slice(&head.chain.0),
            token,
            pause_ms: u32::try_from(PAUSE.as_millis()).unwrap_or(u32::MAX),
        })
    }

    /// Whoever wanted the primary copy cannot have it now: changes begin again.
    fn step_on(&self, share: &ShareId, body: &[u8]) -> Response<Body> {
        let token = said::Stepping::decode(body).map_or(0, |message| message.token);
        let mut pauses = self.pauses();
        if pauses.get(share).is_some_and(|pause| pause.token == token) {
            pauses.remove(share);
        }
        drop(pauses);
        self.who(share)
    }

    async fn hand_over(&self, from: &SiteId, share: &ShareId, body: &[u8]) -> Response<Body> {
        let Ok(message) = said::HandOver::decode(body) else {
            return refuse(StatusCode::BAD_REQUEST, "no message");
        };
        let Some(lead) = from_wire(&message.lead).filter(|lead| lead.site == *from) else {
            return refuse(StatusCode::BAD_REQUEST, "a site takes over for itself only");
        };
        // Out of the map: nobody else ends the pause from here on.
        let pause = {
            let mut pauses = self.pauses();
            let known = pauses.get(share).is_some_and(|pause| pause.token == message.token);
            known.then(|| pauses.remove(share)).flatten()
        };
        let Some(pause) = pause else {
            return refuse(StatusCode::CONFLICT, "the pause is over: begin again");
        };
        let withheld_ms = u64::try_from(pause.resigning.withheld().as_millis()).unwrap_or(0);
        if pause.resigning.head.at != lead.base {
            return refuse(StatusCode::CONFLICT, "that is not where the journal ends");
        }
        if let Err(error) = self.assume(share, lead.clone(), Grounds::Handed).await {
            tracing::error!(%share, primary = %from, %error, "the primary copy cannot be handed over");
            return refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        }
        if let Err(why) = self.must_lead(share, &lead) {
            return refuse(StatusCode::CONFLICT, why);
        }
        reply(&said::HandedOver { withheld_ms })
    }
}

/// What is here, for a site that may lead: nothing that comes after it is kept for the old primary.
async fn report<T: Tree>(follow: Arc<Follow<T>>) -> Response<Body> {
    let fenced = follow.clone();
    match blocking(move || fenced.fence().map_err(ServeError::from)).await {
        Ok(()) => reply(&follow.report()),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
