//! What `relay` needs of the rooms around a share, as traits: the primary's side, a copy's side, the
//! link, and the share's directory.

use futures_util::future::BoxFuture;
use http::{Request, Response};

use super::Caller;
use crate::body::Body;
use crate::catalog::Touch;
use crate::effect::{Change, Depth, Read};
use crate::id::{Gen, RelPath};
use crate::link::Session;
use crate::object::Found;
pub use crate::route::{Certainty, Standing};
use crate::wire::http::etag::Tag;
use crate::wire::http::lock::Lock;

/// What a change made ahead of the copies, and through which generation (R4).
pub type Awaits = Vec<(Touch, Gen)>;

/// The primary's side of one share.
pub trait Home: Send + Sync {
    /// Resolves the change on the disk, waits for its turn among changes of the same entries, and
    /// marks durably what it touches. Nothing may reach the server before. A missing parent is no
    /// error: the server says so itself.
    /// `from`: the other site that forwarded it.
    fn begin<'a>(
        &'a self,
        change: &'a Change,
        from: Option<&'a Caller>,
    ) -> BoxFuture<'a, Result<Box<dyn HomeTicket>, HomeError>>;
    /// Waits until the primary copy is not about to move; as long as what it gives is kept, it does not. For what
    /// changes locks alone.
    fn stay(&self) -> BoxFuture<'_, Result<Box<dyn Send>, HomeError>>;
    /// Whether changes must be durable at other sites before anybody sees them (R26).
    fn is_pledged(&self) -> bool;
    /// Asked when the server has answered a read, if so: waits until all that the answer may show is.
    fn visible<'a>(&'a self, read: &'a Read) -> BoxFuture<'a, Result<(), HomeError>>;
}

/// A change that the server may have seen. Dropped without a call: its outcome is unknown, and it
/// stays in doubt until the truth is found (R18).
pub trait HomeTicket: Send {
    /// The server has done it, or may have. With [`Outcome::Done`] what it touched is on the disk
    /// when this returns, unless `http_sync` is off. Reconcile is told.
    fn answered(self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<Awaits, HomeError>>;
    /// The server refused it, or what is there did. Reconciled all the same, for a refused DELETE of a tree may
    /// have removed half of it; released at once if nothing differs. Why may show what others did, as far below
    /// the targets as `depth` says: that is durable at enough sites when this returns (R26).
    fn refused(self: Box<Self>, depth: Depth) -> BoxFuture<'static, Result<Awaits, HomeError>>;
    /// The server has not heard of it, and who asked hears nothing of what is there.
    fn unsent(self: Box<Self>) -> Awaits;
    /// The client broke off before the server had all of it: the server may have begun, but cannot carry
    /// it out any more.
    fn broke_off(self: Box<Self>);
    /// Before the server is asked: what the change touches is looked at, so that what came before it is in
    /// the catalog.
    fn reconcile(&mut self) -> BoxFuture<'_, Result<(), HomeError>>;
}

/// What the server's answer says of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx: what is answered as done must be on the disk.
    Done,
    /// 5xx: the client is promised nothing.
    Perhaps,
}

/// Why a change cannot be made here.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("{path} leads out of the share by a symbolic link")]
    Outside { path: RelPath },
    #[error("the share's directory is not there: {0}")]
    NotTheShare(String),
    #[error("the share's disk: {0}")]
    Disk(String),
    #[error("the disk is full: {0}")]
    Full(String),
    #[error("this site's catalog: {0}")]
    Catalog(String),
    /// The primary copy goes to another site. Nothing was done.
    #[error("{0}")]
    Moved(String),
    /// Before a change: nothing was done. After it: it was done, and is not on disks enough.
    #[error("{0}")]
    NotDurable(String),
}

/// Where the locks of a share outlive the process.
pub trait LockRows: Send + Sync {
    /// Durable when it returns. `Err` says what is wrong; then nothing was written down.
    fn save<'a>(&'a self, put: Option<&'a Lock>, gone: Vec<String>)
    -> BoxFuture<'a, Result<(), String>>;
}

