//! `[cluster]` and `[site.*]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use super::read::{At, Reader, Section};
use super::rules::Fact;
use super::share::RESERVED;
use super::value::{self, LABEL_RULE, shown, text};
use super::{Cluster, Need, NeedKind, Site, link_addr};
use crate::id::SiteId;

pub(super) const SITE_KEYS: &[&str] =
    &["ca", "certificate", "http", "key", "link", "link_listen", "nfs", "secret", "state", "zone"];
pub(super) const CLUSTER_KEYS: &[&str] = &["ca", "certificate", "key", "secret", "state"];
pub(super) const NFS_KEYS: &[&str] = &["listen", "mountd", "portmap", "server", "v4"];

const NFS_EXAMPLE: &str = r#"{ server = "127.0.0.1:12049", listen = "0.0.0.0:2049" }"#;

/// A [`Cluster`] and where the map sets its paths. A path that has no place is a default.
#[derive(Clone, Default)]
pub(super) struct Placed {
    pub(super) cluster: Cluster,
    at: BTreeMap<&'static str, usize>,
}

impl<'t> Reader<'t> {
    /// A site's or share's name. Says so if it is none.
    pub(super) fn name<T: FromStr>(&mut self, key: &At<&'t str>, kind: &str) -> Option<T> {
        let name = key.it.parse().ok();
        if name.is_none() {
            self.wrong(key.at, format!("{kind} name `{}` is no name", shown(key.it)), LABEL_RULE);
        }
        name
    }

    pub(super) fn cluster(&mut self, root: &Section<'t>) -> Placed {
        let Some(mut section) = self.table(root, "cluster", "a table [cluster]") else {
            return Placed::default();
        };
        "[cluster]".clone_into(&mut section.title);
        self.unknown(&section, CLUSTER_KEYS);
        self.paths(&section, Placed::default())
    }

    pub(super) fn site(
        &mut self,
        key: &At<&'t str>,
        section: &Section<'t>,
        cluster: &Placed,
    ) -> Option<Site> {
        let name = self.name::<SiteId>(key, "site");
        if RESERVED.contains(&key.it) {
            let what = format!("site `{}` has the name of a share's key", key.it);
            self.wrong(key.at, what, "give the site another name");
        }
        self.unknown(section, SITE_KEYS);
        let example = "\"hq.example.com:7400\"";
        let link = self.required(section, "link", example, text(example, value::host_port));
        let link_listen = self.optional(section, "link_listen", text("\"0.0.0.0:7400\"", value::listen));
        let zone = self.optional(section, "zone", text("\"emea\"", value::label)).map(|zone| zone.it);
        if let Some(link) = &link {
            let address = link_addr(&link.it, link_listen.as_ref().map(|listen| listen.it));
            let at = link_listen.as_ref().map_or(link.at, |listen| listen.at);
            let of = if link_listen.is_some() { "link_listen" } else { "link" };
            self.facts.listens.push(Fact { site: key.it, of, at, it: address });
            self.facts.links.push(Fact { site: key.it, of: "link", at: link.at, it: link.it.clone() });
        }
        let http = self.http_door(key.it, section);
        self.nfs_door(key.it, section);
        let placed = self.paths(section, cluster.clone());
        self.needs_of(key, &placed);
        let link_listen = link_listen.map(|listen| listen.it);
        Some(Site { name: name?, link: link?.it, link_listen, zone, http, cluster: placed.cluster })
    }

    /// Checks every key of the door, and then refuses the door.
    fn nfs_door(&mut self, site: &'t str, section: &Section<'t>) {
        let Some((at, _)) = section.entry("nfs") else { return };
        let what = format!("the NFS door of {} does not exist in this release", section.title);
        self.wrong(at, what, "remove `nfs`");
        let Some(section) = self.table(section, "nfs", NFS_EXAMPLE) else { return };
        self.unknown(&section, NFS_KEYS);
        let example = "\"127.0.0.1:12049\"";
        self.required(&section, "server", example, text(example, value::host_port));
        self.listen(site, "nfs", &section);
        let refuse = |v4: &str| value::word(v4, "way to treat NFSv4", &[("refuse", ())]);
        self.optional(&section, "v4", text("\"refuse\"", refuse));
        self.optional(&section, "portmap", text("\"127.0.0.1:111\"", value::host_port));
        self.optional(&section, "mountd", text("\"127.0.0.1:20048\"", value::host_port));
    }

    pub(super) fn listen(
        &mut self,
        site: &'t str,
        door: &'static str,
        section: &Section<'t>,
    ) -> Option<At<std::net::SocketAddr>> {
        let example = match door {
            "nfs" => "\"0.0.0.0:2049\"",
            "tls" => "\"0.0.0.0:443\"",
            _ => "\"0.0.0.0:80\"",
        };
        let listen = self.required(section, "listen", example, text(example, value::listen))?;
        self.facts.listens.push(Fact { site, of: door, at: listen.at, it: listen.it });
        Some(listen)
    }

    /// `base` with what the section sets on top.
    fn paths(&mut self, section: &Section<'t>, mut base: Placed) -> Placed {
        for (key, path) in fields(&mut base.cluster) {
            let example = format!("\"{}\"", path.display());
            if let Some(set) = self.optional(section, key, text(&example, value::absolute_path)) {
                *path = set.it;
                base.at.insert(key, set.at);
            }
        }
        base
    }

    fn needs_of(&mut self, site: &At<&'t str>, placed: &Placed) {
        let mut cluster = placed.cluster.clone();
        for (key, path) in fields(&mut cluster) {
            let at = placed.at.get(key).copied().unwrap_or(site.at);
            let kind = match key {
                "key" | "secret" => NeedKind::Private,
                "state" => NeedKind::State,
                _ => NeedKind::Readable,
            };
            if let Ok(site) = site.it.parse() {
                let it = Need { site, path: path.clone(), kind, line: 0, column: 0 };
                self.facts.needs.push(At { at, it });
            }
            self.facts.own.push(Fact { site: site.it, of: key, at, it: std::mem::take(path) });
        }
    }
}

fn fields(cluster: &mut Cluster) -> [(&'static str, &mut PathBuf); 5] {
    [
        ("ca", &mut cluster.ca),
        ("certificate", &mut cluster.certificate),
        ("key", &mut cluster.key),
        ("secret", &mut cluster.secret),
        ("state", &mut cluster.state),
    ]
}
