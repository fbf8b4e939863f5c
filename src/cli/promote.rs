//! `nearshare promote`: another site gets the primary copy of a share.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;

use super::control::{Selector, told};
use crate::id::{ShareId, SiteId};

/// Changes under way, records and contents come to their end before the answer.
const LIMIT: Duration = Duration::from_secs(600);

/// Move the primary copy of a share to this site.
///
/// Give it at the site that is to have the primary copy. The old primary lets no change begin, hands over
/// all that it has, and is a copy from then on: nothing is lost, and changes pause for some seconds. If it
/// cannot be reached, the command says what is known, and does nothing without --accept-loss.
///
/// Exits with 0 when it was done, 1 when it was refused, 2 when the site cannot be reached.
#[derive(Debug, Clone, clap::Args)]
pub struct PromoteArgs {
    /// The share's name
    pub share: ShareId,
    /// The site that is to have the primary copy
    #[arg(long, value_name = "SITE")]
    pub to: SiteId,
    /// Go on although the old primary cannot be reached: what only it has is kept aside there when it
    /// returns
    #[arg(long)]
    pub accept_loss: bool,
    #[command(flatten)]
    pub of: Selector,
}

/// Runs the command.
pub fn promote(args: &PromoteArgs) -> ExitCode {
    let loss = if args.accept_loss { "&accept-loss" } else { "" };
    let path = format!("/shares/{}/promote?to={}{loss}", args.share, args.to);
    told(args.of.ask(Method::POST, &path, LIMIT))
}