/// A copy's side of one share.
pub trait Near: Send + Sync {
    /// Whether the copy may answer the read. Asked for every read: never blocks, costs next to nothing
    /// while nothing is ahead.
    fn standing(&self, read: &Read) -> Standing;
    /// Whether the copy can know what the primary has. Asked for every read, before [`Self::standing`]:
    /// what is asked of this copy in between is seen there.
    fn certainty(&self) -> Certainty;
    /// Durably notes what a change will make ahead of this copy (R9). Nothing may be sent before.
    fn begin<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Box<dyn NearTicket>, NearError>>;
    /// This site follows the primary no longer: what that says now may be of a history that has ended (R34).
    fn is_over(&self) -> bool;
}

/// A change that is on its way to the primary. Dropped without a call: its outcome is unknown, and
/// what it touches stays ahead until the primary has answered a barrier.
pub trait NearTicket: Send {
    /// The primary has dealt with it; reads are forwarded until these have come back.
    fn answered(self: Box<Self>, awaits: Awaits);
    /// Nothing was done.
    fn refused(self: Box<Self>);
}

/// A copy could not note what a change makes ahead.
#[derive(Debug, thiserror::Error)]
#[error("this site's catalog: {0}")]
pub struct NearError(pub String);

/// Which of the two connections to a site a message takes: small ones must never wait behind big ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    Control,
    Bulk,
}

/// The link to the site with the primary copy.
pub trait Wire: Send + Sync {
    /// Whether both connections carry requests. Asked for every request.
    fn up(&self) -> bool;
    /// Waits until they do. `false`: that site is not dialled any more.
    fn reached(&self) -> BoxFuture<'_, bool>;
    /// Sends a request whose URI is a path below `/v1/` and waits for the head of the answer.
    fn send(
        &self,
        class: Class,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, WireError>>;
}

/// No answer came over the link.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other site has certainly not acted on it.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It may have: it was sent in this session.
    #[error("lost: {why}")]
    Lost { session: Session, why: String },
}

/// The share's directory, as far as clients' paths are concerned.
pub trait Fence: Send + Sync {
    /// As [`Self::look`], from what the kernel has in memory: never blocks, and says `Unknown` when
    /// only the disk could tell.
    fn cached(&self, path: &RelPath, follow: bool) -> Fenced;
    /// Where the path ends. `follow` also follows a symbolic link at its last place. Blocks.
    fn look(&self, path: &RelPath, follow: bool) -> Fenced;
    /// Where the path ends, links followed, and what is there. With `cached` as [`Self::cached`].
    fn reaches(&self, path: &RelPath, cached: bool) -> (Fenced, Option<Found>);
    /// The file that a server comes to by the path, if the catalog knows it and which version it is: such a file is
    /// inside. Never waits for the share's disk, but reads the catalog; nothing also if this look cannot tell.
    fn proven(&self, path: &RelPath) -> Option<(Found, Tag)>;
    /// Whether a server comes now to what [`Self::proven`] gave, and it is as it was. Never blocks, and may not be
    /// able to tell.
    fn is_still(&self, path: &RelPath, found: &Found) -> bool;
    /// The path of what the path leads to, without a symbolic link on the way; nothing if there is nothing, or
    /// it cannot be told. With `cached` as [`Self::cached`], and nothing if only the disk could tell.
    fn straight(&self, path: &RelPath, cached: bool) -> Option<RelPath>;
    /// Which content a file that was found is: proven, by its stamp, to be what was read when its version
    /// was noted. Reads the catalog.
    fn version(&self, file: &Found) -> Option<Tag>;
}

/// Where a path ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    Inside,
    /// Nothing is there, and the way up to there stays inside.
    Missing,
    /// Some symbolic link on the way leaves the share.
    Outside,
    /// Only the disk can tell.
    Unknown,
    /// The share's directory itself is not there.
    Gone,
}
