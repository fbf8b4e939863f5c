//! `nearshare kept`: what a site has kept aside instead of destroyed. Not here: how it is kept (see `tree`).

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use indicatif::{HumanBytes, HumanCount};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::control::{ControlError, Selector, cannot, print};
use crate::id::ShareId;
use crate::tree::kept::{Kept, KeptPage};

/// A page is a thousand things, and a directory of millions is read for each.
const LIMIT: Duration = Duration::from_secs(60);
/// A tree of millions of files may be removed.
const REMOVE_LIMIT: Duration = Duration::from_secs(600);

/// List what a site has kept aside instead of destroyed, or remove it.
///
/// A copy that was changed behind nearshare is put right, and the other version is moved to
/// `.nearshare/kept/` in the share's directory: nothing that nearshare did not put there is ever destroyed.
/// Compare, then put the change in through nearshare, or remove it here.
///
/// Exits with 0 when it was done, 1 when it was refused or one of the IDs is not there, 2 when the site cannot be
/// reached.
#[derive(Debug, Clone, clap::Args)]
pub struct KeptArgs {
    /// The share's name [default: all that have a copy at the site]
    pub share: Option<ShareId>,
    /// Remove these for ever
    #[arg(long, value_name = "ID", num_args = 1.., group = "removes", requires = "share")]
    pub remove: Vec<String>,
    /// Remove what has been kept for longer than this, such as 30d, for ever
    #[arg(long, value_name = "TIME", group = "removes", requires = "share", value_parser = humantime::parse_duration)]
    pub older_than: Option<Duration>,
    /// Print everything as JSON
    #[arg(long, conflicts_with = "removes")]
    pub json: bool,
    #[command(flatten)]
    pub of: Selector,
}

/// A listing could not be made.
enum Failed {
    /// The site refused, and that has been printed.
    Refused,
    Control(ControlError),
    /// Nobody reads what is printed: the reader of a pipe has seen enough.
    Unread,
}

impl From<ControlError> for Failed {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}
impl From<io::Error> for Failed {
    fn from(_: io::Error) -> Self {
        Self::Unread
    }
}

/// Runs the command.
pub fn kept(args: &KeptArgs) -> ExitCode {
    let done = match &args.share {
        Some(share) if !args.remove.is_empty() || args.older_than.is_some() => remove(args, share),
        _ => list(args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(Failed::Refused) => ExitCode::from(1),
        Err(Failed::Control(error @ ControlError::NoSite(_))) => cannot(&error, 1),
        Err(Failed::Control(error)) => cannot(&error, 2),
        Err(Failed::Unread) => ExitCode::from(2),
    }
}

fn remove(args: &KeptArgs, share: &ShareId) -> Result<u8, Failed> {
    let ids = args.remove.iter().map(|id| format!("id={}", utf8_percent_encode(id, NON_ALPHANUMERIC)));
    let older = args.older_than.map(|age| format!("older-than={}", age.as_secs()));
    let mut code = 0;
    for which in ids.chain(older) {
        let path = format!("/shares/{share}/kept/remove?{which}");
        let answer = args.of.ask(Method::POST, &path, REMOVE_LIMIT)?;
        let none = answer.text() == "0 removed\n" && args.older_than.is_none();
        if !answer.status.is_success() || none {
            code = 1;
        }
        print(&answer);
    }
    Ok(code)
}

fn list(args: &KeptArgs) -> Result<u8, Failed> {
    let shares = match &args.share {
        Some(share) => vec![share.to_string()],
        None => shares(args)?,
    };
    let out = &mut io::stdout().lock();
    let mut many = 0u64;
    if args.json {
        write!(out, "{{\"kept\":[")?;
    }
    for share in &shares {
        let mut after = String::new();
        loop {
            let page = page(args, share, &after)?;
            for kept in &page.kept {
                if args.json {
                    let mut row = serde_json::json!(kept);
                    row["share"] = share.as_str().into();
                    write!(out, "{}\n{row}", if many > 0 { "," } else { "" })?;
                } else {
                    write!(out, "{}", told(share, kept))?;
                }
                many += 1;
            }
            let Some(last) = page.more else { break };
            after = format!("?after={}", utf8_percent_encode(&last, NON_ALPHANUMERIC));
        }
    }
    if args.json {
        writeln!(out, "\n],\"many\":{many}}}")?;
    } else if many == 0 {
        writeln!(out, "nothing is kept aside")?;
    } else {
        let things = if many == 1 { "thing" } else { "things" };
        writeln!(out, "{} {things} kept aside", HumanCount(many))?;
    }
    Ok(0)
}

fn page(args: &KeptArgs, share: &str, after: &str) -> Result<KeptPage, Failed> {
    let answer = args.of.ask(Method::GET, &format!("/shares/{share}/kept{after}"), LIMIT)?;
    let page = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status.is_success());
    page.ok_or_else(|| {
        print(&answer);
        Failed::Refused
    })
}

/// Those that have a copy at the site.
fn shares(args: &KeptArgs) -> Result<Vec<String>, Failed> {
    let answer = args.of.ask(Method::GET, "/status", LIMIT)?;
    let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let rows = status["shares"].as_array().into_iter().flatten();
    let held = rows.filter(|row| row["state"] != "remote");
    Ok(held.filter_map(|row| Some(row["share"].as_str()?.to_owned())).collect())
}

/// Two lines of what is kept, and one of what to remove it by.
fn told(share: &str, kept: &Kept) -> String {
    let or = |field: &Option<String>, none: &str| field.clone().unwrap_or_else(|| none.to_owned());
    // As it was called, at least.
    let path = kept.path.clone().or_else(|| kept.name.as_ref().map(|name| format!(".../{name}")));
    let size = kept.size.map(|size| format!(", {}", HumanBytes(size))).unwrap_or_default();
    format!(
        "{}  {share}  {}  ({}{size})\n    {}\n    {}\n",
        or(&kept.time, "at an unknown time"),
        or(&path, "from an unknown place"),
        or(&kept.kind, "nothing, a crash came first"),
        or(&kept.reason, "it does not say why"),
        kept.id
    )
}
