use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;

fn cookies() -> Cookies {
    Cookies::new([7; 32])
}

#[test]
fn a_cookie_is_for_ever() {
    // What sites and releases must agree on.
    assert_eq!(cookies().of(b"a"), 295_022_177_950_495_934);
    assert_eq!(cookies().of(b"\xff\xfe"), 6_470_052_596_200_044_562);
}

proptest! {
    #[test]
    fn every_name_has_its_own_place(names in btree_set(vec(any::<u8>(), 1..20), 0..200)) {
        let order = cookies().order(names.iter());
        let again = cookies().order(names.iter().rev());
        prop_assert_eq!(&order, &again);
        prop_assert_eq!(order.iter().map(|(_, name)| *name).collect::<BTreeSet<_>>(), names.iter().collect());
        prop_assert!(order.is_sorted_by(|a, b| a.0 < b.0));
        prop_assert!(order.iter().all(|(cookie, _)| (FIRST..1 << 63).contains(cookie)));
        prop_assert!(order.iter().all(|(cookie, name)| *cookie == cookies().of(name)));
    }

    /// What is there throughout is listed once, whatever comes and goes between two pages.
    #[test]
    fn a_listing_goes_on_where_it_was(
        stay in btree_set(vec(any::<u8>(), 1..8), 1..60),
        before in btree_set(vec(any::<u8>(), 1..8), 0..60),
        after in btree_set(vec(any::<u8>(), 1..8), 0..60),
        page in 1_usize..20,
    ) {
        let with = |others: &BTreeSet<Vec<u8>>| cookies().order(stay.union(others).cloned());
        let (mut last, mut seen) = (0, Vec::new());
        for names in [with(&before), with(&after)].into_iter().cycle() {
            let next: Vec<_> = names.into_iter().filter(|(cookie, _)| *cookie > last).take(page).collect();
            let Some((cookie, _)) = next.last() else { break };
            last = *cookie;
            seen.extend(next.into_iter().map(|(_, name)| name).filter(|name| stay.contains(name)));
        }
        prop_assert_eq!(seen.len(), stay.len());
        prop_assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), stay);
    }

    /// As hashes of a few values only would be.
    #[test]
    fn equal_hashes_get_neighbouring_numbers(hashes in vec(0_u64..20, 0..60)) {
        let hashed: Vec<_> = hashes.iter().copied().zip(0_u64..).collect();
        let mut other = hashed.clone();
        other.reverse();
        let order = number(hashed);
        prop_assert_eq!(&order, &number(other));
        prop_assert!(order.is_sorted_by(|a, b| a.0 < b.0));
        for (cookie, name) in &order {
            let hash = hashes[usize::try_from(*name).unwrap()];
            let before = hashes.iter().filter(|other| **other <= hash).count() as u64;
            prop_assert!((hash..hash.max(FIRST) + before).contains(cookie), "{hash}: {cookie}");
        }
    }
}
