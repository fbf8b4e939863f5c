//! House rules that no compiler keeps. Each test says what to do about what it finds.

#![allow(clippy::unwrap_used)]

#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use source::{Source, find_all};

/// Rooms by rank: a room imports only from rooms of a lower number (ARCHITECTURE.md, "Rooms").
const RANKS: &[(&str, u32)] = &[
    ("main", 13),
    ("sim", 13),
    ("cli", 12),
    ("serve", 11),
    ("admin", 10),
    ("door", 9),
    ("relay", 8),
    ("notice", 7),
    ("follow", 7),
    ("link", 6),
    ("server", 6),
    ("embedded", 6),
    ("verify", 6),
    ("catalog", 5),
    ("tree", 5),
    ("hold", 4),
    ("route", 3),
    ("wire", 2),
    ("map", 2),
    ("object", 1),
    ("effect", 1),
    ("body", 1),
    ("clock", 0),
    ("plant", 0),
    ("seeds", 0),
    ("work", 0),
    ("socket", 0),
    ("hash", 1),
    ("id", 0),
];

/// Rooms that know no socket, file, clock or runtime.
const PURE: &[&str] = &["id", "object", "effect", "map", "wire", "route", "hold"];

/// Paths that a pure room must not name, by their beginning.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "hyper_util",
    "socket2",
    "rustix",
    "libc",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::os::unix::net",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
];

/// The only files with `unsafe`; each block has its argument beside it (clippy sees to that).
const UNSAFE: &[&str] = &[
    "src/tree/fanotify.rs",
    "src/tree/handle.rs",
    "src/link/pace.rs",
    "src/tree/tests/mounts.rs",
    "src/work/single.rs",
];

const FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 80;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the repository, relative to it.
fn files() -> Vec<String> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        const SKIPPED: &[&str] = &[".git", "target", "corpus", "artifacts"];
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if SKIPPED.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(root(), &mut found);
    let mut names: Vec<String> = found
        .iter()
        .map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn sources(prefixes: &[&str]) -> Vec<Source> {
    let names = files().into_iter().filter(|name| name.ends_with(".rs"));
    let names = names.filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    names.map(|name| Source::read(root(), &name)).collect()
}

fn room(file: &str) -> &str {
    let below = file.strip_prefix("src/").unwrap_or(file);
    below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
}

fn rank(room: &str) -> Option<u32> {
    RANKS.iter().find(|(name, _)| *name == room).map(|(_, rank)| *rank)
}

fn report(what_to_do: &str, mut mistakes: Vec<String>) {
    mistakes.sort();
    mistakes.dedup();
    assert!(mistakes.is_empty(), "{what_to_do}\n{}\n", mistakes.join("\n"));
}

/// Rooms that `source` names, with where: `crate::x`, `nearshare::x`, or enough `super::`.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for named in source.paths() {
        let parts = &named.parts;
        let supers = parts.iter().take_while(|part| *part == "super").count();
        let room = match parts[0].as_str() {
            "crate" | "nearshare" => parts.get(1),
            "super" if supers >= source.depth(named.at) => parts.get(supers),
            _ => None,
        };
        if let Some(room) = room {
            found.push((named.at, room.clone()));
        }
    }
    found
}

#[test]
fn imports_go_down() {
    let mut mistakes = Vec::new();
    for source in sources(&["src/"]) {
        let own = room(&source.name);
        if own == "lib" {
            continue;
        }
        let Some(own_rank) = rank(own) else {
            mistakes.push(format!("{}: the room `{own}` has no rank in tests/tidy.rs", source.name));
            continue;
        };
        for (at, other) in imports(&source) {
            let place = source.place(at);
            match rank(&other) {
                _ if other == own => {}
                Some(below) if below < own_rank => {}
                Some(above) => mistakes
                    .push(format!("{place}: `{own}` ({own_rank}) imports from `{other}` ({above})")),
                None => mistakes.push(format!("{place}: `{other}` is no room")),
            }
        }
    }
    report("A room imports from lower ranks only; a shared trait belongs in the lower room:", mistakes);
}

#[test]
fn pure_rooms_touch_nothing() {
    let mut mistakes = Vec::new();
    let test_files = test_files();
    for source in sources(&["src/"]) {
        if !PURE.contains(&room(&source.name)) || test_files.contains(&source.name) {
            continue;
        }
        for named in source.paths() {
            let path = named.parts.join("::");
            let impure = IMPURE.iter().any(|ban| {
                path.strip_prefix(ban).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            });
            if impure && !source.in_test(named.at) {
                mistakes.push(format!("{}: {path}", source.place(named.at)));
            }
        }
    }
    report("A pure room is handed what it needs (bytes, `now`), it fetches nothing:", mistakes);
}

/// Files of modules that are declared with `#[cfg(test)] mod x;`.
fn test_files() -> BTreeSet<String> {
    let sources = sources(&["src/"]);
    let modules: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    let below = |name: &str| {
        modules.iter().any(|module| {
            name.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        })
    };
    sources.iter().map(|source| source.name.clone()).filter(|name| below(name)).collect()
}

