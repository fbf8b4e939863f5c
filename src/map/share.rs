//! `[share.*]`, and in each of them the sites.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use super::near::nearest;
use super::read::{At, Reader, Section};
use super::rules::Fact;
use super::value::{self, Checked, shown, text, word, wrong, wrong_type};
use super::{
    Access, AtSite, ClientRule, Consistency, Degraded, LocksBy, Need, NeedKind, Place, PropertiesBy,
    Role, Share, UrlPrefix, WhenCutOff,
};
use crate::id::{ShareId, SiteId};

pub(super) const SHARE_KEYS: &[&str] = &[
    "clients",
    "consistency",
    "degraded",
    "durable_copies",
    "http",
    "http_sync",
    "locks",
    "nfs",
    "properties",
    "tree",
    "when_cut_off",
];
pub(super) const AT_SITE_KEYS: &[&str] =
    &["clients", "http", "http_sync", "nfs", "path", "role", "tree", "when_cut_off"];
/// What belongs to a share as a whole, or sites would disagree about it (R10).
const AGREED_KEYS: &[&str] = &["consistency", "degraded", "durable_copies", "locks", "properties"];
pub(super) const CLIENT_KEYS: &[&str] = &["access", "net", "secure", "squash"];
/// What no site may be called: a share's keys are keys and sites' names.
pub(super) const RESERVED: &[&str] = &[
    "clients",
    "consistency",
    "degraded",
    "durable_copies",
    "http",
    "http_sync",
    "locks",
    "nfs",
    "path",
    "properties",
    "role",
    "tree",
    "when_cut_off",
];

const AT_SITE_EXAMPLE: &str = r#"{ role = "broadcast", path = "/srv/engineering" }"#;
const CLIENTS_EXAMPLE: &str = r#"[{ net = "10.2.0.0/16", access = "rw" }]"#;
const ROLES: &[(&str, Role)] =
    &[("local", Role::Local), ("broadcast", Role::Broadcast), ("remote", Role::Remote)];
const ACCESSES: &[(&str, Access)] = &[("ro", Access::ReadOnly), ("rw", Access::ReadWrite)];
const SQUASHES: &[(&str, ())] = &[("none", ()), ("root", ()), ("all", ())];

/// What a share says for all its sites, and a site may say for itself. `None`: not said.
#[derive(Default)]
struct Settings {
    /// `Some(None)`: not served over HTTP.
    http: Option<At<Option<UrlPrefix>>>,
    http_sync: Option<bool>,
    when_cut_off: Option<WhenCutOff>,
    clients: Option<Vec<ClientRule>>,
    nfs: Option<At<PathBuf>>,
}

/// A share's sites while they are read.
#[derive(Default)]
struct Sites<'t> {
    sites: BTreeMap<SiteId, AtSite>,
    primaries: Vec<At<&'t str>>,
    /// Some site's role could not be made out: it may be the primary.
    in_doubt: bool,
    any: bool,
}

impl<'t> Reader<'t> {
    pub(super) fn share(&mut self, key: &At<&'t str>, section: &Section<'t>) -> Option<Share> {
        let name = self.name::<ShareId>(key, "share");
        let consistency = self.optional(section, "consistency", text("\"strict\"", consistency));
        let copies = self.optional(section, "durable_copies", durable_copies);
        let degraded = self.optional(section, "degraded", text("\"wait\"", degraded));
        let locks = self.optional(section, "locks", text("\"server\"", locks));
        let properties = self.optional(section, "properties", text("\"none\"", properties));
        let settings = self.settings(section, false);
        let mut sites = Sites::default();
        for (entry, value) in section.entries() {
            if SHARE_KEYS.contains(&entry.it) {
                continue;
            }
            let is_known = self.facts.sites.contains(entry.it);
            let looks_like_one =
                value.get_ref().as_table().is_some_and(|table| table.contains_key("role"));
            if is_known || looks_like_one {
                self.part(key.it, &entry, value, &settings, &mut sites);
            } else {
                self.unknown_in_share(section, &entry);
            }
        }
        self.one_primary(key, &sites);
        if let Some(copies) = &copies {
            self.copies_enough(copies, &sites);
        }
        if let Some(At { at, it: PropertiesBy::Apache }) = properties {
            self.apaches_only(at, &sites);
        }
        let primary: SiteId = sites.primaries.first()?.it.parse().ok()?;
        Some(Share {
            name: name?,
            consistency: consistency.map_or(Consistency::Strict, |consistency| consistency.it),
            durable_copies: copies.map_or(1, |copies| copies.it),
            degraded: degraded.map_or(Degraded::Wait, |degraded| degraded.it),
            locks: locks.map(|locks| locks.it),
            properties: properties.map(|properties| properties.it),
            first: primary.clone(),
            primary,
            epoch: 1,
            sites: sites.sites,
        })
    }

