//! Write locks (RFC 4918 sections 6 and 7): which there are in a share, what they keep others from, and how
//! they are told. For shares whose locks nearshare keeps itself. Not here: where they outlive the process.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use ::http::HeaderMap;

use super::if_field::{IfField, List, State};
use crate::clock::BootTime;
use crate::effect::Depth;
use crate::id::RelPath;

/// Longest that a lock lasts unless it is refreshed: somebody may never come back.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// How long one lasts whose client does not say.
const TIMEOUT_USUAL: Duration = Duration::from_secs(600);
/// Most locks of a share: every change looks at all, 10,000 in less than a millisecond.
pub const LOCKS_MAX: usize = 10_000;

/// One lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// A URI that nobody else has.
    pub token: String,
    pub path: RelPath,
    /// Everything below is locked too.
    pub deep: bool,
    pub shared: bool,
    /// An element, or nothing.
    pub owner: String,
    pub timeout: Duration,
}

impl Lock {
    fn covers(&self, path: &RelPath) -> bool {
        self.path == *path || self.deep && path.starts_with(&self.path)
    }
}

/// The Timeout field (RFC 4918 section 10.7): the first that is understood counts.
pub fn timeout(headers: &HeaderMap) -> Duration {
    let field = headers.get("timeout").and_then(|field| field.to_str().ok()).unwrap_or_default();
    let known = field.split(',').find_map(|one| match one.trim().split_once('-') {
        None if one.trim().eq_ignore_ascii_case("infinite") => Some(TIMEOUT_MAX),
        Some((word, seconds)) if word.eq_ignore_ascii_case("second") => {
            let digits = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| Duration::from_secs(seconds.parse().unwrap_or(u64::MAX)))
        }
        _ => None,
    });
    known.unwrap_or(TIMEOUT_USUAL).clamp(Duration::from_secs(1), TIMEOUT_MAX)
}

/// What a change needs to be let by locks (RFC 4918 section 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// What is at the place changes.
    Entry(RelPath),
    /// So does everything below it.
    Tree(RelPath),
    /// A name appears in the collection, or vanishes.
    Member(RelPath),
}

impl Use {
    /// The collection that has the place as a member.
    pub fn member(path: &RelPath) -> Option<Self> {
        path.split_last().map(|(above, _)| Self::Member(above))
    }
}

/// What an If field comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Judged {
    Holds,
    Fails,
    /// It depends on these entity tags, which the server knows.
    Rests(IfField),
}

/// All locks of a share.
#[derive(Debug, Default)]
pub struct Locks {
    held: BTreeMap<String, Held>,
}

#[derive(Debug)]
struct Held {
    lock: Lock,
    ends: BootTime,
}

/// Why a lock is not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// This one is in the way.
    Locked(Lock),
    TooMany,
}

impl Locks {
    /// Those that are known from an earlier run. How much of its time each has left is not, so it has all.
    pub fn new(locks: Vec<Lock>, now: BootTime) -> Self {
        let held = |lock: Lock| (lock.token.clone(), Held { ends: after(now, lock.timeout), lock });
        Self { held: locks.into_iter().map(held).collect() }
    }

    /// Forgets those whose time is over, and says which.
    pub fn expire(&mut self, now: BootTime) -> Vec<String> {
        self.forget(|held| held.ends <= now)
    }

    /// Forgets those at or below a place that is no more, and says which.
    pub fn gone(&mut self, path: &RelPath) -> Vec<String> {
        self.forget(|held| held.lock.path.starts_with(path))
    }

    fn forget(&mut self, which: impl Fn(&Held) -> bool) -> Vec<String> {
        let tokens = self.held.iter().filter(|(_, held)| which(held)).map(|(token, _)| token.clone());
        let tokens: Vec<String> = tokens.collect();
        for token in &tokens {
            self.held.remove(token);
        }
        tokens
    }

    pub fn grant(&mut self, lock: Lock, now: BootTime) -> Result<(), Denied> {
        let meets =
            |other: &Lock| other.covers(&lock.path) || lock.deep && other.path.starts_with(&lock.path);
        let mut all = self.held.values().map(|held| &held.lock);
        if let Some(other) = all.find(|other| !(lock.shared && other.shared) && meets(other)) {
            return Err(Denied::Locked(other.clone()));
        }
        if self.held.len() >= LOCKS_MAX {
            return Err(Denied::TooMany);
        }
        let ends = after(now, lock.timeout);
        self.held.insert(lock.token.clone(), Held { lock, ends });
        Ok(())
    }

