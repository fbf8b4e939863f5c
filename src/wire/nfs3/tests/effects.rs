use super::super::{About, Args, EntryAt, Fh, More, Owner, Refusal, Status, acl, effect, row};
use crate::effect::{Depth, Effect, Reach, Touch};
use crate::id::{Name, ObjectId, ShareId};

fn object(number: u8) -> ObjectId {
    ObjectId::from_bytes([number; 16])
}

fn fh(number: u8) -> Fh {
    Fh { bytes: vec![number].into(), at: 0 }
}

fn at(dir: u8, name: &str) -> EntryAt {
    EntryAt { dir: fh(dir), name: name.to_owned().into() }
}

/// Handles 1 to 9 are of one share, 10 to 19 of another, all others of none.
fn owner(fh: &Fh) -> Owner {
    let share = |name: &str| name.parse::<ShareId>().unwrap();
    match fh.bytes[0] {
        number @ 1..=9 => Owner::Share(share("one"), object(number)),
        number @ 10..=19 => Owner::Share(share("two"), object(number)),
        _ => Owner::Outside,
    }
}

fn asked(procedure: u32, about: About) -> Result<Effect<Touch>, Refusal> {
    effect(row(procedure).unwrap(), &Args { about, more: More::Nothing }, owner)
}

fn thing(number: u8) -> Touch {
    Touch::Object(object(number))
}

fn entry(dir: u8, name: &str) -> Touch {
    Touch::Entry(object(dir), Name::new(name.as_bytes()).unwrap())
}

#[test]
fn every_procedure_says_what_it_touches() {
    use About::{Entry, Link, Object, Two};
    let reads = [
        (1, Object(fh(1)), thing(1), Depth::Object),
        (3, Entry(at(1, "a")), entry(1, "a"), Depth::Object),
        (3, Entry(at(1, ".")), thing(1), Depth::Object),
        (4, Object(fh(1)), thing(1), Depth::Object),
        (5, Object(fh(1)), thing(1), Depth::Object),
        (6, Object(fh(1)), thing(1), Depth::Object),
        (16, Object(fh(1)), thing(1), Depth::Children),
        (17, Object(fh(1)), thing(1), Depth::Children),
        (18, Object(fh(1)), thing(1), Depth::Object),
        (19, Object(fh(1)), thing(1), Depth::Object),
        (20, Object(fh(1)), thing(1), Depth::Object),
    ];
    for (number, about, path, depth) in reads {
        let got = asked(number, about);
        let Ok(Effect::Read(read)) = &got else { panic!("{number}: {got:?}") };
        assert_eq!((&read.path, read.depth, read.home_only), (&path, depth, false), "{number}");
        assert_eq!(read.share.as_str(), "one");
    }
    let changes = [
        (2, Object(fh(1)), vec![thing(1)]),
        (7, Object(fh(1)), vec![thing(1)]),
        (8, Entry(at(1, "a")), vec![entry(1, "a")]),
        (9, Entry(at(1, "a")), vec![entry(1, "a")]),
        (10, Entry(at(1, "a")), vec![entry(1, "a")]),
        (11, Entry(at(1, "a")), vec![entry(1, "a")]),
        (12, Entry(at(1, "a")), vec![entry(1, "a")]),
        (13, Entry(at(1, "a")), vec![entry(1, "a")]),
        (14, Two(at(1, "a"), at(2, "b")), vec![entry(1, "a"), entry(2, "b")]),
        (15, Link(fh(3), at(2, "b")), vec![thing(3), entry(2, "b")]),
        (21, Object(fh(1)), vec![thing(1)]),
    ];
    for (number, about, places) in changes {
        let got = asked(number, about);
        let Ok(Effect::Change(change)) = &got else { panic!("{number}: {got:?}") };
        let targets: Vec<_> = change.targets.iter().map(|target| target.path.clone()).collect();
        assert_eq!(targets, places, "{number}");
        assert!(change.targets.iter().all(|target| target.reach == Reach::Entry));
    }
    assert_eq!(asked(0, About::Nothing), Ok(Effect::Outside));
    for number in 0..22 {
        assert_eq!(row(number).unwrap().number, number);
    }
    assert!(row(22).is_none() && acl::row(3).is_none());
    assert_eq!([0, 1, 2].map(|number| acl::row(number).unwrap().writes()), [false, false, true]);
}

#[test]
fn nothing_crosses_the_edge_of_a_share() {
    use About::{Entry, Link, Object, Two};
    assert_eq!(asked(1, Object(fh(99))), Ok(Effect::Outside));
    assert_eq!(asked(12, Entry(at(99, ".nearshare"))), Ok(Effect::Outside));
    assert_eq!(asked(14, Two(at(99, "a"), at(98, "b"))), Ok(Effect::Outside));
    for (one, other) in [(1, 99), (99, 1), (1, 11)] {
        for (number, about) in
            [(14, Two(at(one, "a"), at(other, "b"))), (15, Link(fh(one), at(other, "b")))]
        {
            let refusal = asked(number, about).unwrap_err();
            assert_eq!(refusal.status(), Status::XDEV, "{number} {one} {other}");
        }
    }
}

#[test]
fn names_that_are_none_are_refused_as_the_protocol_says() {
    use About::{Entry, Link, Two};
    let long = "x".repeat(256);
    let table = [
        (3, Entry(at(1, ".nearshare")), Status::NOENT),
        (3, Entry(at(1, &long)), Status::NAMETOOLONG),
        (3, Entry(at(1, "")), Status::INVAL),
        (3, Entry(at(1, "a/b")), Status::INVAL),
        (8, Entry(at(1, ".nearshare")), Status::ACCES),
        (8, Entry(at(1, ".")), Status::EXIST),
        (9, Entry(at(1, "..")), Status::EXIST),
        (12, Entry(at(1, "..")), Status::INVAL),
        (13, Entry(at(1, ".")), Status::INVAL),
        (14, Two(at(1, "a"), at(1, "..")), Status::INVAL),
        (14, Two(at(1, "a"), at(1, ".nearshare")), Status::ACCES),
        (15, Link(fh(1), at(1, "..")), Status::EXIST),
        (15, Link(fh(1), at(1, &long)), Status::NAMETOOLONG),
    ];
    for (number, about, status) in table {
        let context = format!("{number} {about:?}");
        assert_eq!(asked(number, about).unwrap_err().status(), status, "{context}");
    }
}

#[test]
fn the_directory_above_is_asked_of_the_primary() {
    let Ok(Effect::Read(read)) = asked(3, About::Entry(at(1, ".."))) else { panic!("it is a read") };
    assert_eq!((read.path, read.home_only), (thing(1), true));
}
