//! What an operator sees of a running site and can tell it to do: the control socket with `status`,
//! metrics and commands, and a page for a browser. Not here: where the figures come from and what a
//! command does (see [`Steer`], which `serve` implements), and the terminal (see `cli`).
//!
//! The socket speaks HTTP/1.1, so that `curl --unix-socket control.sock http://local/status` works, and
//! so does `ssh -L 8000:/var/lib/nearshare/control.sock host` with a browser at `127.0.0.1:8000`.

mod metrics;
mod page;
mod socket;
mod status;
mod words;

pub use socket::{AdminError, Control, UNREAD, bind, fits, serve};
pub use status::{
    CopyStatus, HttpStatus, MapStatus, ShareState, ShareStatus, Status, VERDICT, VERDICT_OK,
    VERDICT_WRONG, Wrong,
};

use futures_util::future::BoxFuture;

use crate::id::{Name, ShareId, SiteId};
use crate::tree::kept::{KeptPage, Unkept};
use crate::verify::{Order, Report};

/// Why a map's file is not taken: one line or more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    #[error("{0}")]
    Unread(String),
    /// It has mistakes, or changes what cannot change while the site runs.
    #[error("{0}")]
    Refused(String),
}

/// The running site, as the control socket knows it.
pub trait Steer: Send + Sync + 'static {
    fn status(&self) -> Status;
    /// All that is counted while it runs, in Prometheus' text format.
    fn metrics(&self) -> String;
    /// Takes the map's file again. `Ok`: what has changed. `Err`: the old map stays.
    fn reload(&self) -> BoxFuture<'_, Result<String, NotTaken>>;
    /// Looks over the whole share again, in the background. `Err`: why it cannot, and what to do.
    fn rescan(&self, share: &ShareId) -> Result<(), String>;
    /// What the share's disk has is right, also where changes are in doubt (R18). `Ok`: how many were.
    fn believe(&self, share: &ShareId) -> Result<usize, String>;
    /// Compares what is on a share's disk here with what was recorded, in the background. `Ok(false)`: that is
    /// under way already.
    fn verify(&self, share: &ShareId, order: Order) -> Result<bool, String>;
    /// Ends that where it is.
    fn end_verify(&self, share: &ShareId) -> Result<(), String>;
    /// How far that is, and what it found.
    fn verified(&self, share: &ShareId) -> Result<Report, String>;
    /// Some of what a share has kept aside here, from behind `after` on.
    fn kept<'a>(
        &'a self,
        share: &'a ShareId,
        after: Option<Name>,
    ) -> BoxFuture<'a, Result<KeptPage, String>>;
    /// Removes it for ever. `Ok`: how many things that were.
    fn remove_kept<'a>(
        &'a self,
        share: &'a ShareId,
        which: Unkept,
    ) -> BoxFuture<'a, Result<u64, String>>;
    /// Moves the primary copy of a share to a site. `Ok`: what was done. `Err`: why not, and what to do.
    fn promote<'a>(
        &'a self,
        share: &'a ShareId,
        to: &'a SiteId,
        accept_loss: bool,
    ) -> BoxFuture<'a, Result<String, String>>;
}