    /// Gives the first lock of `tokens` that covers the place its time anew.
    pub fn refresh<'a>(
        &mut self,
        path: &RelPath,
        tokens: impl IntoIterator<Item = &'a str>,
        timeout: Duration,
        now: BootTime,
    ) -> Option<Lock> {
        for token in tokens {
            if let Some(held) = self.held.get_mut(token).filter(|held| held.lock.covers(path)) {
                held.lock.timeout = timeout;
                held.ends = after(now, timeout);
                return Some(held.lock.clone());
            }
        }
        None
    }

    pub fn count(&self) -> usize {
        self.held.len()
    }

    pub fn holds(&self, token: &str) -> bool {
        self.held.contains_key(token)
    }

    /// Ends a lock that covers the place. `None`: there is none of that token.
    pub fn release(&mut self, path: &RelPath, token: &str) -> Option<Lock> {
        self.held.get(token).filter(|held| held.lock.covers(path))?;
        self.held.remove(token).map(|held| held.lock)
    }

    /// Whether the conditions hold, as far as they are about locks. `own`: the place that the request is for.
    pub fn judge(&self, field: &IfField, own: &RelPath) -> Judged {
        let is = |token: &str, place: &RelPath| {
            self.held.get(token).is_some_and(|held| held.lock.covers(place))
        };
        let mut lists = Vec::new();
        for List { place, conditions } in &field.lists {
            let at = place.as_ref().map_or(own, |(path, _)| path);
            let fails = conditions.iter().any(|condition| match &condition.state {
                State::Token(token) => is(token, at) == condition.not,
                State::Etag(_) => false,
            });
            if fails {
                continue;
            }
            let tags = conditions.iter().filter(|condition| matches!(condition.state, State::Etag(_)));
            let conditions: Vec<_> = tags.cloned().collect();
            if conditions.is_empty() {
                return Judged::Holds;
            }
            lists.push(List { place: place.clone(), conditions });
        }
        if lists.is_empty() { Judged::Fails } else { Judged::Rests(IfField { lists }) }
    }

    /// The first lock that bars one of the uses to who has submitted these tokens. Of several shared ones on
    /// one place any will do.
    pub fn bars(&self, uses: &[Use], tokens: &[&str]) -> Option<&Lock> {
        if self.held.is_empty() {
            return None;
        }
        let all = || self.held.values().map(|held| &held.lock);
        let barred = |on: &dyn Fn(&Lock) -> bool| {
            let mut on = all().filter(|lock| on(lock)).peekable();
            let first = on.peek().copied()?;
            let may = on.any(|lock| tokens.contains(&lock.token.as_str()));
            (!may).then_some(first)
        };
        uses.iter().find_map(|one| match one {
            Use::Entry(path) | Use::Member(path) => barred(&|lock| lock.covers(path)),
            Use::Tree(path) => barred(&|lock| lock.covers(path)).or_else(|| {
                let below = |lock: &&Lock| lock.path != *path && lock.path.starts_with(path);
                all().filter(below).find_map(|lock| barred(&|other| other.path == lock.path))
            }),
        })
    }

    /// What `lockdiscovery` has for the place; `url` writes one.
    pub fn discovery(&self, path: &RelPath, now: BootTime, url: impl Fn(&RelPath) -> String) -> String {
        let covering = self.held.values().filter(|held| held.lock.covers(path));
        covering.map(|held| active(&held.lock, held.ends.since(now), &url)).collect()
    }
}

fn after(now: BootTime, timeout: Duration) -> BootTime {
    BootTime(now.0.saturating_add(timeout))
}

/// `activelock` (RFC 4918 section 14.1), where `D` stands for `DAV:`.
fn active(lock: &Lock, left: Duration, url: &impl Fn(&RelPath) -> String) -> String {
    let scope = if lock.shared { "shared" } else { "exclusive" };
    let depth = if lock.deep { "infinity" } else { "0" };
    let (owner, token, seconds, root) = (&lock.owner, &lock.token, left.as_secs(), url(&lock.path));
    format!(
        "<D:activelock><D:locktype><D:write/></D:locktype><D:lockscope><D:{scope}/></D:lockscope>\
         <D:depth>{depth}</D:depth>{owner}<D:timeout>Second-{seconds}</D:timeout><D:locktoken><D:href>\
         {token}</D:href></D:locktoken><D:lockroot><D:href>{root}</D:href></D:lockroot></D:activelock>"
    )
}

