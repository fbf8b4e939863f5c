//! Walks the TOML of a map and notes every mistake on the way: [`Reader`] for one table and its
//! keys, [`read`] for the whole text.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::near::nearest;
use super::rules::{self, Facts};
use super::value::{self, Checked, shown, wrong_type};
use super::{Map, Mistake, Need, Reading, SHARES_MAX, SITES_MAX, TEXT_MAX};

/// See [`super::read()`].
pub(super) fn read(text: &str) -> Reading {
    if text.len() > TEXT_MAX {
        let what = format!("the map is {} bytes long", text.len());
        let right = format!("write one of at most {TEXT_MAX}");
        return Reading {
            mistakes: vec![Mistake { line: 1, column: 1, what, right }],
            map: None,
            needs: vec![],
        };
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader::default();
    let root = Section { table: table.get_ref(), at: 0, title: "the map".to_owned() };
    let map = reader.root(&root, text);
    let Reader { mut found, facts } = reader;
    found.extend(rules::check(&facts));
    if !errors.is_empty() {
        keep_what_can_be_trusted(&mut found, text, &errors);
        found.extend(errors.iter().map(syntax));
    }
    let mut scan = Scan::new(text);
    found.sort_by(|a, b| (a.at, &a.what).cmp(&(b.at, &b.what)));
    found.dedup_by(|a, b| a.at == b.at && a.what == b.what);
    let mistakes: Vec<Mistake> = found.into_iter().map(|found| found.located(&mut scan)).collect();
    let map = if mistakes.is_empty() { map } else { None };
    Reading { mistakes, map, needs: located_needs(facts.needs, text) }
}

/// A mistake before its place is known as line and column.
pub(super) struct Found {
    /// Byte offset into the text.
    pub(super) at: usize,
    pub(super) what: String,
    pub(super) right: String,
    /// Something that is not there is wrong. In a text with syntax errors it may be there.
    pub(super) absent: bool,
}

impl Found {
    fn located(self, scan: &mut Scan<'_>) -> Mistake {
        let (line, column) = scan.to(self.at).line_column();
        Mistake { line, column, what: self.what, right: self.right }
    }
}

/// A checked value and the byte offset where it stands.
#[derive(Clone)]
pub(super) struct At<T> {
    pub(super) at: usize,
    pub(super) it: T,
}

/// One table of the map.
pub(super) struct Section<'t> {
    pub(super) table: &'t DeTable<'t>,
    /// Where its name stands: what it lacks is reported there.
    pub(super) at: usize,
    /// As messages call it: `[site.hq]`.
    pub(super) title: String,
}

impl<'t> Section<'t> {
    /// The key as spelled, where it stands, and its value.
    pub(super) fn entry(&self, key: &str) -> Option<(usize, &'t Spanned<DeValue<'t>>)> {
        let (key, value) = self.table.get_key_value(key)?;
        Some((key.span().start, value))
    }

    /// All entries, in the order of the text.
    pub(super) fn entries(&self) -> Vec<(At<&'t str>, &'t Spanned<DeValue<'t>>)> {
        let entries = self.table.iter();
        let mut entries: Vec<_> = entries
            .map(|(key, value)| (At { at: key.span().start, it: key.get_ref().as_ref() }, value))
            .collect();
        entries.sort_by_key(|(key, _)| key.at);
        entries
    }
}

/// The walk: what is wrong so far, and what the rules across tables need to know.
#[derive(Default)]
pub(super) struct Reader<'t> {
    pub(super) found: Vec<Found>,
    pub(super) facts: Facts<'t>,
}

impl<'t> Reader<'t> {
    pub(super) fn wrong(&mut self, at: usize, what: impl Into<String>, right: impl Into<String>) {
        self.found.push(Found { at, what: what.into(), right: right.into(), absent: false });
    }

    pub(super) fn absent(&mut self, at: usize, what: impl Into<String>, right: impl Into<String>) {
        self.found.push(Found { at, what: what.into(), right: right.into(), absent: true });
    }

