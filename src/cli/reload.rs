//! `nearshare reload`: a running site takes its map's file again.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;

use super::control::{Selector, told};

/// Shares that come or go are opened and closed before the answer.
const LIMIT: Duration = Duration::from_secs(110);

/// Make a running site take its server map again, without dropping a connection.
///
/// Exits with 0 when it was taken, 1 when it has mistakes (the old one stays), 2 when it cannot be read or the
/// site cannot be reached.
#[derive(Debug, Clone, clap::Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    pub of: Selector,
}

/// Runs the command. The map that is taken is the one that the site was started with.
pub fn reload(args: &ReloadArgs) -> ExitCode {
    told(args.of.ask(Method::POST, "/reload", LIMIT))
}
