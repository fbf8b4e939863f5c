//! No request target leads out of a share.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::http::{Located, ShareUrl, SiteShares, encode};

fuzz_target!(|raw: &str| {
    let share = |name: &str, prefix: &str| ShareUrl::new(name.parse().unwrap(), prefix).unwrap();
    let shares = SiteShares::new(vec![share("docs", "/docs"), share("deep", "/a/b c")]);
    if let Ok(Located::Inside { path, slot, slash, .. }) = shares.locate(raw) {
        assert!(
            path.to_os_path().components().all(|part| !matches!(part, std::path::Component::ParentDir))
        );
        // What we write for it leads to the same place.
        let again = shares.locate(&encode(shares.url(slot).encoded(), &path, slash));
        let Ok(Located::Inside { path: second, .. }) = again else { panic!("{raw:?}: {again:?}") };
        assert_eq!(path, second);
    }
});
