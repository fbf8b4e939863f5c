//! A status in plain words, as lines for a terminal; `page` shows the same lines. Not here: what is
//! wrong (see `Status::wrong`).

use indicatif::{HumanBytes, HumanCount};

use super::status::{HttpStatus, ShareState, ShareStatus, Status};
use crate::id::{ShareId, SiteId};
use crate::link::own::Age;
use crate::link::{Direction, PeerState};
use crate::notice::{By, Unread};
use crate::tree::kept::COUNTED_MAX;
use crate::verify;
use crate::wire::http::lock::LOCKS_MAX;
use crate::{follow, notice};

/// Refused connections that are shown, the latest.
const REFUSED_SHOWN: usize = 5;
/// A map's hash is shown by its beginning, in hexadecimal digits.
const HASH_SHOWN: usize = 12;

/// A status as people read it.
pub(super) struct Report {
    pub ok: bool,
    /// The first line.
    pub verdict: String,
    pub sections: Vec<Section>,
}

pub(super) struct Section {
    pub title: &'static str,
    pub rows: Vec<Row>,
}

pub(super) struct Row {
    pub name: String,
    pub wrong: bool,
    pub said: String,
    pub more: Vec<String>,
}

impl Report {
    pub fn new(status: &Status) -> Self {
        let wrong = status.wrong();
        let Status { site, pid, version, map, .. } = status;
        let up = ago(status.at_unix_ms, status.since_unix_ms);
        let open = status.http.as_ref().map_or(0, |http| http.connections);
        let open = count(open, "connection", "connections");
        let verdict = match wrong.len() {
            _ if status.stopping => {
                format!("stopping: site {site} waits for requests in flight, {open} open")
            }
            0 => format!("ok: site {site} has run for {up}"),
            1 => format!("wrong: 1 thing at site {site}, which has run for {up}"),
            many => format!("wrong: {many} things at site {site}, which has run for {up}"),
        };
        let wrong_rows = wrong.iter().map(|wrong| Row {
            name: "!".to_owned(),
            wrong: true,
            said: wrong.what.clone(),
            more: wrong.fix.iter().map(|fix| format!("to do: {fix}")).collect(),
        });
        let hash = map.hash.get(..HASH_SHOWN).unwrap_or(&map.hash);
        let of = format!("serial {}, hash {hash}, {}", map.serial, map.file.display());
        let mut site_rows =
            vec![Row::fine("nearshare", format!("{version}, process {pid}")), Row::fine("map", of)];
        site_rows.push(certificate(status));
        let refused = status.refused.iter().rev().take(REFUSED_SHOWN).map(|refused| Row {
            name: refused.claims.as_ref().map_or("-".to_owned(), ToString::to_string),
            wrong: false,
            said: format!(
                "{}, {} ago: {}",
                refused.address,
                ago(status.at_unix_ms, refused.at_unix_ms),
                refused.why
            ),
            more: vec![format!("to do: {}", refused.fix)],
        });
        let sections = [
            ("wrong", wrong_rows.collect::<Vec<_>>()),
            ("site", site_rows),
            ("http", status.http.iter().map(http).collect()),
            (
                "links",
                status
                    .links
                    .iter()
                    .map(|link| self::link(link, status.at_unix_ms, map.serial))
                    .collect(),
            ),
            (
                "shares",
                status.shares.iter().map(|share| self::share(share, status.at_unix_ms)).collect(),
            ),
            ("refused", refused.collect()),
        ];
        let sections = sections.into_iter().filter(|(_, rows)| !rows.is_empty());
        let sections = sections.map(|(title, rows)| Section { title, rows }).collect();
        Self { ok: wrong.is_empty(), verdict, sections }
    }

    /// Lines for a terminal.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.verdict);
        for section in &self.sections {
            let wide = section.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
            text += &format!("\n{}\n", section.title);
            for row in &section.rows {
                text += &format!("  {:wide$}  {}\n", row.name, row.said);
                for line in &row.more {
                    text += &format!("  {:wide$}    {line}\n", "");
                }
            }
        }
        text
    }
}

