//! What must hold between one part of a map and another. Each rule takes the facts that the walk
//! gathered and gives the mistakes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::read::{At, Found};
use super::value::shown;
use super::{HostPort, Need};
use crate::id::{RelPath, SiteId};

/// What the walk learned that concerns more than one key. Wrong values are not here.
#[derive(Default)]
pub(super) struct Facts<'t> {
    /// Sites with the embedded server.
    pub(super) embedded: BTreeSet<SiteId>,
    /// The sites' names as declared, also those that are no names.
    pub(super) sites: BTreeSet<&'t str>,
    /// The sites with an HTTP door.
    pub(super) doors: BTreeSet<&'t str>,
    pub(super) links: Vec<Fact<'t, HostPort>>,
    /// What a site listens on, `of` the door.
    pub(super) listens: Vec<Fact<'t, SocketAddr>>,
    /// The servers behind doors, `of` the door.
    pub(super) servers: Vec<Fact<'t, HostPort>>,
    /// nearshare's own files and its state, `of` the key.
    pub(super) own: Vec<Fact<'t, PathBuf>>,
    /// Directories, URLs and exports, `of` the share.
    pub(super) paths: Vec<Fact<'t, PathBuf>>,
    pub(super) urls: Vec<Fact<'t, RelPath>>,
    pub(super) exports: Vec<Fact<'t, PathBuf>>,
    pub(super) needs: Vec<At<Need>>,
}

/// Something that the map says at byte offset `at`, of a site.
pub(super) struct Fact<'t, T> {
    pub(super) site: &'t str,
    pub(super) of: &'t str,
    pub(super) at: usize,
    pub(super) it: T,
}

pub(super) fn check(facts: &Facts<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    found.extend(links(&facts.links));
    found.extend(listens(&facts.listens));
    found.extend(loops(&facts.servers, &facts.listens));
    let inside = |outer: &PathBuf, inner: &PathBuf| inner.starts_with(outer);
    let path = |path: &PathBuf| path.display().to_string();
    found.extend(overlaps("path", &facts.paths, inside, path));
    found.extend(overlaps("nfs", &facts.exports, inside, path));
    let below = |outer: &RelPath, inner: &RelPath| inner.starts_with(outer);
    let url = |url: &RelPath| super::UrlPrefix::from(url.clone()).to_string();
    found.extend(overlaps("http", &facts.urls, below, url));
    found.extend(exposed(&facts.paths, &facts.own));
    found
}

fn found(at: usize, what: String, right: &str) -> Found {
    Found { at, what, right: right.to_owned(), absent: false }
}

/// Two sites cannot be reached at one address.
fn links(links: &[Fact<'_, HostPort>]) -> Vec<Found> {
    let mut seen = BTreeMap::new();
    let mut wrong = Vec::new();
    for link in links {
        if let Some(other) = seen.insert(&link.it, link.site) {
            let what = format!("`link` is {}, where site `{}` is reached", link.it, shown(other));
            wrong.push(found(link.at, what, "give each site an address and port of its own"));
        }
    }
    wrong
}

/// No address is listened on twice at one site; and as sites on one host share the loopback
/// addresses, none of those at two sites.
fn listens(listens: &[Fact<'_, SocketAddr>]) -> Vec<Found> {
    let right = "give each listener an address or port of its own";
    let mut wrong = Vec::new();
    let mut by_site: BTreeMap<&str, Vec<&Fact<'_, SocketAddr>>> = BTreeMap::new();
    let mut loopback: BTreeMap<SocketAddr, &Fact<'_, SocketAddr>> = BTreeMap::new();
    for listen in listens {
        let here = by_site.entry(listen.site).or_default();
        if let Some(other) = here.iter().find(|other| collide(other.it, listen.it)) {
            let (first, second) = if other.at < listen.at { (*other, listen) } else { (listen, *other) };
            let what = format!(
                "`{}` listens on {} at {}, where `{}` listens on {} already",
                second.of,
                second.it,
                shown(second.site),
                first.of,
                first.it
            );
            wrong.push(found(second.at, what, right));
        }
        here.push(listen);
        if listen.it.ip().is_loopback() {
            let first = *loopback.entry(listen.it).or_insert(listen);
            // The same link address twice is reported as that.
            if first.site != listen.site && (first.of, listen.of) != ("link", "link") {
                let what = format!(
                    "`{}` listens on {} at {}, where `{}` of site `{}` listens already on this host",
                    listen.of,
                    listen.it,
                    shown(listen.site),
                    first.of,
                    shown(first.site)
                );
                wrong.push(found(listen.at, what, right));
            }
        }
    }
    wrong
}

/// Whether a host cannot listen on both. `[::]` also takes IPv4, as Linux has it by default.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let takes = |one: IpAddr, other: IpAddr| match one {
        IpAddr::V4(one) => one.is_unspecified() && other.is_ipv4(),
        IpAddr::V6(one) => one.is_unspecified(),
    };
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && (a == b || takes(a, b) || takes(b, a))
}