    /// The value of `key`, if it is there and `check` likes it. Says what it does not like.
    pub(super) fn optional<T>(
        &mut self,
        section: &Section<'t>,
        key: &str,
        check: impl FnOnce(&DeValue<'_>) -> Checked<T>,
    ) -> Option<At<T>> {
        let (_, value) = section.entry(key)?;
        let at = value.span().start;
        match check(value.get_ref()) {
            Ok(it) => Some(At { at, it }),
            Err(wrong) => {
                self.wrong(at, format!("`{key}` {}", wrong.what), wrong.right);
                None
            }
        }
    }

    /// The same, and says so if it is not there. `example` is a right value, as the map would have it.
    pub(super) fn required<T>(
        &mut self,
        section: &Section<'t>,
        key: &str,
        example: &str,
        check: impl FnOnce(&DeValue<'_>) -> Checked<T>,
    ) -> Option<At<T>> {
        if section.entry(key).is_none() {
            let what = format!("{} has no `{key}`", section.title);
            self.absent(section.at, what, format!("add {key} = {example}"));
        }
        self.optional(section, key, check)
    }

    /// The table under `key`, if it is there and is one.
    pub(super) fn table(
        &mut self,
        section: &Section<'t>,
        key: &str,
        example: &str,
    ) -> Option<Section<'t>> {
        let (at, value) = section.entry(key)?;
        let title = format!("`{key}` of {}", section.title);
        self.as_table(At { at, it: key }, value, title, example)
    }

    pub(super) fn as_table(
        &mut self,
        key: At<&str>,
        value: &'t Spanned<DeValue<'t>>,
        title: String,
        example: &str,
    ) -> Option<Section<'t>> {
        if let Some(table) = value.get_ref().as_table() {
            return Some(Section { table, at: key.at, title });
        }
        if let Err(wrong) = wrong_type::<()>(value.get_ref(), "table", example) {
            let what = format!("`{}` {}", shown(key.it), wrong.what);
            self.wrong(value.span().start, what, wrong.right);
        }
        None
    }

    /// Reports every key of the section that is none of `known`.
    pub(super) fn unknown(&mut self, section: &Section<'t>, known: &[&str]) {
        self.unknown_but(section, known, &[]);
    }

    /// The same, but for `others`, of which the caller speaks.
    pub(super) fn unknown_but(&mut self, section: &Section<'t>, known: &[&str], others: &[&str]) {
        for (key, _) in section.entries() {
            if !known.contains(&key.it) && !others.contains(&key.it) {
                let what = format!("unknown key `{}` in {}", shown(key.it), section.title);
                let right = match nearest(key.it, known.iter().copied()) {
                    Some(near) => format!("the nearest known key is `{near}`"),
                    None => format!("the known keys are {}", known.join(", ")),
                };
                self.wrong(key.at, what, right);
            }
        }
    }

    fn root(&mut self, root: &Section<'t>, text: &str) -> Option<Map> {
        self.unknown(root, &["cluster", "serial", "share", "site"]);
        let serial =
            self.required(root, "serial", "1", value::count(0, "a number such as 1, without quotes"));
        let cluster = self.cluster(root);
        let sites = self.named(root, "site", SITES_MAX, "[site.hq]");
        self.facts.sites = sites.iter().map(|(key, _)| key.it).collect();
        self.facts.doors = doors(&sites);
        let sites = sites.iter().filter_map(|(key, section)| self.site(key, section, &cluster));
        let sites: BTreeMap<_, _> = sites.map(|site| (site.name.clone(), site)).collect();
        let shares = self.named(root, "share", SHARES_MAX, "[share.engineering]");
        let shares = shares.iter().filter_map(|(key, section)| self.share(key, section));
        let shares: BTreeMap<_, _> = shares.map(|share| (share.name.clone(), share)).collect();
        let hash = *blake3::hash(text.as_bytes()).as_bytes();
        Some(Map { serial: serial?.it, hash, cluster: cluster.cluster, sites, shares })
    }

