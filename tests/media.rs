//! Players of streaming media at every site, while what they play is made at one: nobody ever gets a mixture of
//! two versions, nor a playlist of segments that are not there.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::cluster::{Plan, Server};
use common::http::{Client, Response};

/// What the players ask, round after round, as servers of live streams see it. `NEW` is each segment that the
/// playlist has named since; `LAST` is its last byte, `TAG` the tag of the answer before, in the same file.
const LOG: [(&str, &[(&str, &str)]); 4] = [
    // AVPlayer: whether ranges are to be had, then all of it as a range.
    (
        "AppleCoreMedia",
        &[("live.m3u8", ""), ("NEW", "Range: bytes=0-1"), ("NEW", "Range: bytes=0-LAST\nIf-Range: TAG")],
    ),
    // FFmpeg: a range that is open.
    ("Lavf", &[("live.m3u8", ""), ("NEW", "Range: bytes=0-")]),
    // hls.js: the playlist if it has changed, and plain segments.
    ("hls.js", &[("live.m3u8", "If-None-Match: TAG"), ("NEW", "")]),
    // A DASH player: one file, its index at the end, then piece by piece as long as it is the same.
    (
        "shaka",
        &[
            ("all.mp4", "Range: bytes=-1600"),
            ("all.mp4", "Range: bytes=0-99999\nIf-Range: TAG"),
            ("all.mp4", "Range: bytes=100000-199999\nIf-Range: TAG"),
            ("all.mp4", "Range: bytes=0-15,200000-200015\nIf-Range: TAG"),
        ],
    ),
];

/// Segments that a playlist names.
const WINDOW: usize = 5;

/// Every 16 bytes say which version they are of, and where they are.
fn content(version: usize) -> Vec<u8> {
    let length = 300_000 + version % 7 * 16;
    (0..length / 16).flat_map(|at| format!("{version:07}:{at:07}\n").into_bytes()).collect()
}

fn playlist(last: usize) -> String {
    let first = (last + 1).saturating_sub(WINDOW);
    let segments: String = (first..=last).map(|n| format!("#EXTINF:0.2,\nsegment{n}.ts\n")).collect();
    format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n{segments}")
}

/// Asserts that the bytes are those of one version, at their place, and says which.
fn version_of(bytes: &[u8], from: usize, total: Option<usize>) -> usize {
    // The first whole block tells.
    let skip = (16 - from % 16) % 16;
    let number = std::str::from_utf8(&bytes[skip..skip + 7]).unwrap();
    let version = number.parse().unwrap_or_else(|_| panic!("{number:?}"));
    let whole = content(version);
    assert!(bytes == &whole[from..from + bytes.len()], "a mixture that begins with {version}");
    assert!(total.is_none_or(|total| total == whole.len()), "the length of another than {version}");
    version
}

/// What came of a file's bytes is of one version: which.
fn judged(answer: &Response) -> usize {
    let kind = answer.header("content-type").unwrap_or_default();
    if let Some(boundary) = kind.strip_prefix("multipart/byteranges; boundary=") {
        let text = answer.text();
        let parts: Vec<_> = text.split(&format!("--{boundary}")).collect();
        let parts = parts[1..parts.len() - 1].iter().map(|part| {
            let (head, bytes) = part.split_once("\r\n\r\n").unwrap();
            let range = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-range: ").map(str::to_owned));
            let (from, total) = range_of(&range.unwrap());
            version_of(bytes.trim_end_matches("\r\n").as_bytes(), from, Some(total))
        });
        let versions: Vec<_> = parts.collect();
        assert!(versions.len() == 2 && versions[0] == versions[1], "{versions:?}");
        return versions[0];
    }
    let (from, total) = answer.header("content-range").map_or((0, None), |range| {
        let (from, total) = range_of(range);
        (from, Some(total))
    });
    if answer.status == 200 {
        return version_of(&answer.body, 0, Some(answer.body.len()));
    }
    if answer.body.len() < 16 {
        assert_eq!((&*answer.body, from), (&b"00"[..], 0));
        return usize::MAX;
    }
    version_of(&answer.body, from, total)
}

fn range_of(field: &str) -> (usize, usize) {
    let (range, total) = field.strip_prefix("bytes ").unwrap().split_once('/').unwrap();
    (range.split('-').next().unwrap().parse().unwrap(), total.trim().parse().unwrap())
}

#[derive(Default)]
struct Seen {
    playlists: usize,
    kept: usize,
    whole: usize,
    parts: usize,
    again: usize,
}

struct Player {
    client: Client,
    /// By file: the tag of what came of it last, and its version.
    tags: HashMap<String, (String, usize)>,
    seen: Seen,
}

