//! A change at the site with the primary copy: marked durably before the server hears of it, and
//! answered only when what was done is on the disk.

use std::sync::Arc;

use http::{Request, Response, StatusCode, header};

use super::seam::{Awaits, Home, HomeTicket, Outcome};
use super::{Caller, HttpSite, Part, Taken, answer, near, tags};
use crate::body::Body;
use crate::effect::Change;
use crate::id::RelPath;
use crate::wire::http::Touches;
use crate::wire::http::condition::{drop_judged, is_judged};
use crate::work;

/// How a change ended, for who asked for it.
pub struct Ended {
    pub response: Response<Body>,
    pub ahead: Ahead,
}

/// What a change left ahead of the copies.
#[derive(Debug, PartialEq, Eq)]
pub enum Ahead {
    /// It never reached the server.
    NotBegun,
    Awaits(Awaits),
    /// Nobody knows what became of it (R18).
    Unknown,
}

/// A client's.
pub async fn client(taken: Taken) -> Response<Body> {
    change(taken, async |ended: Ended| ended.response).await.unwrap_or_else(in_doubt)
}

/// Nobody can tell how it ended.
pub fn in_doubt(_: Broken) -> Response<Body> {
    let text = "the change may have been made or not: look before trying again";
    answer::text(StatusCode::GATEWAY_TIMEOUT, text)
}

/// The task that saw a change through broke; it is in the log.
pub struct Broken;

/// Anyone's. It is seen through even if who asked goes away, and so is what is done `then`.
pub async fn change<F>(
    taken: Taken,
    then: impl FnOnce(Ended) -> F + Send + 'static,
) -> Result<Response<Body>, Broken>
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let share = taken.site.slots[taken.slot].share.clone();
    let kept = taken.room.clone();
    let seen_through = work::spawn(async move {
        let response = then(begin(taken).await).await;
        drop(kept);
        response
    });
    seen_through.await.map_err(|error| {
        tracing::error!(%share, "change: {error}");
        Broken
    })
}

async fn begin(taken: Taken) -> Ended {
    let not_begun = |response| Ended { response, ahead: Ahead::NotBegun };
    if let Err(early) = near::fence(&taken.site, taken.slot, taken.client, &taken.classified).await {
        return not_begun(*early);
    }
    let (site, slot) = (taken.site.clone(), taken.slot);
    let share = &site.slots[slot];
    let (Part::Local { home }, Some(change)) = (&share.part, taken.change().cloned()) else {
        return not_begun(answer::retry(format!("{} has its primary copy elsewhere", share.share)));
    };
    let writes_into = matches!(taken.classified.row.touches, Touches::Copy | Touches::Below);
    let from = taken.from.clone();
    let any = taken.classified.row.touches != Touches::Below;
    let judged = is_judged(&taken.parts.headers, any).then(|| taken.classified.path().clone());
    let request = match near::to_server(taken) {
        Ok(request) => request,
        Err(early) => return not_begun(*early),
    };
    let Some(_room) = site.running.change() else {
        return not_begun(answer::too_many(&share.share));
    };
    let from = from.as_ref();
    carry(&site, slot, Carried { home, change: &change, writes_into, judged, from, request }).await
}

/// A change with all that carrying it out takes.
struct Carried<'a> {
    home: &'a Arc<dyn Home>,
    change: &'a Change,
    writes_into: bool,
    /// What its conditions are about, if they are to be judged here.
    judged: Option<RelPath>,
    from: Option<&'a Caller>,
    request: Request<Body>,
}

async fn carry(site: &Arc<HttpSite>, slot: usize, carried: Carried<'_>) -> Ended {
    let Carried { home, change, writes_into, judged, from, request } = carried;
    let (mut parts, body) = request.into_parts();
    let share = &site.slots[slot].share;
    let mut ticket = match home.begin(change, from).await {
        Ok(ticket) => ticket,
        Err(error) => {
            return Ended { response: answer::home_error(share, &error), ahead: Ahead::NotBegun };
        }
    };
    if let Some(path) = judged {
        if let Err(response) = tags::judged(site, slot, &path, &mut ticket, &parts).await {
            return Ended { response, ahead: Ahead::Awaits(ticket.refused()) };
        }
        drop_judged(&mut parts.headers);
    }
    if writes_into {
        site.running.cut(share, change);
    }
    let host = parts.headers.get(header::HOST).cloned();
    let asked = site.upstream.clone().serve(Request::from_parts(parts, body)).await;
    if writes_into {
        // Those that began meanwhile have seen some of it.
        site.running.cut(share, change);
    }
    let response = match asked {
        // A tag of what is not in the catalog yet would be nobody's.
        Ok(response) => near::mend(site, slot, host.as_ref(), true, response),
        Err(error) => {
            let response = answer::no_answer(&error, true);
            if error.nothing_done() {
                return Ended { response, ahead: Ahead::Awaits(ticket.refused()) };
            }
            if error.of_the_client() {
                ticket.broke_off();
            }
            let ahead = Ahead::Unknown;
            return Ended { response, ahead };
        }
    };
    match settle(ticket, response.status()).await {
        Ok(awaits) => Ended { response, ahead: Ahead::Awaits(awaits) },
        Err(error) => Ended { response: answer::not_synced(share, &error), ahead: Ahead::Unknown },
    }
}

async fn settle(
    ticket: Box<dyn HomeTicket>,
    status: StatusCode,
) -> Result<Awaits, super::seam::HomeError> {
    match status.as_u16() {
        300..=499 => Ok(ticket.refused()),
        500.. => ticket.answered(Outcome::Perhaps).await,
        _ => ticket.answered(Outcome::Done).await,
    }
}