impl Row {
    fn fine(name: &str, said: String) -> Self {
        Self { name: name.to_owned(), wrong: false, said, more: Vec::new() }
    }
}

fn certificate(status: &Status) -> Row {
    let now = status.now();
    let left = status.certificate.seconds_left(now);
    let said = match left {
        ..=0 => status.certificate.to_string(),
        left => format!("{}, {} left", status.certificate, span(left as f64)),
    };
    let wrong = status.certificate.at(now) != Age::Good;
    Row { name: "certificate".to_owned(), wrong, said, more: Vec::new() }
}

fn http(http: &HttpStatus) -> Row {
    let open = count(http.connections, "connection", "connections");
    let mut more = Vec::new();
    let server = match (http.up, &http.last_error) {
        _ if !http.asked => format!("server {} not asked yet", http.server),
        (false, Some(error)) => format!("server {} DOWN: {error}", http.server),
        (false, None) => format!("server {} DOWN", http.server),
        (true, last) => {
            more.extend(last.iter().map(|last| format!("last error: {last}")));
            format!("server {} up", http.server)
        }
    };
    more.extend(http.tls.map(|tls| format!("TLS at {tls}")));
    let away: Vec<_> =
        http.turned_away.iter().map(|(why, count)| format!("{why} {}", HumanCount(*count))).collect();
    if !away.is_empty() {
        more.push(format!("turned away: {}", away.join(", ")));
    }
    if http.changes_lost.values().any(|count| *count > 0) {
        let lost: Vec<_> = http
            .changes_lost
            .iter()
            .map(|(outcome, count)| format!("{} {}", outcome.replace('_', " "), HumanCount(*count)))
            .collect();
        more.push(format!("changes whose link broke before the answer: {}", lost.join(", ")));
    }
    let said = format!("{open}; {server}");
    Row { name: http.listen.to_string(), wrong: !http.up, said, more }
}

fn link(link: &PeerState, now: i64, serial: u64) -> Row {
    let since = ago(now, link.since_unix_ms);
    let mut said = format!("{} for {since}", if link.up { "up" } else { "DOWN" });
    said += match link.direction {
        Direction::Dialled => ", dialled by us",
        Direction::Accepted => ", dialled by them",
    };
    if let Some(address) = link.address {
        said += &format!(", {address}");
    }
    if let (true, Some(rtt)) = (link.up, link.rtt_ms) {
        said += &format!(", round trip {rtt:.1} ms");
    }
    let mut more = Vec::new();
    if link.up && !link.bulk {
        more.push("no connection for contents yet".to_owned());
    }
    // Of what they describe otherwise the verdict tells.
    if let Some(map) = link.map.as_ref().filter(|map| !map.same_map && link.disagrees.is_empty()) {
        let which = match map.map_serial == serial {
            true => format!("of the same serial {serial}"),
            false => format!("serial {}, ours is {serial}", map.map_serial),
        };
        more.push(format!("has another map ({which}) that describes the shares alike"));
    }
    // Of a link that is down the verdict tells.
    if let (true, Some(fault)) = (link.up, &link.last_error) {
        let when = ago(now, fault.at_unix_ms);
        more.push(format!("last error, {when} ago: {}", fault.what));
    }
    Row { name: link.site.to_string(), wrong: !link.up || !link.disagrees.is_empty(), said, more }
}

