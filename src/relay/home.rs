//! A change at the site with the primary copy: marked durably before the server hears of it, and
//! answered only when what was done is on the disk.

use std::sync::Arc;

use http::{Request, Response, StatusCode};

use super::answer::Early;
use super::seam::{Awaits, Home, HomeTicket, Outcome};
use super::{Caller, HttpSite, Keeper, Part, Taken, answer, locks, near, tags};
use crate::body::Body;
use crate::effect::{Change, Depth};
use crate::id::ShareId;
use crate::plant::{self, Bug};
use crate::wire::http::condition::{drop_judged, is_judged};
use crate::wire::http::{Classified, Touches};
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
pub async fn client(taken: Box<Taken>) -> Response<Body> {
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
    taken: Box<Taken>,
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

async fn begin(taken: Box<Taken>) -> Ended {
    let not_begun = |response| Ended { response, ahead: Ahead::NotBegun };
    if let Err(early) = near::fence(&taken.site, taken.slot, taken.client, &taken.classified).await {
        return not_begun(*early);
    }
    let (site, slot) = (taken.site.clone(), taken.slot);
    let share = &site.slots[slot];
    let (Part::Local { home }, Some(change)) = (&share.part, taken.change().cloned()) else {
        return not_begun(answer::retry(format!("{} has its primary copy elsewhere", share.share)));
    };
    let (home, keeper) = (home.clone(), share.locks.here().cloned());
    let too_many = || not_begun(answer::too_many(&share.share));
    match (&keeper, taken.classified.row.name) {
        (Some(keeper), "UNLOCK") => {
            let (asked, _) = locks::Asked::new(taken);
            let Some(_room) = site.running.change() else { return too_many() };
            let stays = match home.stay().await {
                Ok(stays) => stays,
                Err(error) => return not_begun(answer::home_error(&share.share, &error)),
            };
            let response = locks::unlock(&asked, keeper).await;
            drop(stays);
            not_begun(response)
        }
        (Some(keeper), "LOCK") => {
            let (asked, wish) = match locks::wish(taken).await {
                Ok(wished) => wished,
                Err(early) => return not_begun(*early),
            };
            let Some(_room) = site.running.change() else { return too_many() };
            locks::lock(asked, wish, keeper, &home, &change).await
        }
        _ => {
            let carry = match Carry::new(taken, keeper, home, change) {
                Ok(carry) => carry,
                Err(early) => return not_begun(*early),
            };
            let Some(_room) = site.running.change() else { return too_many() };
            carry.through().await
        }
    }
}

/// A change with all that it takes.
struct Carry {
    site: Arc<HttpSite>,
    slot: usize,
    home: Arc<dyn Home>,
    change: Change,
    from: Option<Caller>,
    request: Request<Body>,
    classified: Classified,
    /// Of the locks, where they are kept here.
    keeper: Option<Arc<Keeper>>,
}

impl Carry {
    fn new(
        taken: Box<Taken>,
        keeper: Option<Arc<Keeper>>,
        home: Arc<dyn Home>,
        change: Change,
    ) -> Result<Self, Early> {
        let (site, slot, from) = (taken.site.clone(), taken.slot, taken.from.clone());
        let classified = taken.classified.clone();
        let request = near::to_server(taken)?;
        Ok(Self { site, slot, home, change, from, request, classified, keeper })
    }

    async fn through(self) -> Ended {
        let Self { site, slot, home, change, from, request, mut classified, keeper } = self;
        let share = &site.slots[slot].share;
        let mut ticket = match home.begin(&change, from.as_ref()).await {
            Ok(ticket) => ticket,
            Err(error) => {
                return Ended { response: answer::home_error(share, &error), ahead: Ahead::NotBegun };
            }
        };
        let admitted = admit(&site, slot, keeper.as_ref(), &mut classified, &mut ticket, request).await;
        // Until all that follows from the answer is done.
        let (request, _admitted) = match admitted {
            Ok(admitted) => admitted,
            Err(early) => return refuse(ticket, share, *early, Depth::Object).await,
        };
        let writes_into = matches!(classified.row.touches, Touches::Copy | Touches::Below);
        let writes_into = writes_into && !plant::is(Bug::LetAnswersRun);
        if writes_into {
            site.running.cut(share, &change);
        }
        // A tag of what is not in the catalog yet would be nobody's.
        let asked = near::ask(&site, slot, true, request).await;
        if writes_into {
            // Those that began meanwhile have seen some of it.
            site.running.cut(share, &change);
        }
        let response = match asked {
            Ok(response) => response,
            Err(error) => {
                let response = answer::no_answer(&error, true);
                if error.nothing_done() {
                    return Ended { response, ahead: Ahead::Awaits(ticket.unsent()) };
                }
                if error.of_the_client() {
                    ticket.broke_off();
                }
                let ahead = Ahead::Unknown;
                return Ended { response, ahead };
            }
        };
        if let Some(keeper) = &keeper
            && vanishes(&classified, response.status())
        {
            keeper.gone(&site.slots[slot], classified.path()).await;
        }
        // What is in a directory may be why it cannot go.
        let depth = match classified.row.name {
            "DELETE" | "MOVE" | "COPY" => Depth::Tree,
            _ => Depth::Object,
        };
        settle(ticket, share, response.status(), response, depth).await
    }
}

/// Whether a change whose turn it is may be made, by the locks and by its conditions; of those it keeps what the
/// server is to judge.
async fn admit(
    site: &Arc<HttpSite>,
    slot: usize,
    keeper: Option<&Arc<Keeper>>,
    classified: &mut Classified,
    ticket: &mut Box<dyn HomeTicket>,
    mut request: Request<Body>,
) -> Result<(Request<Body>, Option<locks::Admitted>), Early> {
    let fitted = tags::fit_if(&site.slots[slot], classified, Some(&mut *ticket)).await?;
    if let Some(field) = classified.conditions().filter(|_| fitted) {
        near::write_if(request.headers_mut(), site.shares.url(slot), field)?;
    }
    let admitted = match keeper {
        Some(keeper) => Some(locks::admit(site, slot, keeper, classified, &mut request).await?),
        None => None,
    };
    // Where it is not the file itself that is changed, tags that are nobody's may be the server's.
    let any = !matches!(classified.row.touches, Touches::Lock | Touches::About | Touches::Below);
    if !is_judged(request.headers(), any) {
        return Ok((request, admitted));
    }
    let (mut parts, body) = request.into_parts();
    tags::judged(site, slot, classified.path(), ticket, &parts.headers, &parts).await?;
    drop_judged(&mut parts.headers);
    Ok((Request::from_parts(parts, body), admitted))
}

/// Whether all that was at the path is there no more, and its locks neither (RFC 4918 sections 7.5 and 9.6).
fn vanishes(classified: &Classified, status: StatusCode) -> bool {
    let whole = status.is_success() && status != StatusCode::MULTI_STATUS;
    whole && matches!(classified.row.name, "DELETE" | "MOVE")
}

/// Ends a change that the server has answered with `status`. `depth`: how far below its targets the reason of a
/// refusal may be.
pub async fn settle(
    ticket: Box<dyn HomeTicket>,
    share: &ShareId,
    status: StatusCode,
    response: Response<Body>,
    depth: Depth,
) -> Ended {
    let outcome = match status.as_u16() {
        300..=499 => return refuse(ticket, share, response, depth).await,
        500.. => Outcome::Perhaps,
        _ => Outcome::Done,
    };
    match ticket.answered(outcome).await {
        Ok(awaits) => Ended { response, ahead: Ahead::Awaits(awaits) },
        Err(error) => Ended { response: answer::not_synced(share, &error), ahead: Ahead::Unknown },
    }
}

/// Ends a change that was refused, with an answer that says what is there.
pub async fn refuse(
    ticket: Box<dyn HomeTicket>,
    share: &ShareId,
    response: Response<Body>,
    depth: Depth,
) -> Ended {
    match ticket.refused(depth).await {
        Ok(awaits) => Ended { response, ahead: Ahead::Awaits(awaits) },
        Err(error) => Ended { response: answer::not_told(share, &error), ahead: Ahead::Unknown },
    }
}