#[test]
fn files_and_functions_are_short() {
    let mut mistakes = Vec::new();
    for source in sources(&["src/", "tests/", "bench/", "fuzz/"]) {
        let lines: Vec<&str> = source.text.lines().collect();
        let excused = |range: std::ops::Range<usize>| {
            lines[range].iter().any(|line| line.trim_start().starts_with("// long: "))
        };
        if lines.len() > FILE_LINES && !excused(0..40) {
            mistakes.push(format!("{}: {} lines", source.name, lines.len()));
        }
        for function in source.functions() {
            let first = source.line(function.span.start);
            let last = source.line(function.span.end - 1);
            if last + 1 - first > FUNCTION_LINES && !excused(first.saturating_sub(8)..last) {
                let length = last + 1 - first;
                mistakes.push(format!("{}:{first}: fn {}: {length} lines", source.name, function.name));
            }
        }
    }
    report(
        "Files have at most 800 lines, functions 80. Split by what they are about, or say why not \
         with a comment `// long: reason` (at the file's head, or at the function):",
        mistakes,
    );
}

#[test]
fn unsafe_stays_where_it_is_named() {
    let mut mistakes = Vec::new();
    for source in sources(&["src/", "tests/", "bench/", "fuzz/"]) {
        let found = source.words("unsafe");
        if UNSAFE.contains(&source.name.as_str()) {
            continue;
        }
        mistakes.extend(found.into_iter().map(|at| source.place(at)));
    }
    report("`unsafe` is allowed only in the files that tests/tidy.rs names:", mistakes);
}

/// Rooms of which all that is decided in the simulation follows from a seed.
const SIMULATED: &[&str] = &["notice", "follow", "relay", "hold", "catalog", "tree", "work", "sim"];

#[test]
fn what_the_simulation_runs_leaves_nothing_to_chance() {
    let mut mistakes = Vec::new();
    let test_files = test_files();
    for source in sources(&["src/"]) {
        if !SIMULATED.contains(&room(&source.name)) && source.name != "src/serve/lead.rs"
            || test_files.contains(&source.name)
        {
            continue;
        }
        for at in find_all(&source.code, b"select! {").filter(|at| !source.in_test(*at)) {
            if !source.text[at + "select! {".len()..].trim_start().starts_with("biased;") {
                mistakes.push(source.place(at));
            }
        }
    }
    report(
        "tokio picks the branch by chance, and no seed replays that; begin with `biased;`:",
        mistakes,
    );
}

#[test]
fn nothing_panics_without_a_proof() {
    let mut mistakes = Vec::new();
    let test_files = test_files();
    for source in sources(&["src/"]) {
        if test_files.contains(&source.name) {
            continue;
        }
        for banned in [".unwrap()", ".unwrap_err()", ".expect_err("] {
            let found = find_all(&source.code, banned.as_bytes()).filter(|at| !source.in_test(*at));
            mistakes.extend(found.map(|at| format!("{}: {banned}", source.place(at))));
        }
        let expects = find_all(&source.code, b".expect(").filter(|at| !source.in_test(*at));
        for at in expects {
            let argument = source.text[at + ".expect(".len()..].trim_start();
            let message = argument.strip_prefix('"').and_then(|rest| rest.split('"').next());
            let proof = message.is_some_and(|message| {
                message.starts_with(|c: char| c.is_lowercase() || c.is_ascii_digit())
                    && message.split_whitespace().count() >= 3
            });
            if !proof {
                mistakes.push(format!("{}: .expect({:?})", source.place(at), message.unwrap_or("?")));
            }
        }
    }
    report(
        "Outside tests there is no unwrap, and an expect says why it cannot fail, in three lower-case \
         words or more (\"a SHA-256 hash is 32 bytes long\"):",
        mistakes,
    );
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here so that this file does not hold them.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!"),
        concat!("unimplemented", "!"),
        concat!("#[ig", "nore"),
        concat!("place", "holder"),
        concat!("for ", "now"),
        concat!("DESIGN", ".md"),
        concat!("CONSISTENCY", ".md"),
        concat!("REQUIREMENTS", ".md"),
    ];
    let mut mistakes = Vec::new();
    for name in files() {
        let Ok(text) = std::fs::read_to_string(root().join(&name)) else { continue };
        for (number, line) in text.lines().enumerate() {
            for word in words {
                if stands_alone(line, word) {
                    mistakes.push(format!("{name}:{}: {word}", number + 1));
                }
            }
        }
    }
    report("Finish it, or leave it out; and refer to ARCHITECTURE.md:", mistakes);
}

fn stands_alone(line: &str, word: &str) -> bool {
    let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let ends_in_letter = letter(word.chars().next_back());
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !(letter(before) || ends_in_letter && letter(after))
    })
}

