//! `nearshare believe`: what is on a share's disk is right, also where a change is in doubt.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;

use super::control::{Selector, told};
use crate::id::ShareId;

/// What is in doubt is looked at once more, in the background.
const LIMIT: Duration = Duration::from_secs(10);

/// End the doubt about changes that a share's server never answered.
///
/// A change without an answer may still be carried out, so its files are read at the primary's site until
/// that is known. Give this command at the primary's site when you know that it will not: after the server
/// was restarted, say. `nearshare status` lists what is in doubt.
///
/// Exits with 0 when it was done, 1 when it was refused, 2 when the site cannot be reached.
#[derive(Debug, Clone, clap::Args)]
pub struct BelieveArgs {
    /// The share's name
    pub share: ShareId,
    #[command(flatten)]
    pub of: Selector,
}

/// Runs the command.
pub fn believe(args: &BelieveArgs) -> ExitCode {
    told(args.of.ask(Method::POST, &format!("/shares/{}/believe", args.share), LIMIT))
}