fn share(share: &ShareStatus, now: i64) -> Row {
    let mut said = format!("{}, {}", share.role, share.state.as_str());
    if share.state == ShareState::Remote {
        said = format!("remote, everything is forwarded to {}", share.primary);
    } else {
        if share.role == "broadcast" {
            said += &format!(", follows {}", share.primary);
        }
        if let Some(first) = &share.map_primary {
            said += &format!(", promoted from {first}");
        }
        let (objects, bytes) = (count(share.objects, "object", "objects"), HumanBytes(share.bytes));
        let place = format!("position {}.{}", share.epoch, share.position);
        said += &format!(", {place}, {objects}, {bytes}");
    }
    let mut more = Vec::new();
    if let Some(home) = &share.home {
        at_home(home, &mut more);
    }
    if let Some(locks) = share.locks {
        more.push(kept(locks));
    }
    if let Some(copy) = &share.copy {
        at_copy(copy, share.state, &share.primary, &mut more);
    }
    for copy in &share.copies {
        // Of one that was never there nobody knows what it has.
        let known = copy.seen_unix_ms.map_or("never heard of".to_owned(), |seen| {
            let lag = lag(copy.lag_records, copy.lag_seconds, copy.debts, copy.lag_bytes);
            format!("{lag}; heard {} ago", ago(now, seen))
        });
        more.push(format!("copy at {}: {known}", copy.site));
    }
    if share.kept > 0 {
        more.push(aside(share.kept, share.copy.as_ref().map_or(0, |copy| copy.kept), &share.share));
    }
    more.extend(share.verify.as_ref().map(verified));
    more.extend(share.limits.iter().map(|limit| format!("left out: {limit}")));
    let wrong = share.wrong.is_some() || matches!(share.state, ShareState::Stopped | ShareState::CutOff);
    Row { name: share.share.to_string(), wrong, said, more }
}

fn kept(locks: usize) -> String {
    let said = count(locks as u64, "lock kept", "locks kept");
    if locks < LOCKS_MAX { said } else { said + ", as many as there may be: one more is refused" }
}

/// `new` of it was moved there since the start.
fn aside(many: u64, new: u64, share: &ShareId) -> String {
    let most = if many < COUNTED_MAX { "" } else { " or more" };
    let new = if new > 0 { format!(" ({} since the start)", HumanCount(new)) } else { String::new() };
    format!("{}{most} kept aside{new}: `nearshare kept {share}` lists them", HumanCount(many))
}

fn verified(report: &verify::Report) -> String {
    let wrong = match (report.all_wrong(), report.repaired) {
        (wrong, 0) => format!("{} wrong", HumanCount(wrong)),
        (wrong, right) => format!("{} wrong, {} put right", HumanCount(wrong), HumanCount(right)),
    };
    let (objects, bytes) = (HumanCount(report.objects), HumanBytes(report.bytes));
    if report.running {
        let (of, rate) = (HumanCount(report.expected), HumanBytes(report.bytes_per_second));
        let left = left("about", report.seconds_left as f64);
        return format!("verifying: {objects} of {of} objects, {bytes}, {rate}/s{left}; {wrong}");
    }
    let why = report.stopped.as_ref().map(|why| format!(" of {}; {why}", HumanCount(report.expected)));
    format!("verified: {objects} objects, {bytes}; {wrong}{}", why.unwrap_or_default())
}

fn at_home(home: &notice::Standing, more: &mut Vec<String>) {
    if let Some(scan) = &home.scan {
        let first = if scan.first { "first scan" } else { "scan" };
        let entries = count(scan.entries, "entry", "entries");
        let files = count(scan.files, "file", "files");
        let mut line = format!("{first}: {entries}, {files} read");
        line += &format!(" ({}), {:.0} entries/s", HumanBytes(scan.bytes), scan.entries_per_second);
        // A first scan knows only what is on the whole file system, other directories included.
        more.push(line + &left(if scan.first { "at most" } else { "about" }, scan.seconds_left));
    }
    more.push(match (home.outside.by, &home.outside.why) {
        (By::Fanotify, _) => "changes behind nearshare: noticed at once (fanotify)".to_owned(),
        (By::Scan, None) => "changes behind nearshare: noticed by scans".to_owned(),
        (By::Scan, Some(why)) => format!("changes behind nearshare: noticed by scans only: {why}"),
    });
    if home.marks > 0 {
        more.push(count(home.marks as u64, "change", "changes") + " being looked at");
    }
    if home.undurable > 0 {
        more.push(count(home.undurable as u64, "change", "changes") + " waiting for other sites");
    }
    if home.suspects > 0 {
        more.push(format!(
            "{} in doubt, for lack of the server's answer: {}; `nearshare believe` ends that",
            count(home.suspects as u64, "place", "places"),
            home.suspected.join(", ")
        ));
    }
    for Unread { place, why, seconds, fix } in &home.unread_first {
        let since = span(*seconds);
        more.push(format!(
            "not read for {since}, copies have it as before: {place}: {why}; to do: {fix}"
        ));
    }
    if let left @ 1.. = home.unread - home.unread_first.len() {
        more.push(format!("not read, and copies have them as before: {} more", HumanCount(left as u64)));
    }
}