#[test]
fn every_room_says_what_it_is() {
    let sources = sources(&["src/"]);
    let heads = sources
        .iter()
        .filter(|source| source.name.ends_with("/mod.rs") || source.name.matches('/').count() == 1);
    let bare = heads.filter(|source| !source.text.starts_with("//!"));
    report(
        "A room begins with what it is, and what is not here (//!):",
        bare.map(|source| source.name.clone()).collect(),
    );
}

#[test]
fn rules_in_comments_can_be_looked_up() {
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut mistakes = Vec::new();
    for source in sources(&["src/", "tests/", "bench/"]) {
        for (number, line) in source.text.lines().enumerate() {
            for rule in rules(line) {
                if !architecture.contains(&format!("**{rule} ")) {
                    mistakes.push(format!("{}:{}: {rule}", source.name, number + 1));
                }
            }
        }
    }
    report("ARCHITECTURE.md, \"Rules\", has no such rule:", mistakes);
}

/// `R17` and the like in a line.
fn rules(line: &str) -> Vec<&str> {
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let rule = |part: &&str| {
        part.strip_prefix('R')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    line.split(word).filter(rule).collect()
}

#[test]
fn the_architecture_lists_the_ranks() {
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let row = |name: &str, rank: u32| {
        architecture.lines().any(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            cells.len() > 2
                && cells[1].split(", ").any(|cell| cell == format!("`{name}`"))
                && cells[2] == rank.to_string()
        })
    };
    let built = files();
    let exists = |name: &str| {
        built
            .iter()
            .any(|file| file == &format!("src/{name}.rs") || file == &format!("src/{name}/mod.rs"))
    };
    let missing = RANKS.iter().filter(|(name, rank)| exists(name) && !row(name, *rank));
    report(
        "The table of rooms in ARCHITECTURE.md differs from the ranks in tests/tidy.rs:",
        missing.map(|(name, rank)| format!("{name} {rank}")).collect(),
    );
}

#[test]
fn the_architecture_lists_the_benches_and_their_limits() {
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut mistakes = Vec::new();
    for file in files().iter().filter(|file| file.starts_with("bench/") && !file.contains('.')) {
        let row = format!("| `{file}` |");
        let Some(row) = architecture.lines().find(|line| line.starts_with(&row)) else {
            mistakes.push(format!("{file}: no row"));
            continue;
        };
        let words: Vec<&str> = row.split([' ', ';', ',']).collect();
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let single = text.lines().filter(|line| line.trim().starts_with("limit \""));
        let single = single.filter_map(|line| line.rsplit_once(' ').map(|(_, limit)| limit));
        // Or rows of their own: phase, what it is, factor, round trips.
        let table = text.split_once("<<LIMITS\n").and_then(|(_, rest)| rest.split_once("LIMITS\n"));
        let table = table.map_or("", |(table, _)| table).lines();
        let limits = single.chain(table.flat_map(|line| line.split('|').skip(2)));
        mistakes.extend(
            limits.filter(|limit| !words.contains(limit)).map(|limit| format!("{file}: no {limit}")),
        );
    }
    report("The table of benches in ARCHITECTURE.md differs from bench/:", mistakes);
}

#[test]
fn the_readme_is_what_is_built_and_run() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let rust_version = manifest["package"]["rust-version"].as_str().unwrap();
    assert!(
        readme.contains(&format!("Rust {rust_version} or newer")),
        "README.md must say `Rust {rust_version} or newer`, as rust-version in Cargo.toml does"
    );

    let block = readme.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let commands: Vec<&str> = block
        .lines()
        .map(|line| line.split('#').next().unwrap_or("").trim())
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(commands.len(), 2, "the first `sh` block of README.md holds the two commands");
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    let called: Vec<&str> =
        ci.lines().filter_map(|line| line.split_once(" -- ")).map(|(_, c)| c).collect();
    for command in commands {
        assert!(called.contains(&command), ".ci/run has no stage that calls `{command}`: {called:?}");
    }
}

/// The reader of Rust above decides what the other tests see, so it is tested itself.
#[test]
fn the_reader_reads_rust() {
    let text = r##"
use crate::{id::{Seq, Gen as G}, object};
use super::link;
fn long<'a>(x: &'a str) -> [u8; 3] { let c = '{'; let s = "} // crate::door"; [0; 3] }
/* crate::cli */ const R: &str = r#"crate::serve " "#;
#[cfg(test)]
mod tests { use super::*; use super::super::relay; fn f() { y.unwrap() } }
#[cfg(test)]
pub(crate) mod storm;
"##;
    let source = Source::parse("src/tree/mod.rs", text.to_owned());
    let found: Vec<String> = imports(&source).into_iter().map(|(_, room)| room).collect();
    assert_eq!(found, ["id", "id", "object", "link", "relay"]);
    let functions: Vec<String> = source.functions().into_iter().map(|f| f.name).collect();
    assert_eq!(functions, ["long", "f"]);
    assert!(source.in_test(text.find("unwrap").unwrap()));
    assert!(!source.in_test(text.find("long").unwrap()));
    assert_eq!(source.test_modules(), ["src/tree/storm"]);
}