    fn apaches_only(&mut self, at: usize, sites: &Sites<'t>) {
        let copies = sites.sites.iter().filter(|(_, at)| at.role() != Role::Remote);
        let others: Vec<_> = copies
            .map(|(site, _)| site.clone())
            .filter(|site| self.facts.embedded.contains(site))
            .collect();
        for site in others {
            let what = format!(
                "`properties` is \"apache\", and {site} has the embedded server, which does not read what Apache writes"
            );
            self.wrong(at, what, "leave it out, or have an Apache there");
        }
    }

    fn copies_enough(&mut self, copies: &At<u32>, sites: &Sites<'t>) {
        let holds = |at: &&AtSite| !matches!(at.place, Place::Remote);
        let there = sites.sites.values().filter(holds).count();
        if !sites.in_doubt && usize::try_from(copies.it).is_ok_and(|copies| copies > there) {
            let what = format!(
                "`durable_copies` is {}, and the share has a copy at {there} {}",
                copies.it,
                if there == 1 { "site" } else { "sites" },
            );
            self.wrong(copies.at, what, format!("write {there}, or give more sites a copy"));
        }
    }

    /// One site's part in the share.
    fn part(
        &mut self,
        share: &'t str,
        site: &At<&'t str>,
        value: &'t Spanned<DeValue<'t>>,
        settings: &Settings,
        sites: &mut Sites<'t>,
    ) {
        sites.any = true;
        if !self.facts.sites.contains(site.it) {
            let what = format!("unknown site `{}` in [share.{}]", shown(site.it), shown(share));
            let right = match nearest(site.it, self.facts.sites.iter().copied()) {
                Some(near) => format!("the nearest known site is `{near}`"),
                None => format!("add [site.{}], or remove this", shown(site.it)),
            };
            self.absent(site.at, what, right);
        }
        let title = format!("`{}` of [share.{}]", shown(site.it), shown(share));
        let Some(section) = self.as_table(site.clone(), value, title, AT_SITE_EXAMPLE) else {
            sites.in_doubt = true;
            return;
        };
        self.unknown_at_site(share, &section);
        let role = self.required(
            &section,
            "role",
            "\"broadcast\"",
            text("\"broadcast\"", |role| word(role, "role", ROLES)),
        );
        let path = self.path(share, site, &section, role.as_ref().map(|role| role.it));
        let own = self.settings(&section, true);
        let url = own.http.as_ref().or(settings.http.as_ref());
        let http = url.and_then(|url| url.it.clone());
        if let Some(http) = &http {
            let at = own.http.as_ref().map_or(site.at, |own| own.at);
            self.url(share, site.it, at, http, url.map_or(at, |url| url.at));
        }
        if let Some(export) = own.nfs.as_ref().or(settings.nfs.as_ref()) {
            let fact = Fact { site: site.it, of: share, at: export.at, it: export.it.clone() };
            self.facts.exports.push(fact);
        }
        match &role {
            Some(At { at, it: Role::Local }) => sites.primaries.push(At { at: *at, it: site.it }),
            Some(_) => {}
            None => sites.in_doubt = true,
        }
        let place = match (role.map(|role| role.it), path) {
            (Some(Role::Local), Some(path)) => Place::Local(path),
            (Some(Role::Broadcast), Some(path)) => Place::Broadcast(path),
            (Some(Role::Remote), None) => Place::Remote,
            _ => return,
        };
        let http_sync = own.http_sync.or(settings.http_sync).unwrap_or(true);
        let when_cut_off = own.when_cut_off.or(settings.when_cut_off).unwrap_or(WhenCutOff::Serve);
        let clients = own.clients.or_else(|| settings.clients.clone()).unwrap_or_default();
        if let Ok(site) = site.it.parse() {
            sites.sites.insert(site, AtSite { place, http, http_sync, when_cut_off, clients });
        }
    }

