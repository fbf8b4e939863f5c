//! Where a request goes: one pure function of the share's role, what the request touches and a few
//! facts of the moment. Not here: how those facts are known, and how a request gets there.

mod clients;

pub use self::clients::{Access, ClientRule, Clients};

use crate::effect::Effect;
use crate::plant::{self, Bug};

/// What this site is for the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The primary copy is here.
    Local,
    /// A copy is here.
    Broadcast,
    /// No copy: everything is asked of the primary's site.
    Remote,
}

/// How far this site's copy may speak for what a read depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It is what the primary last told.
    Current,
    /// Content that the primary told of has not come yet: it can be had there, and what is here is an
    /// earlier state of it.
    Behind,
    /// Something the read depends on was changed from here and has not come back yet (R9).
    Ahead,
    /// The first fill has not confirmed it yet (R29).
    Unconfirmed,
    /// This site has just started and does not yet know what is ahead (R9).
    Barrier,
}

/// Whether this site's copy can know what the primary has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// It need not: the share is relaxed.
    Relaxed,
    /// It has a lease: it is told before anything changes (R10).
    Sure,
    /// It has no lease just now.
    Unsure,
    /// It has no lease, and the link has been down for longer than a lease lasts (R13); the map says
    /// to serve what is here.
    CutOffServe,
    /// The same; the map says to refuse.
    CutOffRefuse,
}

/// What the decision depends on beside the effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Facts {
    pub role: Role,
    /// Of a copy; not looked at in other roles.
    pub standing: Standing,
    /// Of a copy as well.
    pub certainty: Certainty,
    /// The link to the primary's site carries requests.
    pub link_up: bool,
    /// A full answer would be right even though the request asks for less (see
    /// [`crate::wire::http::condition::full_answer_will_do`]).
    pub full_answer_will_do: bool,
    /// What the client proves itself by is known to the primary's server and not to the one here.
    pub known_there: bool,
}

/// What is done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// Outside every share: to the local server as it is.
    Pass,
    /// To the local server.
    Divert,
    /// To the local server without its conditions, which only the primary could judge.
    DivertPlain,
    /// To the primary's site.
    Forward,
    /// A change, to the local server, which has the primary copy.
    Home,
    /// Nothing was done; the client may try again.
    Refuse(Why),
}

/// Why a request cannot be carried out just now. All of it passes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// A change can be made at the primary only, which cannot be reached.
    ChangeAway,
    /// Only the primary may answer this read, and it cannot be reached.
    ReadAway,
    /// This site changed it and has not seen the change come back; the primary cannot be reached.
    Ahead,
    /// This copy has not been compared yet, and the primary cannot be reached.
    Unconfirmed,
    /// This site has just started, and the primary cannot be reached.
    Barrier,
    /// What is here may have been changed elsewhere, and the primary cannot be reached.
    Unsure,
}

/// Decides, by the first row that fits. `!` refuses.
/// ```text
///   effect   role       certainty              standing      with the link   without it
///   Outside                                                  Pass            Pass
///   Read     Local                                           Divert          Divert
///   Change   Local                                           Home            Home
///   Change                                                   Forward         !ChangeAway
///   Read     Remote                                          Forward         !ReadAway
///   Read     Broadcast  Unsure, CutOffRefuse                 Forward         !Unsure
///                       CutOffServe            Current       Forward         Divert [1]
///                       Relaxed, Sure          Current       Divert [2]      Divert [1]
///                       Sure                   Behind        Forward         !Unsure
///                       Relaxed, CutOffServe   Behind        Forward         Divert [1]
///                                              Ahead         Forward         !Ahead
///                                              Unconfirmed   Forward         !Unconfirmed
///                                              Barrier       Forward         !Barrier
/// ```
/// `home_only`: \[1\] is DivertPlain if a full answer will do, and else !ReadAway; \[2\] is Forward.
pub fn route<P>(effect: &Effect<P>, facts: &Facts) -> Route {
    let forward_or = |route| if facts.link_up { Route::Forward } else { route };
    match (effect, facts.role) {
        (Effect::Outside, _) => Route::Pass,
        (Effect::Read(_), Role::Local) => Route::Divert,
        (Effect::Change(_), Role::Local) => Route::Home,
        (Effect::Change(_), _) => forward_or(Route::Refuse(Why::ChangeAway)),
        (Effect::Read(_), Role::Remote) => forward_or(Route::Refuse(Why::ReadAway)),
        (Effect::Read(_), Role::Broadcast)
            if matches!(facts.certainty, Certainty::Unsure | Certainty::CutOffRefuse) =>
        {
            forward_or(Route::Refuse(Why::Unsure))
        }
        (Effect::Read(_), Role::Broadcast)
            if facts.certainty == Certainty::CutOffServe && facts.link_up =>
        {
            Route::Forward
        }
        (Effect::Read(read), Role::Broadcast) => match facts.standing {
            // The content that is to come is what was answered.
            Standing::Behind if facts.certainty == Certainty::Sure => {
                forward_or(Route::Refuse(Why::Unsure))
            }
            Standing::Behind if !read.home_only => forward_or(Route::Divert),
            Standing::Behind if facts.full_answer_will_do => forward_or(Route::DivertPlain),
            Standing::Behind => forward_or(Route::Refuse(Why::ReadAway)),
            Standing::Ahead if plant::is(Bug::ServeWhatIsAhead) => forward_or(Route::Divert),
            Standing::Ahead => forward_or(Route::Refuse(Why::Ahead)),
            Standing::Unconfirmed => forward_or(Route::Refuse(Why::Unconfirmed)),
            Standing::Barrier => forward_or(Route::Refuse(Why::Barrier)),
            Standing::Current if !read.home_only && facts.known_there => forward_or(Route::Divert),
            Standing::Current if !read.home_only => Route::Divert,
            Standing::Current if facts.full_answer_will_do => forward_or(Route::DivertPlain),
            Standing::Current => forward_or(Route::Refuse(Why::ReadAway)),
        },
    }
}

#[cfg(test)]
mod tests;
