//! `nearshare status`: what a running site knows of itself, its links and its shares.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;

use super::control::{Selector, cannot, print};
use crate::admin::{VERDICT, VERDICT_OK};

/// A status needs no disk and no other site.
const LIMIT: Duration = Duration::from_secs(10);

/// Show how a running site fares: links, shares, how far each copy is behind, what is wrong.
///
/// Exits with 0 when all is well, 1 when something is wrong, 2 when the site cannot be reached.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub of: Selector,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn status(args: &StatusArgs) -> ExitCode {
    let path = if args.json { "/status" } else { "/status.txt" };
    match args.of.ask(Method::GET, path, LIMIT) {
        Ok(answer) => {
            print(&answer);
            let well = answer.status.is_success() && answer.field(VERDICT) == Some(VERDICT_OK);
            ExitCode::from(u8::from(!well))
        }
        Err(error) => cannot(&error, 2),
    }
}