fn at_copy(copy: &follow::Progress, state: ShareState, primary: &SiteId, more: &mut Vec<String>) {
    let lag = match (copy.confirmed, copy.lag_records) {
        // It has no history yet that it could be behind of.
        (false, 0) => "not complete yet".to_owned() + &to_come(copy.debts, copy.debt_bytes),
        (_, records) => lag(records, copy.lag_seconds, copy.debts, copy.debt_bytes),
    };
    let known = if state == ShareState::CutOff { "when last heard of, " } else { "" };
    more.push(format!("{}: {known}{lag}", copy.doing));
    if state == ShareState::Comparing && copy.expected > 0 {
        let (compared, expected) = (HumanCount(copy.compared), HumanCount(copy.expected));
        let rate = copy.entries_per_second;
        let left = left("about", copy.seconds_left);
        more.push(format!("compared {compared} of {expected} entries, {rate:.0} entries/s{left}"));
    }
    if copy.debts > 0 && copy.bytes_per_second >= 1.0 {
        let (rate, files) = (HumanBytes(copy.bytes_per_second as u64), copy.files_per_second);
        let left = if copy.comparing { String::new() } else { left("about", copy.seconds_left) };
        more.push(format!("contents arrive at {rate}/s, {files:.0} files/s{left}"));
    }
    if copy.writes > 0 {
        let writes = count(copy.writes as u64, "write", "writes");
        more.push(format!("{writes} of this site yet to come back"));
    }
    if copy.untold > 0 {
        more.push(format!(
            "{} changed from here that {primary} cannot read, or is in doubt of, and that only it answers for: \
             `nearshare status` at {primary} says why, and what to do",
            count(copy.untold as u64, "place", "places")
        ));
    }
    if copy.suspects > 0 {
        more.push(format!(
            "{} in doubt, for lack of this site's server's answer while it led; `nearshare believe` ends that",
            count(copy.suspects as u64, "place", "places")
        ));
    }
    more.extend(copy.last_error.iter().map(|error| format!("last error: {error}")));
}

/// `1 object`, `1,200 objects`.
fn count(many: u64, one: &str, more: &str) -> String {
    format!("{} {}", HumanCount(many), if many == 1 { one } else { more })
}

/// How far a copy is behind.
fn lag(records: u64, seconds: f64, debts: u64, bytes: u64) -> String {
    let line = match records {
        0 => "has every record".to_owned(),
        many => format!("{} and {} behind", count(many, "record", "records"), span(seconds)),
    };
    line + &to_come(debts, bytes)
}

/// What of the contents is missing.
fn to_come(debts: u64, bytes: u64) -> String {
    match debts {
        0 if bytes > 0 => format!(", {} to come", HumanBytes(bytes)),
        0 => String::new(),
        many => format!(", {} ({}) to come", count(many, "content", "contents"), HumanBytes(bytes)),
    }
}

/// ", about 3 min left"; nothing when there is no guess.
fn left(how: &str, seconds: f64) -> String {
    if seconds > 0.0 { format!(", {how} {} left", span(seconds)) } else { String::new() }
}

/// From `then` to `now`, both in milliseconds, in words.
pub(super) fn ago(now: i64, then: i64) -> String {
    span(now.saturating_sub(then).max(0) as f64 / 1000.0)
}