    /// The directory, where the role wants one.
    fn path(
        &mut self,
        share: &'t str,
        site: &At<&'t str>,
        section: &Section<'t>,
        role: Option<Role>,
    ) -> Option<PathBuf> {
        let check = text("\"/srv/engineering\"", value::absolute_path);
        let path = match role {
            Some(Role::Local | Role::Broadcast) => {
                self.required(section, "path", "\"/srv/engineering\"", check)
            }
            Some(Role::Remote) | None => self.optional(section, "path", check),
        };
        if let (Some(Role::Remote), Some((at, _))) = (role, section.entry("path")) {
            let what = format!("{} has a `path`, but a remote site has no copy", section.title);
            self.wrong(at, what, "remove `path`, or write role = \"broadcast\"");
        }
        let path = path?;
        self.facts.paths.push(Fact { site: site.it, of: share, at: path.at, it: path.it.clone() });
        if let Ok(site) = site.it.parse() {
            let it = Need { site, path: path.it.clone(), kind: NeedKind::Directory, line: 0, column: 0 };
            self.facts.needs.push(At { at: path.at, it });
        }
        Some(path.it)
    }

    /// Notes a share's URL at a site. `at` is where the site comes by it, `set` where it is written.
    fn url(&mut self, share: &'t str, site: &'t str, at: usize, url: &UrlPrefix, set: usize) {
        if self.facts.sites.contains(site) && !self.facts.doors.contains(site) {
            let (share, site) = (shown(share), shown(site));
            let what = format!(
                "share `{share}` has the URL {url} at {site}, but [site.{site}] has no `http` door"
            );
            let right = format!(
                "add http = {{ server = ..., listen = ... }} to [site.{site}], or write http = false here"
            );
            self.absent(at, what, right);
        }
        self.facts.urls.push(Fact { site, of: share, at: set, it: url.path().clone() });
    }

    fn one_primary(&mut self, share: &At<&'t str>, sites: &Sites<'t>) {
        let name = shown(share.it);
        if !sites.any {
            let what = format!("share `{name}` is at no site");
            self.absent(share.at, what, "add hq = { role = \"local\", path = \"/srv/engineering\" }");
        } else if sites.primaries.is_empty() && !sites.in_doubt {
            self.absent(
                share.at,
                format!("share `{name}` has no primary"),
                "give one site role = \"local\"",
            );
        }
        let Some((first, others)) = sites.primaries.split_first() else { return };
        for other in others {
            let what = format!("`{}` is already the primary of share `{name}`", shown(first.it));
            self.wrong(other.at, what, "write \"broadcast\" or \"remote\": one site is local");
        }
        let served = sites.sites.iter().find(|(_, at)| at.http.is_some());
        let at_primary = first.it.parse().ok().and_then(|site: SiteId| sites.sites.get(&site));
        if let (Some((elsewhere, _)), Some(AtSite { http: None, .. })) = (served, at_primary) {
            let what =
                format!("share `{name}` has a URL at {elsewhere}, but none at its primary {}", first.it);
            self.wrong(
                first.at,
                what,
                "give the primary one too: its server carries out what others forward",
            );
        }
    }

    /// The keys that a share and its sites have in common.
    fn settings(&mut self, section: &Section<'t>, at_site: bool) -> Settings {
        let http = self.optional(section, "http", |value| match value.as_bool() {
            Some(false) if at_site => Ok(None),
            _ => text("\"/engineering\"", value::url_prefix)(value).map(Some),
        });
        let http_sync = self.optional(section, "http_sync", value::boolean);
        let nfs = self.optional(section, "nfs", text("\"/export/engineering\"", value::absolute_path));
        if let Some((at, _)) = section.entry("nfs") {
            let what = format!(
                "{} has an NFS export, and the NFS door does not exist in this release",
                section.title
            );
            self.wrong(at, what, "remove `nfs`");
        }
        self.optional(section, "tree", text("\"local\"", tree));
        let when_cut_off = self.optional(section, "when_cut_off", text("\"serve\"", when_cut_off));
        let clients = self.clients(section);
        let (http_sync, when_cut_off) =
            (http_sync.map(|sync| sync.it), when_cut_off.map(|when| when.it));
        Settings { http, http_sync, when_cut_off, clients, nfs }
    }