/// A door whose server is one of its own site's listeners would ask itself for ever.
fn loops(servers: &[Fact<'_, HostPort>], listens: &[Fact<'_, SocketAddr>]) -> Vec<Found> {
    let mut wrong = Vec::new();
    for server in servers {
        let ip =
            if server.it.host == "localhost" { Some([127, 0, 0, 1].into()) } else { server.it.ip() };
        let Some(ip) = ip else { continue };
        let here = listens.iter().filter(|listen| listen.site == server.site);
        let reached = |listen: &&Fact<'_, SocketAddr>| {
            let any = listen.it.ip().is_unspecified() && ip.is_loopback();
            listen.it.port() == server.it.port && (listen.it.ip() == ip || any)
        };
        if let Some(listen) = here.clone().find(reached) {
            let what = format!(
                "`server` is {}, where `{}` of {} itself listens",
                server.it,
                listen.of,
                shown(listen.site)
            );
            wrong.push(found(server.at, what, "write where the server behind nearshare listens"));
        }
    }
    wrong
}

/// No two shares have the same place at a site, and none lies in another's.
fn overlaps<T: Ord>(
    key: &str,
    facts: &[Fact<'_, T>],
    inside: impl Fn(&T, &T) -> bool,
    show: impl Fn(&T) -> String,
) -> Vec<Found> {
    let mut sorted: Vec<_> = facts.iter().collect();
    // In the order of components all that lies below a place comes right behind it.
    sorted.sort_by(|a, b| (a.site, &a.it, a.at).cmp(&(b.site, &b.it, b.at)));
    let mut wrong: BTreeMap<(usize, String), Vec<String>> = BTreeMap::new();
    let mut outer: Option<&Fact<'_, T>> = None;
    for inner in sorted {
        match outer.filter(|outer| outer.site == inner.site && inside(&outer.it, &inner.it)) {
            Some(outer) => {
                let (at, what) = overlap(key, outer, inner, &show);
                wrong.entry((at, what)).or_default().push(shown(inner.site));
            }
            None => outer = Some(inner),
        }
    }
    let right = format!("give each share a `{key}` of its own, none inside another's");
    let one = |((at, what), sites): ((usize, String), Vec<String>)| {
        found(at, format!("{what} at {}", sites.join(", ")), &right)
    };
    wrong.into_iter().map(one).collect()
}

/// Where and how to report that `inner` lies in `outer`: at the later of the two.
fn overlap<T: Ord>(
    key: &str,
    outer: &Fact<'_, T>,
    inner: &Fact<'_, T>,
    show: impl Fn(&T) -> String,
) -> (usize, String) {
    let how = if outer.it == inner.it {
        ("is also that of", "is also that of")
    } else {
        ("lies inside that of", "holds that of")
    };
    let (here, how, there) =
        if inner.at > outer.at { (inner, how.0, outer) } else { (outer, how.1, inner) };
    let what = format!(
        "`{key}` {} of share `{}` {how} share `{}`, {},",
        show(&here.it),
        shown(here.of),
        shown(there.of),
        show(&there.it)
    );
    (here.at, what)
}

/// A share that held the site's keys or catalog would hand them out, and one inside the state
/// directory would hold files that are none of its own.
fn exposed(paths: &[Fact<'_, PathBuf>], own: &[Fact<'_, PathBuf>]) -> Vec<Found> {
    let mut by_site: BTreeMap<&str, Vec<&Fact<'_, PathBuf>>> = BTreeMap::new();
    for file in own {
        by_site.entry(file.site).or_default().push(file);
    }
    let mut wrong = Vec::new();
    for path in paths {
        let mut files = by_site.get(path.site).into_iter().flatten();
        let how = files.find_map(|file| {
            let inside = path.it.starts_with(&file.it).then_some(("lies inside", file));
            if file.it.starts_with(&path.it) { Some(("holds", file)) } else { inside }
        });
        let what = how.map(|(how, file)| {
            let (path, of, it) = (path.it.display(), shown(path.of), file.it.display());
            format!(
                "`path` {path} of share `{of}` {how} {it}, the `{}` of {}",
                file.of,
                shown(file.site)
            )
        });
        wrong.extend(
            what.map(|what| found(path.at, what, "keep shares and nearshare's own files apart")),
        );
    }
    wrong
}
