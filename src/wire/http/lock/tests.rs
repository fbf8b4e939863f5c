//! Which locks there may be, and whom they let by.

use super::*;
use crate::clock::BootTime;
use crate::id::Hash;
use ::http::HeaderValue;

const NOW: BootTime = BootTime(Duration::from_secs(1000));

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn lock(token: &str, at: &str, deep: bool, shared: bool) -> Lock {
    let timeout = Duration::from_secs(60);
    let (owner, maker) = (String::new(), Maker::default());
    Lock { token: token.into(), path: path(at), deep, shared, owner, timeout, maker }
}

fn shared(token: &str, at: &str, deep: bool) -> Lock {
    lock(token, at, deep, true)
}

fn named(byte: u8) -> Option<Principal> {
    Some(Principal(Hash([byte; 32])))
}

fn of(maker: Option<Principal>, lock: Lock) -> Lock {
    Lock { maker: Maker { principal: maker, client: None }, ..lock }
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
            Err(other) => panic!("{other:?}"),
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
    let many = (0..LOCKS_MAX).map(|n| lock(&n.to_string(), &format!("/{n}"), false, false)).collect();
    assert_eq!(Locks::new(many, NOW).grant(lock("x", "/x", false, false), NOW), Err(Denied::TooMany));
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
    let bars = |uses: &[Use], tokens: &[&str]| match locks.bars(uses, tokens, None) {
        Some(Barred::Locked(lock)) => Some(lock.token),
        Some(Barred::NotYours) => panic!("they are everybody's"),
        None => None,
    };
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
    let judge = |text: &str, own: &str| match locks.judge(&field(text), &path(own), RelPath::clone) {
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
fn of_several_tokens_ones_own_is_refreshed() {
    let (ann, bob) = (named(1), named(2));
    let held = vec![of(ann, shared("ann", "/a", false)), of(bob, shared("bob", "/a", false))];
    let mut locks = Locks::new(held, NOW);
    let mut refreshed = |tokens: &[&str], who| {
        let tokens = tokens.iter().copied();
        locks.refresh(&path("/a"), tokens, Duration::from_secs(60), who, NOW).map(|lock| lock.token)
    };
    for tokens in [["ann", "bob"], ["bob", "ann"]] {
        assert_eq!(refreshed(&tokens, bob).as_deref(), Ok("bob"));
        assert_eq!(refreshed(&tokens, ann).as_deref(), Ok("ann"));
        assert_eq!(refreshed(&tokens, None), Err(NotYours::Others));
    }
    assert_eq!(refreshed(&["no", "ann"], bob), Err(NotYours::Others));
    assert_eq!(refreshed(&["no"], bob), Err(NotYours::Missing));
}

#[test]
fn a_lock_ends_when_it_is_given_back_or_not_refreshed_or_its_place_is_no_more() {
    let mut locks = Locks::new(vec![lock("a", "/a", true, false), lock("b", "/a/b", false, false)], NOW);
    let later = |seconds| BootTime(NOW.0 + Duration::from_secs(seconds));
    assert_eq!(locks.expire(later(59)), Vec::<String>::new());
    let minute = Duration::from_secs(60);
    let fresh = locks.refresh(&path("/a/x"), ["no", "a"], minute, None, later(59)).unwrap();
    assert_eq!(fresh.token, "a");
    assert_eq!(locks.refresh(&path("/c"), ["a"], minute, None, later(59)), Err(NotYours::Missing));
    assert_eq!(locks.expire(later(60)), ["b"]);
    let told = |locks: &Locks, at: &str, now| {
        locks.discovery(&path(at), now, &mut OWNERS_MAX.clone(), |at| format!("/eng{at}"))
    };
    assert!(told(&locks, "/a/x", later(60)).contains("Second-59"));
    assert_eq!(told(&locks, "/c", NOW), "");
    assert_eq!(locks.release(&path("/c"), "a", None), Err(NotYours::Missing));
    assert_eq!(locks.release(&path("/a/x"), "a", None).unwrap().token, "a");
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

/// As often as each lock is looked at for each other, and for each token, none of this would end.
#[test]
fn however_many_locks_there_are_each_is_looked_at_once() {
    let held: Vec<_> =
        (0..LOCKS_MAX).map(|n| lock(&format!("t{n:05}"), &format!("/t/{n:05}"), true, false)).collect();
    let tokens: Vec<_> = held.iter().map(|lock| lock.token.clone()).collect();
    let mut tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let mut locks = Locks::new(held, NOW);
    let tree = [Use::Tree(path("/t")), Use::Tree(RelPath::ROOT)];
    assert_eq!(locks.bars(&tree, &tokens, None), None);
    tokens.pop();
    let last = Barred::Locked(lock("t09999", "/t/09999", true, false));
    assert_eq!(locks.bars(&tree, &tokens, None), Some(last));
    // The first, in the order of their places.
    let first = Barred::Locked(lock("t00000", "/t/00000", true, false));
    assert_eq!(locks.bars(&tree, &[], None), Some(first));
    let below = "/x".repeat(1000);
    let mut owners = OWNERS_MAX;
    for n in 0..LOCKS_MAX {
        assert_eq!(locks.expire(NOW), Vec::<String>::new());
        let at = path(&format!("/t/{n:05}{}", if n % 100 == 0 { below.as_str() } else { "" }));
        let told = locks.discovery(&at, NOW, &mut owners, |_| String::new());
        assert!(told.contains(&format!("t{n:05}")), "{told}");
    }
    assert_eq!(locks.gone(&path("/t")).len(), LOCKS_MAX);
    assert!(locks.count() == 0 && locks.expire(BootTime(Duration::MAX)).is_empty());
}

#[test]
fn shared_locks_of_one_place_are_few() {
    let mut locks = Locks::default();
    for n in 0..SHARED_MAX / 2 {
        locks.grant(shared(&format!("above{n}"), "/a", true), NOW).unwrap();
        locks.grant(shared(&format!("below{n}"), "/a/b/c", false), NOW).unwrap();
    }
    let mut denied = |lock| locks.grant(lock, NOW).err();
    assert_eq!(denied(shared("x", "/a/b/c", false)), Some(Denied::TooManyHere));
    // It would cover a place that is full.
    for at in ["/", "/a", "/a/b"] {
        assert_eq!(denied(shared("x", at, true)), Some(Denied::TooManyHere), "{at}");
    }
    for at in ["/", "/a/b", "/a/b/c/d"] {
        assert_eq!(denied(shared(at, at, false)), None, "{at}");
    }
    assert_eq!(locks.take("above0").unwrap().token, "above0");
    locks.grant(shared("x", "/a/b/c", false), NOW).unwrap();
}

#[test]
fn one_client_leaves_locks_for_the_others() {
    let mut locks = Locks::default();
    let by = |host: u8, at: String| {
        let client = Some(IpAddr::from([10, 0, 0, host]));
        Lock { maker: Maker { principal: None, client }, ..lock(&at, &at, false, false) }
    };
    for n in 0..CLIENT_MAX {
        locks.grant(by(1, format!("/{n}")), NOW).unwrap();
    }
    assert_eq!(locks.grant(by(1, "/x".into()), NOW), Err(Denied::TooManyOfClient));
    locks.grant(by(2, "/x".into()), NOW).unwrap();
    // A lock that is refreshed is no other one.
    locks.refresh(&path("/7"), ["/7"], Duration::from_secs(60), None, NOW).unwrap();
    locks.take("/7").unwrap();
    locks.grant(by(1, "/y".into()), NOW).unwrap();
    assert_eq!(locks.grant(by(1, "/z".into()), NOW), Err(Denied::TooManyOfClient));
}

#[test]
fn owners_are_told_as_far_as_they_fit_into_an_answer() {
    let owner = "<o/>".to_owned();
    let locks = Locks::new(vec![Lock { owner, ..lock("t", "/a", true, false) }], NOW);
    let mut owners = 10;
    let told: Vec<_> = (0..4)
        .map(|_| locks.discovery(&path("/a/b"), NOW, &mut owners, |_| "/a".into()))
        .map(|told| (told.contains("<o/>"), told.contains("<D:href>t</D:href>")))
        .collect();
    assert_eq!((told, owners), (vec![(true, true), (true, true), (false, true), (false, true)], 2));
}

#[test]
fn a_token_is_good_for_who_made_the_lock() {
    let held = vec![
        of(named(1), lock("hers", "/f", false, false)),
        of(named(1), shared("one", "/s", false)),
        of(named(2), shared("two", "/s", false)),
        lock("open", "/o", false, false),
    ];
    let mut locks = Locks::new(held, NOW);
    for (at, tokens, who, want) in [
        ("/f", vec!["hers"], named(1), None),
        ("/f", vec!["hers"], named(2), Some("not yours")),
        ("/f", vec!["hers"], None, Some("not yours")),
        ("/f", vec!["one"], named(2), Some("locked")),
        ("/s", vec!["one"], named(1), None),
        ("/s", vec!["one"], named(2), Some("not yours")),
        ("/s", vec!["one", "two"], named(2), None),
        ("/o", vec!["open"], named(1), None),
        ("/o", vec!["open"], None, None),
    ] {
        for one in [Use::Entry(path(at)), Use::Tree(path(at))] {
            let said = locks.bars(&[one], &tokens, who).map(|why| match why {
                Barred::Locked(_) => "locked",
                Barred::NotYours => "not yours",
            });
            assert_eq!(said, want, "{at} {tokens:?} {who:?}");
        }
    }
    let tree = [Use::Tree(RelPath::ROOT)];
    assert_eq!(locks.bars(&tree, &["hers", "one", "open"], named(1)), None);
    assert_eq!(locks.bars(&tree, &["hers", "two", "open"], named(1)), Some(Barred::NotYours));
    let minute = Duration::from_secs(60);
    assert_eq!(locks.refresh(&path("/f"), ["hers"], minute, named(2), NOW), Err(NotYours::Others));
    assert_eq!(locks.release(&path("/f"), "hers", named(2)), Err(NotYours::Others));
    assert_eq!(locks.release(&path("/f"), "hers", None), Err(NotYours::Others));
    assert_eq!(locks.release(&path("/f"), "nobodys", named(2)), Err(NotYours::Missing));
    assert_eq!(locks.refresh(&path("/f"), ["hers"], minute, named(1), NOW).unwrap().token, "hers");
    assert_eq!(locks.release(&path("/f"), "hers", named(1)).unwrap().token, "hers");
}
