//! `nearshare scan`: a running site looks over a share's whole directory again.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;

use super::control::{Selector, told};
use crate::id::ShareId;

/// The scan itself runs in the background.
const LIMIT: Duration = Duration::from_secs(10);

/// Look over a share's directory for changes that were made behind nearshare.
///
/// Exits with 0 when the scan has begun (`nearshare status` says how far it is), 1 when it was refused, 2
/// when the site cannot be reached.
#[derive(Debug, Clone, clap::Args)]
pub struct ScanArgs {
    /// The share's name
    pub share: ShareId,
    #[command(flatten)]
    pub of: Selector,
}

/// Runs the command.
pub fn scan(args: &ScanArgs) -> ExitCode {
    told(args.of.ask(Method::POST, &format!("/shares/{}/scan", args.share), LIMIT))
}