/// A duration in words, to two digits or so.
fn span(seconds: f64) -> String {
    const MINUTE: f64 = 60.0;
    const HOUR: f64 = 60.0 * MINUTE;
    const DAY: f64 = 24.0 * HOUR;
    match seconds {
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 2.0 * MINUTE => format!("{s:.0} s"),
        s if s < 2.0 * HOUR => format!("{:.0} min", s / MINUTE),
        s if s < 2.0 * DAY => format!("{:.0} h", s / HOUR),
        s => format!("{:.0} days", s / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hq() -> SiteId {
        "hq".parse().unwrap()
    }

    #[test]
    fn what_the_primary_cannot_read_is_named_and_the_rest_counted() {
        let unread = |place: &str, why: &str| Unread {
            place: place.to_owned(),
            why: why.to_owned(),
            seconds: 61.0,
            fix: "do this",
        };
        let unread_first = vec![unread("/d/a", "no"), unread("/b", "it changes while it is read")];
        let home = notice::Standing { unread: 1002, unread_first, ..notice::Standing::default() };
        let mut lines = Vec::new();
        at_home(&home, &mut lines);
        let expected = [
            "changes behind nearshare: noticed by scans",
            "not read for 61 s, copies have it as before: /d/a: no; to do: do this",
            "not read for 61 s, copies have it as before: /b: it changes while it is read; to do: do this",
            "not read, and copies have them as before: 1,000 more",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn how_far_a_scan_is_and_how_long_it_takes() {
        let scan = |first, entries, files, bytes, entries_per_second, seconds_left| notice::Progress {
            first,
            entries,
            files,
            bytes,
            entries_per_second,
            seconds_left,
        };
        let table = [
            // Nothing is known yet.
            (scan(true, 0, 0, 0, 0.0, 0.0), "first scan: 0 entries, 0 files read (0 B), 0 entries/s"),
            (
                scan(true, 1_234_567, 1, 3 << 30, 1023.6, 7300.0),
                "first scan: 1,234,567 entries, 1 file read (3.00 GiB), 1024 entries/s, at most 2 h left",
            ),
            (
                scan(false, 1, 2048, 1536, 80.4, 3.21),
                "scan: 1 entry, 2,048 files read (1.50 KiB), 80 entries/s, about 3.2 s left",
            ),
        ];
        for (scan, line) in table {
            let mut lines = Vec::new();
            at_home(&notice::Standing { scan: Some(scan), ..Default::default() }, &mut lines);
            assert_eq!(lines, [line, "changes behind nearshare: noticed by scans"]);
        }
    }

    #[test]
    fn how_changes_behind_nearshare_are_noticed_and_why_not_at_once() {
        let said = |by, why: Option<&str>| {
            let outside = notice::Outside { by, why: why.map(str::to_owned) };
            let mut lines = Vec::new();
            at_home(&notice::Standing { outside, ..Default::default() }, &mut lines);
            lines
        };
        assert_eq!(said(By::Fanotify, None), ["changes behind nearshare: noticed at once (fanotify)"]);
        let why = said(By::Scan, Some("no right; run it as root"));
        assert_eq!(why, ["changes behind nearshare: noticed by scans only: no right; run it as root"]);
    }

    #[test]
    fn a_full_table_of_locks_is_told() {
        assert_eq!(kept(1), "1 lock kept");
        assert_eq!(kept(LOCKS_MAX - 1), "9,999 locks kept");
        assert_eq!(kept(LOCKS_MAX), "10,000 locks kept, as many as there may be: one more is refused");
    }

    #[test]
    fn spans_are_short() {
        let table = [
            (0.04, "0.0 s"),
            (3.21, "3.2 s"),
            (9.97, "10 s"),
            (119.0, "119 s"),
            (120.0, "2 min"),
            (7200.0, "2 h"),
            (172_800.0, "2 days"),
        ];
        for (seconds, words) in table {
            assert_eq!(span(seconds), words);
        }
        // A clock that was set back.
        assert_eq!(ago(1, 5), "0.0 s");
    }

    #[test]
    fn a_copy_says_what_it_does_and_how_long_it_takes() {
        let copy = follow::Progress {
            doing: "comparing",
            comparing: true,
            compared: 10,
            expected: 4000,
            debts: 3,
            debt_bytes: 1 << 20,
            entries_per_second: 7.8,
            files_per_second: 3.0,
            bytes_per_second: 2048.0,
            seconds_left: 512.0,
            writes: 1,
            untold: 2,
            kept: 2,
            last_error: Some("no room".into()),
            ..follow::Progress::default()
        };
        let mut lines = Vec::new();
        at_copy(&copy, ShareState::Comparing, &hq(), &mut lines);
        let expected = [
            "comparing: not complete yet, 3 contents (1.00 MiB) to come",
            "compared 10 of 4,000 entries, 8 entries/s, about 9 min left",
            "contents arrive at 2.00 KiB/s, 3 files/s",
            "1 write of this site yet to come back",
            "2 places changed from here that hq cannot read, or is in doubt of, and that only it answers for: \
             `nearshare status` at hq says why, and what to do",
            "last error: no room",
        ];
        assert_eq!(lines, expected);
        lines.clear();
        at_copy(&follow::Progress { comparing: false, ..copy }, ShareState::Filling, &hq(), &mut lines);
        assert_eq!(lines[1], "contents arrive at 2.00 KiB/s, 3 files/s, about 9 min left");
    }

    #[test]
    fn the_door_says_whom_it_turned_away() {
        let door = HttpStatus {
            listen: "127.0.0.1:80".parse().unwrap(),
            server: "embedded".into(),
            asked: true,
            up: true,
            last_error: None,
            tls: Some("127.0.0.1:443".parse().unwrap()),
            connections: 1000,
            turned_away: [("malformed", 3), ("rate", 1200)].into(),
            changes_lost: [("answered", 1), ("not_begun", 0), ("unknown", 1000)].into(),
        };
        let row = http(&door);
        assert_eq!(row.said, "1,000 connections; server embedded up");
        let more = [
            "TLS at 127.0.0.1:443",
            "turned away: malformed 3, rate 1,200",
            "changes whose link broke before the answer: answered 1, not begun 0, unknown 1,000",
        ];
        assert_eq!(row.more, more);
        let none = [("answered", 0), ("not_begun", 0), ("unknown", 0)].into();
        let row =
            http(&HttpStatus { tls: None, turned_away: Default::default(), changes_lost: none, ..door });
        assert!(row.more.is_empty() && !row.wrong);
    }

    #[test]
    fn a_server_is_not_called_up_before_it_was_asked() {
        let door = HttpStatus {
            listen: "127.0.0.1:80".parse().unwrap(),
            server: "http://127.0.0.1:8080".into(),
            asked: false,
            up: true,
            last_error: None,
            tls: None,
            connections: 0,
            turned_away: Default::default(),
            changes_lost: Default::default(),
        };
        let row = http(&door);
        assert_eq!(row.said, "0 connections; server http://127.0.0.1:8080 not asked yet");
        assert!(!row.wrong);
    }

    #[test]
    fn a_cut_off_copy_does_not_claim_to_be_current() {
        let copy = follow::Progress { doing: "waiting", confirmed: true, ..follow::Progress::default() };
        let mut lines = Vec::new();
        at_copy(&copy, ShareState::CutOff, &hq(), &mut lines);
        assert_eq!(lines, ["waiting: when last heard of, has every record"]);
    }

    #[test]
    fn a_lag_says_records_seconds_and_bytes() {
        assert_eq!(lag(0, 0.0, 0, 0), "has every record");
        assert_eq!(lag(0, 0.0, 2, 2048), "has every record, 2 contents (2.00 KiB) to come");
        assert_eq!(lag(1200, 3.0, 0, 0), "1,200 records and 3.0 s behind");
        // Cut off: it has not even heard of the contents it lacks.
        assert_eq!(lag(1, 3.0, 0, 4096), "1 record and 3.0 s behind, 4.00 KiB to come");
        assert_eq!(lag(0, 0.0, 1, 1), "has every record, 1 content (1 B) to come");
    }
}