    /// The tables `[site.*]` or `[share.*]`, in the order of the text, at most `most`.
    fn named(
        &mut self,
        root: &Section<'t>,
        kind: &str,
        most: usize,
        example: &str,
    ) -> Vec<(At<&'t str>, Section<'t>)> {
        let all = self.table(root, kind, &format!("a table {example}"));
        let entries = all.as_ref().map(Section::entries).unwrap_or_default();
        if entries.is_empty() && (all.is_some() || root.entry(kind).is_none()) {
            let at = all.map_or(root.at, |all| all.at);
            self.absent(at, format!("the map has no {kind}"), format!("add {example}"));
        }
        if let Some((key, _)) = entries.get(most) {
            let what = format!("the map has {} {kind}s", entries.len());
            self.wrong(key.at, what, format!("write at most {most}"));
        }
        let mut named = Vec::new();
        for (key, value) in entries.into_iter().take(most) {
            let title = format!("[{kind}.{}]", shown(key.it));
            let section = self.as_table(key.clone(), value, title, &format!("a table {example}"));
            named.extend(section.map(|section| (key, section)));
        }
        named
    }
}

/// The sites that have an HTTP door, be it a wrong one.
fn doors<'t>(sites: &[(At<&'t str>, Section<'t>)]) -> BTreeSet<&'t str> {
    let with_door = sites.iter().filter(|(_, section)| section.entry("http").is_some());
    with_door.map(|(key, _)| key.it).collect()
}

/// Drops mistakes that a syntax error may have made: things that are missing, things on its line, and
/// all that follows a broken table header.
fn keep_what_can_be_trusted(found: &mut Vec<Found>, text: &str, errors: &[toml::de::Error]) {
    let starts: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    let line = |at: usize| starts.partition_point(|start| *start <= at);
    let broken: BTreeSet<usize> = errors.iter().map(|error| line(start(error))).collect();
    let headers = errors.iter().filter(|error| error.message() != DUPLICATE).map(start).filter(|at| {
        let begin = line(*at).checked_sub(1).map_or(0, |before| starts[before]);
        text[begin..].trim_start().starts_with('[')
    });
    let trusted = headers.min().unwrap_or(text.len());
    found.retain(|found| !found.absent && found.at < trusted && !broken.contains(&line(found.at)));
}

/// What the TOML parser says of a key that is there already.
const DUPLICATE: &str = "duplicate key";

fn syntax(error: &toml::de::Error) -> Found {
    let message = error.message();
    let (what, right) = match message.split_once(", expected ") {
        Some((what, "nothing")) => (what, Cow::from("remove what is here")),
        Some((what, expected)) => (what, Cow::from(format!("TOML expects {expected} here"))),
        None if message == DUPLICATE => (message, Cow::from("keep one of them")),
        None => (message, Cow::from("write it as TOML 1.0 has it")),
    };
    // The parser's words may quote the text; a mistake is one line.
    let one_line = |text: &str| text.replace(char::is_control, " ");
    Found { at: start(error), what: one_line(what), right: one_line(&right), absent: false }
}

fn start(error: &toml::de::Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

fn located_needs(mut needs: Vec<At<Need>>, text: &str) -> Vec<Need> {
    needs.sort_by_key(|need| need.at);
    let mut scan = Scan::new(text);
    let place = |need: At<Need>| {
        let (line, column) = scan.to(need.at).line_column();
        Need { line, column, ..need.it }
    };
    needs.into_iter().map(place).collect()
}

/// Turns growing byte offsets into positions, in one pass over the text.
struct Scan<'t> {
    text: &'t str,
    at: usize,
    position: Position,
}

impl<'t> Scan<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, at: 0, position: Position::START }
    }

    /// `at` is no smaller than the last one; past the end or inside a character counts as before it.
    fn to(&mut self, at: usize) -> Position {
        let at = self.text.floor_char_boundary(at);
        self.position = self.position.after(&self.text[self.at..at]);
        self.at = at;
        self.position
    }
}

/// A place in a text, as lines and characters before it.
#[derive(Clone, Copy)]
pub(super) struct Position {
    lines: u32,
    characters: u32,
}

impl Position {
    pub(super) const START: Self = Self { lines: 0, characters: 0 };

    /// The place behind `text` that begins here. No text overflows it: the longest has
    /// [`TEXT_MAX`] bytes.
    pub(super) fn after(self, text: &str) -> Self {
        text.chars().fold(self, |place, character| match character {
            '\n' => Self { lines: place.lines + 1, characters: 0 },
            // A byte order mark takes no column in any editor.
            '\u{feff}' => place,
            _ => Self { characters: place.characters + 1, ..place },
        })
    }

    /// Both from 1.
    pub(super) fn line_column(self) -> (u32, u32) {
        (self.lines + 1, self.characters + 1)
    }
}