/// What `supportedlock` has.
pub const SUPPORTED: &str = "<D:lockentry><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/>\
    </D:locktype></D:lockentry><D:lockentry><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/>\
    </D:locktype></D:lockentry>";

/// The answer to a LOCK.
pub fn granted(lock: &Lock, url: impl Fn(&RelPath) -> String) -> String {
    let active = active(lock, lock.timeout, &url);
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:prop xmlns:D=\"DAV:\"><D:lockdiscovery>{active}\
         </D:lockdiscovery></D:prop>\n"
    )
}

/// The answer to who lacks a token (RFC 4918 section 16).
pub fn refused(locked: &[&str], condition: &str) -> String {
    let mut out =
        format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:error xmlns:D=\"DAV:\"><D:{condition}>");
    for url in locked {
        let _ = write!(out, "<D:href>{url}</D:href>");
    }
    let _ = writeln!(out, "</D:{condition}></D:error>");
    out
}

/// How far down a LOCK goes: `None` for a depth that it cannot have.
pub fn deep(depth: Option<Depth>) -> Option<bool> {
    match depth {
        None | Some(Depth::Tree) => Some(true),
        Some(Depth::Object) => Some(false),
        Some(Depth::Children) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;

    const NOW: BootTime = BootTime(Duration::from_secs(1000));

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    fn lock(token: &str, at: &str, deep: bool, shared: bool) -> Lock {
        let timeout = Duration::from_secs(60);
        Lock { token: token.into(), path: path(at), deep, shared, owner: String::new(), timeout }
    }

    fn field(text: &str) -> IfField {
        let place = |url: &str| Ok(Some((RelPath::parse(url.as_bytes()).unwrap(), false)));
        IfField::parse(text.as_bytes(), place).unwrap()
    }

    #[test]
    fn locks_meet_where_they_cover_the_same() {
        let free = |held: &[Lock], wanted: Lock| {
            let mut locks = Locks::new(held.to_vec(), NOW);
            match locks.grant(wanted, NOW) {
                Ok(()) => None,
                Err(Denied::Locked(other)) => Some(other.token),
                Err(Denied::TooMany) => panic!("too many"),
            }
        };
        let deep = lock("d", "/a", true, false);
        assert_eq!(
            free(std::slice::from_ref(&deep), lock("x", "/a/b/c", false, true)).as_deref(),
            Some("d")
        );
        assert_eq!(free(std::slice::from_ref(&deep), lock("x", "/", true, false)).as_deref(), Some("d"));
        assert_eq!(free(std::slice::from_ref(&deep), lock("x", "/", false, false)), None);
        assert_eq!(free(&[deep], lock("x", "/ab", true, false)), None);
        let flat = lock("f", "/a", false, true);
        assert_eq!(free(std::slice::from_ref(&flat), lock("x", "/a/b", false, false)), None);
        assert_eq!(free(std::slice::from_ref(&flat), lock("x", "/a", false, true)), None);
        assert_eq!(free(&[flat], lock("x", "/a", false, false)).as_deref(), Some("f"));
        let many =
            (0..LOCKS_MAX).map(|n| lock(&n.to_string(), &format!("/{n}"), false, false)).collect();
        assert_eq!(
            Locks::new(many, NOW).grant(lock("x", "/x", false, false), NOW),
            Err(Denied::TooMany)
        );
    }

    #[test]
    fn who_lacks_the_token_is_barred() {
        let held = vec![
            lock("dir", "/d", false, false),
            lock("deep", "/t", true, false),
            lock("one", "/s/f", false, true),
            lock("two", "/s/f", false, true),
            lock("f", "/f", false, false),
        ];
        let locks = Locks::new(held, NOW);
        let bars =
            |uses: &[Use], tokens: &[&str]| locks.bars(uses, tokens).map(|lock| lock.token.clone());
        let entry = |at: &str| vec![Use::Entry(path(at))];
        let tree = |at: &str| vec![Use::Tree(path(at))];
        for (uses, tokens, want) in [
            (entry("/f"), vec![], Some("f")),
            (entry("/f"), vec!["f"], None),
            (entry("/f"), vec!["dir"], Some("f")),
            (entry("/g"), vec![], None),
            // A collection alone: its members may change, and not become more or fewer.
            (entry("/d/x"), vec![], None),
            (vec![Use::member(&path("/d/x")).unwrap()], vec![], Some("dir")),
            (vec![Use::member(&path("/d/x")).unwrap()], vec!["dir"], None),
            (entry("/t/x/y"), vec![], Some("deep")),
            (vec![Use::member(&path("/t/x/y")).unwrap()], vec![], Some("deep")),
            // Any of the shared ones will do.
            (entry("/s/f"), vec![], Some("one")),
            (entry("/s/f"), vec!["two"], None),
            (tree("/s"), vec![], Some("one")),
            (tree("/s"), vec!["two"], None),
            (tree("/"), vec!["f", "one", "deep"], Some("dir")),
            (tree("/"), vec!["f", "one", "deep", "dir"], None),
            ([entry("/g"), entry("/f")].concat(), vec![], Some("f")),
        ] {
            assert_eq!(bars(&uses, &tokens).as_deref(), want, "{uses:?} {tokens:?}");
        }
        assert_eq!(Use::member(&RelPath::ROOT), None);
    }

    #[test]
    fn conditions_are_about_the_place_that_they_name() {
        let locks = Locks::new(vec![lock("urn:d", "/d", true, false)], NOW);
        let judge = |text: &str, own: &str| match locks.judge(&field(text), &path(own)) {
            Judged::Holds => "holds".to_owned(),
            Judged::Fails => "fails".to_owned(),
            Judged::Rests(rest) => rest.write(|path, _| path.to_string()),
        };
        for (text, own, want) in [
            ("(<urn:d>)", "/d/x", "holds"),
            ("(<urn:d>)", "/e", "fails"),
            ("</d/y> (<urn:d>)", "/e", "holds"),
            ("(Not <urn:d>)", "/d", "fails"),
            ("(Not <DAV:no-lock>)", "/d", "holds"),
            ("(<DAV:no-lock>)", "/d", "fails"),
            ("(<urn:d>) ([\"e\"])", "/d", "holds"),
            ("(<urn:x>) (Not [\"e\"] <urn:d>)", "/d", "(Not [\"e\"])"),
            ("</d> (<urn:x> [\"e\"]) </d> ([W/\"f\"])", "/d", "</d> ([W/\"f\"])"),
            ("(<urn:x> [\"e\"])", "/d", "fails"),
        ] {
            assert_eq!(judge(text, own), want, "{text} {own}");
        }
    }

    #[test]
    fn a_lock_ends_when_it_is_given_back_or_not_refreshed_or_its_place_is_no_more() {
        let mut locks =
            Locks::new(vec![lock("a", "/a", true, false), lock("b", "/a/b", false, false)], NOW);
        let later = |seconds| BootTime(NOW.0 + Duration::from_secs(seconds));
        assert_eq!(locks.expire(later(59)), Vec::<String>::new());
        let minute = Duration::from_secs(60);
        let fresh = locks.refresh(&path("/a/x"), ["no", "a"], minute, later(59)).unwrap();
        assert_eq!(fresh.token, "a");
        assert_eq!(locks.refresh(&path("/c"), ["a"], minute, later(59)), None);
        assert_eq!(locks.expire(later(60)), ["b"]);
        assert!(
            locks.discovery(&path("/a/x"), later(60), |at| format!("/eng{at}")).contains("Second-59")
        );
        assert_eq!(locks.discovery(&path("/c"), NOW, |_| String::new()), "");
        assert_eq!(locks.release(&path("/c"), "a"), None);
        assert_eq!(locks.release(&path("/a/x"), "a").unwrap().token, "a");
        assert!(locks.grant(lock("c", "/a/b", false, false), NOW).is_ok());
        assert_eq!(locks.gone(&path("/x")), Vec::<String>::new());
        assert_eq!(locks.gone(&path("/a")), ["c"]);
    }

    #[test]
    fn how_long_a_lock_lasts() {
        for (field, seconds) in [
            ("Second-60", 60),
            ("Extend, second-7", 7),
            ("Infinite, Second-7", 3600),
            ("Second-99999999999999999999999", 3600),
            ("Second-0", 1),
            ("Second-", 600),
            ("", 600),
        ] {
            let headers = HeaderMap::from_iter([(
                ::http::HeaderName::from_static("timeout"),
                HeaderValue::from_static(field),
            )]);
            assert_eq!(timeout(&headers), Duration::from_secs(seconds), "{field}");
        }
        assert_eq!(timeout(&HeaderMap::new()), TIMEOUT_USUAL);
    }
}