    fn clients(&mut self, section: &Section<'t>) -> Option<Vec<ClientRule>> {
        let (_, value) = section.entry("clients")?;
        let at = value.span().start;
        let Some(array) = value.get_ref().as_array() else {
            if let Err(wrong) = wrong_type::<()>(value.get_ref(), "array", CLIENTS_EXAMPLE) {
                self.wrong(at, format!("`clients` {}", wrong.what), wrong.right);
            }
            return None;
        };
        if array.is_empty() {
            self.wrong(
                at,
                "`clients` is empty and lets nobody in",
                "name a net, or remove `clients` to let everyone in",
            );
        }
        let mut seen = BTreeSet::new();
        let mut rules = Vec::new();
        for value in array.iter() {
            let at = value.span().start;
            let title = format!("`clients` of {}", section.title);
            let table =
                self.as_table(At { at, it: "clients" }, value, title, r#"{ net = "10.2.0.0/16" }"#);
            let Some((net, rule)) = table.and_then(|table| self.client(&table)) else { continue };
            if !seen.insert(rule.net) {
                let what = format!("{} is in `clients` of {} already", rule.net, section.title);
                self.wrong(net, what, "keep one of them");
            }
            rules.push(rule);
        }
        Some(rules)
    }

    /// One rule, and where its net stands.
    fn client(&mut self, section: &Section<'t>) -> Option<(usize, ClientRule)> {
        self.unknown(section, CLIENT_KEYS);
        let example = "\"10.2.0.0/16\"";
        let net = self.required(section, "net", example, text(example, value::net));
        let access =
            self.optional(section, "access", text("\"rw\"", |access| word(access, "access", ACCESSES)));
        self.optional(section, "squash", text("\"root\"", |squash| word(squash, "squash", SQUASHES)));
        self.optional(section, "secure", value::boolean);
        for key in ["squash", "secure"] {
            if let Some((at, _)) = section.entry(key) {
                let title = &section.title;
                let what = format!(
                    "{title} says `{key}`, which is for NFS, and the NFS door does not exist in this release"
                );
                self.wrong(at, what, format!("remove `{key}`"));
            }
        }
        let net = net?;
        let rule =
            ClientRule { net: net.it, access: access.map_or(Access::ReadWrite, |access| access.it) };
        Some((net.at, rule))
    }

    fn unknown_in_share(&mut self, section: &Section<'t>, key: &At<&'t str>) {
        let title = &section.title;
        if ["path", "role"].contains(&key.it) {
            let what = format!("`{}` in {title} belongs to one site of the share", key.it);
            self.wrong(
                key.at,
                what,
                "write it as hq = { role = \"local\", path = \"/srv/engineering\" }",
            );
            return;
        }
        let what = format!("unknown key or site `{}` in {title}", shown(key.it));
        let sites = self.facts.sites.iter().copied();
        let right = match nearest(key.it, SHARE_KEYS.iter().copied().chain(sites)) {
            Some(near) if SHARE_KEYS.contains(&near) => format!("the nearest known key is `{near}`"),
            Some(near) => format!("the nearest known site is `{near}`"),
            None => format!("the known keys are {}, and the sites' names", SHARE_KEYS.join(", ")),
        };
        self.wrong(key.at, what, right);
    }

    fn unknown_at_site(&mut self, share: &str, section: &Section<'t>) {
        for key in AGREED_KEYS {
            if let Some((at, _)) = section.entry(key) {
                let what = format!("`{key}` in {} is not for one site to say", section.title);
                self.wrong(at, what, format!("set it in [share.{}], for all sites", shown(share)));
            }
        }
        self.unknown_but(section, AT_SITE_KEYS, AGREED_KEYS);
    }
}

fn consistency(text: &str) -> Checked<Consistency> {
    let known = [("strict", Consistency::Strict), ("relaxed", Consistency::Relaxed)];
    word(text, "consistency", &known)
}

fn durable_copies(value: &DeValue<'_>) -> Checked<u32> {
    match value::count(0, "1, without quotes")(value)? {
        0 => wrong("is 0: a change would be on nobody's disk", "write 1"),
        many => match u32::try_from(many) {
            Ok(many) => Ok(many),
            Err(_) => wrong(format!("is {many}, more than there are sites"), "write 2"),
        },
    }
}

fn degraded(text: &str) -> Checked<Degraded> {
    let known = [("wait", Degraded::Wait), ("allow", Degraded::Allow)];
    word(text, "way to treat changes while too few sites are there", &known)
}

fn properties(text: &str) -> Checked<PropertiesBy> {
    word(text, "keeper of properties", &[("none", PropertiesBy::None), ("apache", PropertiesBy::Apache)])
}

fn locks(text: &str) -> Checked<LocksBy> {
    word(text, "keeper of locks", &[("server", LocksBy::Server), ("nearshare", LocksBy::Nearshare)])
}

fn when_cut_off(text: &str) -> Checked<WhenCutOff> {
    let known = [("serve", WhenCutOff::Serve), ("refuse", WhenCutOff::Refuse)];
    word(text, "way to treat reads when cut off", &known)
}

fn tree(text: &str) -> Checked<()> {
    if text == "nfs" {
        let what = "is \"nfs\", and a share on an NFS mount does not exist in this release";
        return wrong(what, "write \"local\", or remove it");
    }
    word(text, "kind of tree", &[("local", ())])
}
