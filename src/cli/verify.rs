//! `nearshare verify`: a running site compares what is on a share's disk with what was recorded. Not here: how
//! (see the room `verify`).

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use indicatif::{HumanBytes, HumanCount};

use super::control::{ControlError, Selector, cannot, print, told};
use crate::id::ShareId;
use crate::verify::Report;
use crate::work;

/// The verification itself runs in the background.
const LIMIT: Duration = Duration::from_secs(10);
/// How often it is asked how far that is.
const POLL: Duration = Duration::from_millis(300);

/// Read a share's files at this site and compare them with what was recorded.
///
/// Finds what a disk has changed by itself. At a copy, --repair fetches what is wrong from the primary; the wrong
/// version is moved to `.nearshare/kept/` (see `nearshare kept`). The primary copy can only be verified: if
/// something is wrong there, promote a site whose copy is right, then repair.
///
/// It runs in the site and goes on if this command is broken off; give it again to see how far it is. One that was
/// stopped, also by a crash, goes on where it was.
///
/// Exits with 0 when all is right, or was put right, 1 when something is wrong, 2 when it was refused, ended early or
/// the site cannot be reached.
#[derive(Debug, Clone, clap::Args)]
pub struct VerifyArgs {
    /// The share's name
    pub share: ShareId,
    /// Put right what is wrong
    #[arg(long)]
    pub repair: bool,
    /// Read no more bytes a second than this, such as 500K, 50M or 1G; 0: as fast as it goes
    #[arg(long, value_name = "BYTES", default_value = "50M", value_parser = size)]
    pub rate: u64,
    /// Begin anew, also if an earlier verification was broken off
    #[arg(long)]
    pub anew: bool,
    /// End a verification that is under way, where it is
    #[arg(long, conflicts_with_all = ["repair", "anew"])]
    pub stop: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub of: Selector,
}

/// `500K`, `50M`, `1G`, with 1024 of each; or bytes.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'K' | 'k')) => (&text[..at], 1 << 10),
        Some((at, 'M' | 'm')) => (&text[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&text[..at], 1 << 30),
        _ => (text, 1u64),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    number.ok_or_else(|| "write a number of bytes, such as 500K, 50M or 1G".to_owned())
}

/// Runs the command.
pub fn verify(args: &VerifyArgs) -> ExitCode {
    if args.stop {
        return told(args.of.ask(Method::POST, &format!("/shares/{}/verify/stop", args.share), LIMIT));
    }
    match verified(args) {
        Ok(Some(report)) => ExitCode::from(shown(args, &report)),
        Ok(None) => ExitCode::from(2),
        Err(error) => cannot(&error, 2),
    }
}

/// Waits for the end. `None`: it was refused, and that has been printed.
fn verified(args: &VerifyArgs) -> Result<Option<Report>, ControlError> {
    let repair = if args.repair { "&repair" } else { "" };
    let anew = if args.anew { "&anew" } else { "" };
    let path = format!("/shares/{}/verify?rate={}{repair}{anew}", args.share, args.rate);
    let begun = args.of.ask(Method::POST, &path, LIMIT)?;
    if !begun.status.is_success() {
        print(&begun);
        return Ok(None);
    }
    let seen = io::stderr().is_terminal();
    loop {
        let answer = args.of.ask(Method::GET, &format!("/shares/{}/verified", args.share), LIMIT)?;
        let report = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status.is_success());
        let Some(report): Option<Report> = report else {
            print(&answer);
            return Ok(None);
        };
        if seen {
            let end = if report.running { "" } else { "\n" };
            let _unread = write!(io::stderr(), "\r\x1b[K{}{end}", progress(&report));
        }
        if !report.running {
            return Ok(Some(report));
        }
        work::pause(POLL);
    }
}

fn progress(report: &Report) -> String {
    let (objects, of) = (HumanCount(report.objects), HumanCount(report.expected));
    let (bytes, rate) = (HumanBytes(report.bytes), HumanBytes(report.bytes_per_second));
    let left = Duration::from_secs(report.seconds_left);
    let left = humantime::format_duration(left);
    format!(
        "{objects} of {of} objects, {bytes}, {rate}/s, about {left} left, {} wrong",
        report.all_wrong()
    )
}

/// Prints the result and says the exit code.
fn shown(args: &VerifyArgs, report: &Report) -> u8 {
    let mut text = String::new();
    if args.json {
        text = format!("{}\n", serde_json::json!(report));
    } else {
        for wrong in &report.wrong {
            text += &format!("{}: {}\n", wrong.path, wrong.why);
        }
        if report.unlisted > 0 {
            text += &format!("{} more\n", HumanCount(report.unlisted));
        }
        let (objects, bytes) = (HumanCount(report.objects), HumanBytes(report.bytes));
        let (wrong, repaired) = (HumanCount(report.all_wrong()), HumanCount(report.repaired));
        text += &format!("{objects} objects looked at, {bytes}: {wrong} wrong, {repaired} put right\n");
        if report.skipped > 0 {
            let skipped = HumanCount(report.skipped);
            text += &format!("{skipped} were changing all the time and are not judged\n");
        }
        if let Some(why) = &report.stopped {
            text +=
                &format!("it ended early: {why}; give the command again and it goes on from there\n");
        }
    }
    // Nobody reads what is printed: the reader of a pipe has seen enough.
    let _unread = io::stdout().write_all(text.as_bytes());
    match report.all_wrong() {
        1.. => 1,
        0 if report.complete => 0,
        0 => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("7", 7), ("500K", 512_000), ("50M", 52_428_800), ("1g", 1 << 30)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "M", "-1", "1.5G", "50MB", "99999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