impl Player {
    fn ask(&mut self, file: &str, fields: &str) -> Response {
        let tag = self.tags.remove(file);
        let length = content(tag.as_ref().map_or(0, |(_, version)| *version)).len();
        let fields: Vec<(&str, String)> = fields
            .lines()
            .map(|line| line.split_once(": ").unwrap())
            .filter(|(_, value)| *value != "TAG" || tag.is_some())
            .map(|(name, value)| {
                let tag = tag.as_ref().map_or("", |(tag, _)| tag);
                (name, value.replace("LAST", &(length - 1).to_string()).replace("TAG", tag))
            })
            .collect();
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, &**value)).collect();
        let answer = loop {
            let answer = self.client.send("GET", &format!("/docs/live/{file}"), &fields, b"").unwrap();
            if answer.status != 503 {
                break answer;
            }
            self.seen.again += 1;
            std::thread::sleep(Duration::from_millis(20));
        };
        if file.ends_with(".m3u8") {
            let many = if answer.status == 304 { &mut self.seen.kept } else { &mut self.seen.playlists };
            *many += 1;
            self.tags.extend(answer.header("etag").map(|tag| (file.to_owned(), (tag.to_owned(), 0))));
            return answer.expect(&[200, 304]);
        }
        let for_a_part = fields.iter().any(|(name, _)| *name == "Range");
        let answer = answer.expect(if for_a_part { &[200, 206] } else { &[200] });
        self.note(file, &answer, tag);
        answer
    }

    /// A part of what is had already is of the same version, and so is all that has its tag.
    fn note(&mut self, file: &str, answer: &Response, before: Option<(String, usize)>) {
        let version = judged(answer);
        let many = if answer.status == 206 { &mut self.seen.parts } else { &mut self.seen.whole };
        *many += 1;
        // Two bytes do not tell.
        let version = if version == usize::MAX { segment(file).unwrap() } else { version };
        assert!(segment(file).is_none_or(|segment| segment == version), "{file} is {version}");
        let Some(tag) = answer.header("etag") else { return };
        if let Some((known, before)) = before {
            assert!(known != tag || before == version, "{file} {tag}: {before} and {version}");
        }
        self.tags.insert(file.to_owned(), (tag.to_owned(), version));
    }
}

/// One player, until `stop`.
fn play(client: Client, lines: &[(&str, &str)], stop: &AtomicBool, begun: &AtomicUsize) -> Seen {
    let mut player = Player { client, tags: HashMap::new(), seen: Seen::default() };
    let (mut next, mut newest, mut playlist_now) = (None, 0, String::new());
    while !stop.load(Ordering::Relaxed) {
        // They play, and ask now and then.
        std::thread::sleep(Duration::from_millis(20));
        let mut fresh: Vec<String> = Vec::new();
        for (file, fields) in lines {
            if *file == "NEW" {
                for segment in &fresh {
                    player.ask(segment, fields);
                }
                continue;
            }
            // What has been answered before this is asked must be there.
            let least = begun.load(Ordering::SeqCst);
            let answer = player.ask(file, fields);
            if !file.ends_with(".m3u8") {
                continue;
            }
            if answer.status == 200 {
                playlist_now = answer.text();
            }
            let last = playlist_now.lines().last().and_then(segment).unwrap();
            assert_eq!(playlist_now, playlist(last), "a mixture of playlists");
            assert!(last >= least.max(newest), "playlist {last} after {least} and {newest}");
            newest = last;
            // Who is slow has missed those that are gone.
            let first = next.unwrap_or(last).max((last + 1).saturating_sub(WINDOW - 2));
            fresh = (first..=last).map(|n| format!("segment{n}.ts")).collect();
            next = Some(last + 1);
        }
    }
    player.seen
}

fn segment(name: &str) -> Option<usize> {
    name.strip_prefix("segment")?.strip_suffix(".ts")?.parse().ok()
}

#[test]
fn players_get_one_version_of_what_is_made_while_they_play() {
    let mut plan = Plan::three(Server::Nginx);
    plan.site("lyon").server = Some(Server::Embedded);
    let cluster = plan.start();
    let mut hq = cluster.primary().client();
    hq.mkcol("/docs/live/").unwrap().expect(&[201]);
    let mut make = |number: usize| {
        let segment = format!("/docs/live/segment{number}.ts");
        hq.put(&segment, &content(number)).unwrap().expect(&[201]);
        hq.put("/docs/live/live.m3u8", playlist(number).as_bytes()).unwrap().expect(&[201, 204]);
        hq.put("/docs/live/all.mp4", &content(number)).unwrap().expect(&[201, 204]);
        if let Some(old) = number.checked_sub(WINDOW * 2) {
            hq.delete(&format!("/docs/live/segment{old}.ts")).unwrap().expect(&[204]);
        }
    };
    make(0);
    cluster.settle();
    let (stop, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
    let all: Vec<(String, Seen)> = std::thread::scope(|scope| {
        let players: Vec<_> = ["hq", "osaka", "lyon"]
            .into_iter()
            .flat_map(|site| LOG.map(|(player, lines)| (site, player, lines)))
            .map(|(site, player, lines)| {
                let (client, stop, begun) = (cluster.site(site).client(), &stop, &begun);
                let run = move || (format!("{player} at {site}"), play(client, lines, stop, begun));
                (player, scope.spawn(run))
            })
            .collect();
        for number in 1..25 {
            make(number);
            begun.store(number, Ordering::SeqCst);
            // Now and then it rests for long enough that copies answer by themselves.
            std::thread::sleep(Duration::from_millis(if number % 8 == 0 { 1500 } else { 100 }));
        }
        stop.store(true, Ordering::Relaxed);
        players.into_iter().map(|(_, player)| player.join().unwrap()).collect()
    });
    for (name, seen) in all {
        let Seen { playlists, kept, whole, parts, again } = seen;
        println!(
            "{name}: {playlists} playlists, {kept} kept, {whole} whole, {parts} parts, {again} again"
        );
        let enough = match name.split(' ').next().unwrap() {
            "AppleCoreMedia" => playlists > 10 && parts > 20,
            "Lavf" => playlists > 10 && parts > 10,
            "hls.js" => playlists > 10 && kept > 5 && whole > 10,
            _ => parts > 20,
        };
        assert!(enough, "{name}");
    }
    cluster.settle();
}
