//! The server map: one TOML text, the same at every site, that says which sites there are, which
//! directories they share and what each site is to each share. Text in, a checked [`Map`] out, or
//! every mistake in it with its line and what would be right.
//!
//! Not here: files (the caller reads the text), what is on a site's disk (`cli::check` looks at each
//! [`Need`]), and where a request goes (see `route`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::id::{ShareId, SiteId};

mod http;
mod near;
mod prefix;
mod read;
mod rules;
mod share;
mod site;
#[cfg(test)]
mod tests;
mod value;

pub use prefix::UrlPrefix;

/// Longest map text, in bytes: 1 MiB, about 50 bytes for each of 20,000 shares.
pub const TEXT_MAX: usize = 1024 * 1024;
/// Most sites in one map.
pub const SITES_MAX: usize = 1024;
/// Most shares in one map.
pub const SHARES_MAX: usize = 65_536;

/// A checked server map. Whatever it holds is legal; what contradicts itself was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// Counts editions of the map. Sites compare it at hello; a difference alone only warns.
    pub serial: u64,
    /// BLAKE3 of the text, comments included.
    pub hash: [u8; 32],
    /// What `[cluster]` says, defaults filled in. Each site carries its own, see [`Site::cluster`].
    pub cluster: Cluster,
    /// At least one, at most [`SITES_MAX`].
    pub sites: BTreeMap<SiteId, Site>,
    /// At least one, at most [`SHARES_MAX`].
    pub shares: BTreeMap<ShareId, Share>,
}

impl Map {
    /// Every share that has a part at this site, with what the site is to it.
    pub fn shares_at<'m>(&'m self, site: &'m SiteId) -> impl Iterator<Item = (&'m Share, &'m AtSite)> {
        self.shares.values().filter_map(move |share| Some((share, share.at(site)?)))
    }

    /// Whether nearshare keeps the locks of a share, at its primary's site: where the map says so, and for the
    /// embedded server, which keeps none.
    pub fn keeps_locks(&self, share: &Share) -> bool {
        self.is_embedded(share.primary()) || share.locks == Some(LocksBy::Nearshare)
    }

    /// Whether the embedded server at the primary's site keeps what clients set over HTTP.
    pub fn keeps_properties(&self, share: &Share) -> bool {
        self.is_embedded(share.primary()) && share.properties.is_none()
    }

    fn is_embedded(&self, site: &SiteId) -> bool {
        let door = self.sites.get(site).and_then(|site| site.http.as_ref());
        door.is_some_and(|door| door.server == HttpServer::Embedded)
    }

    /// What is no mistake, and not what somebody may think that it says: each with what would be clearer.
    pub fn notes(&self) -> Vec<String> {
        let shares = self.shares.values();
        let unheard = shares
            .filter(|share| share.locks == Some(LocksBy::Server) && self.keeps_locks(share))
            .map(|share| {
                let (name, primary) = (&share.name, share.primary());
                format!(
                    "`locks` of {name} is \"server\", and the embedded server at {primary} keeps none: nearshare \
                     keeps them; write \"nearshare\""
                )
            });
        unheard.collect()
    }

    /// The map with the primary copy of a share at another site than the text says (R33). A site that
    /// has no copy by this map changes nothing: `false`.
    pub fn led_by(&mut self, share: &ShareId, site: &SiteId, epoch: u32) -> bool {
        self.shares.get_mut(share).is_some_and(|share| share.lead(site, epoch))
    }
}

/// Where a site keeps what makes it a member of the cluster. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The private CA's certificate, PEM. Default `/etc/nearshare/ca.pem`.
    pub ca: PathBuf,
    /// This site's certificate, PEM. Default `/etc/nearshare/site.pem`.
    pub certificate: PathBuf,
    /// The certificate's private key, PEM, mode 0600. Default `/etc/nearshare/site.key`.
    pub key: PathBuf,
    /// The cluster secret, mode 0600. Default `/etc/nearshare/secret`.
    pub secret: PathBuf,
    /// The directory of the catalog and the control socket. Default `/var/lib/nearshare`.
    pub state: PathBuf,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            ca: "/etc/nearshare/ca.pem".into(),
            certificate: "/etc/nearshare/site.pem".into(),
            key: "/etc/nearshare/site.key".into(),
            secret: "/etc/nearshare/secret".into(),
            state: "/var/lib/nearshare".into(),
        }
    }
}

/// One nearshare and the server behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub name: SiteId,
    /// Where the other sites reach this one.
    pub link: HostPort,
    /// Where it listens for them, if not at `link`; see [`Site::link_addr`].
    pub link_listen: Option<SocketAddr>,
    /// A part of the world; of the same alphabet as a site's name.
    pub zone: Option<String>,
    pub http: Option<HttpDoor>,
    /// `[cluster]` with this site's own keys on top.
    pub cluster: Cluster,
}

impl Site {
    /// The address to listen on for the other sites: `link_listen`; else `link` when that is an
    /// address; else, when it is a name, all IPv4 addresses at its port.
    pub fn link_addr(&self) -> SocketAddr {
        link_addr(&self.link, self.link_listen)
    }
}

fn link_addr(link: &HostPort, listen: Option<SocketAddr>) -> SocketAddr {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    listen.unwrap_or_else(|| SocketAddr::new(link.ip().unwrap_or(any), link.port))
}

/// The HTTP door of one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpDoor {
    pub server: HttpServer,
    /// Where clients connect. One address and port, used by nothing else at the site.
    pub listen: SocketAddr,
    /// The name that clients use in URLs (RFC 9110 section 7.2), without a port. `None`: any name.
    pub host: Option<String>,
    /// How long the server may take to send the head of its answer: 1 s to 1 h, default 60 s.
    pub server_timeout: Duration,
    /// Whether messages that pass carry Via (RFC 9110 section 7.6.3). Default `false`: nobody is to notice.
    pub via: bool,
    /// Most open connections of one client, at least 1; default 4096.
    pub client_connections: u64,
    /// Most requests of one client in a second, at least 1. `None`: any number.
    pub client_rate: Option<u32>,
    /// The same door over TLS.
    pub tls: Option<HttpTls>,
}

/// An HTTP door over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTls {
    /// Where clients connect. One address and port, used by nothing else at the site.
    pub listen: SocketAddr,
    /// At least one. Which one is shown is decided by the names in them; the first is for all other names.
    pub certificates: Vec<CertificateFiles>,
}

/// A certificate with its chain, PEM, and its private key, PEM, mode 0600. Absolute paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The server behind an HTTP door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpServer {
    /// nearshare's own.
    Embedded,
    /// `http://host:port`; port 80 when the map names none.
    Url(HostPort),
}

/// A host and a port, as in `hq.example.com:7400` or `[2001:db8::1]:7400`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// A DNS name in lower case or an IP address, without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl HostPort {
    /// The host, when it is an address and needs no lookup.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One shared directory, the same name at every site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub name: ShareId,
    pub consistency: Consistency,
    /// On how many sites' disks a change is before it is answered: 1 to the number of sites with a copy.
    pub durable_copies: u32,
    pub degraded: Degraded,
    /// Who keeps its locks, if the primary's server could. `None`: not said, and it does.
    pub locks: Option<LocksBy>,
    /// Who keeps what clients set. `None`: not said, and each embedded server does.
    pub properties: Option<PropertiesBy>,
    /// The share's first primary (R33).
    first: SiteId,
    /// The site whose place is [`Place::Local`].
    primary: SiteId,
    /// Counts the primaries.
    epoch: u32,
    /// What each site is to the share. A site that is not here has no part in it.
    sites: BTreeMap<SiteId, AtSite>,
}

impl Share {
    /// The site with the primary copy: the first one, unless the map was told who it is today
    /// ([`Map::led_by`]).
    pub fn primary(&self) -> &SiteId {
        &self.primary
    }

    /// 1 with the first primary, greater with every later one (R33).
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The site that the map's text names as `local`.
    pub fn first_primary(&self) -> &SiteId {
        &self.first
    }

    /// The primary copy is at `site`, which must have a copy, from now on. `false`: it has none.
    fn lead(&mut self, site: &SiteId, epoch: u32) -> bool {
        let Some(Place::Local(path) | Place::Broadcast(path)) = self.at(site).map(|at| at.place.clone())
        else {
            return false;
        };
        for at in self.sites.values_mut() {
            if let Place::Local(path) = &at.place {
                at.place = Place::Broadcast(path.clone());
            }
        }
        if let Some(at) = self.sites.get_mut(site) {
            at.place = Place::Local(path);
        }
        self.primary = site.clone();
        self.epoch = epoch;
        true
    }

    /// What the site is to this share; `None` when it has no part in it.
    pub fn at(&self, site: &SiteId) -> Option<&AtSite> {
        self.sites.get(site)
    }

    /// Every site with a part in this share.
    pub fn sites(&self) -> impl Iterator<Item = (&SiteId, &AtSite)> {
        self.sites.iter()
    }

    /// BLAKE3 of what all sites must agree on (R10): name, consistency, durable copies, the first
    /// primary, and every site's role. Paths, URLs and addresses may differ.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("nearshare 2026-11 share digest 1");
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        };
        field(self.name.as_str().as_bytes());
        field(self.consistency.as_str().as_bytes());
        field(&self.durable_copies.to_be_bytes());
        field(self.degraded.as_str().as_bytes());
        field(self.first.as_str().as_bytes());
        for (site, at) in &self.sites {
            let role = match at.place {
                Place::Remote => Role::Remote,
                _ if *site == self.first => Role::Local,
                _ => Role::Broadcast,
            };
            field(site.as_str().as_bytes());
            field(role.as_str().as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// What a share promises to readers at other sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// A read sent after a write was answered sees it, at every site.
    Strict,
    /// A write is seen elsewhere within the propagation lag, and at its own site at once.
    Relaxed,
}

impl Consistency {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
        }
    }
}

/// What is done with changes while fewer sites can be reached than `durable_copies` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Degraded {
    /// They wait, and get a retry answer in the end.
    Wait,
    /// They are done and answered, and `status`, log and metrics say so.
    Allow,
}

impl Degraded {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Allow => "allow",
        }
    }
}

/// Who keeps the locks that clients take over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocksBy {
    /// The primary's server, which must not forget them.
    Server,
    /// nearshare, at the primary's site.
    Nearshare,
}

/// Who keeps the properties that clients set over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertiesBy {
    /// Nobody, or not for other sites.
    None,
    /// The Apaches that serve the share, in its directories.
    Apache,
}

/// What a copy does with reads while it cannot reach the primary's site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenCutOff {
    /// Answers them, and says so in metrics and status.
    Serve,
    /// Answers that the client may try again.
    Refuse,
}

/// What one site is to one share, overrides applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtSite {
    pub place: Place,
    /// The share's URL at this site; `None` when the site does not serve it over HTTP.
    pub http: Option<UrlPrefix>,
    /// Whether an HTTP change is on disk before it is answered. Default true.
    pub http_sync: bool,
    /// What a copy does with reads while it is cut off. Default: serve.
    pub when_cut_off: WhenCutOff,
    /// Which clients may use the share at this site. The longest prefix that matches counts; without any rule
    /// everyone may read and write, with rules nobody else.
    pub clients: Vec<ClientRule>,
}

impl AtSite {
    pub fn role(&self) -> Role {
        match self.place {
            Place::Local(_) => Role::Local,
            Place::Broadcast(_) => Role::Broadcast,
            Place::Remote => Role::Remote,
        }
    }

    /// The share's directory here; `None` at a remote site.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Local(path) | Place::Broadcast(path) => Some(path),
            Place::Remote => None,
        }
    }
}

/// Where a site has its copy of a share, if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The primary copy is in this directory.
    Local(PathBuf),
    /// A copy is in this directory.
    Broadcast(PathBuf),
    /// No copy here: everything is forwarded.
    Remote,
}

/// A [`Place`] without its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Local,
    Broadcast,
    Remote,
}

impl Role {
    /// As the map spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Broadcast => "broadcast",
            Self::Remote => "remote",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What clients of one network may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRule {
    /// Without host bits. No two rules of one list have the same.
    pub net: IpNet,
    pub access: Access,
}

/// Whether a client may change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// One thing that is wrong with a map. Shown as `line:column: what; right`; the caller puts the
/// file's name and a colon in front.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Mistake {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// What is wrong. One line.
    pub what: String,
    /// What would be right. One line.
    pub right: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.line, self.column, self.what, self.right)
    }
}

/// Something a site must find on its own disk, and where in the map it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub site: SiteId,
    pub path: PathBuf,
    pub kind: NeedKind,
    pub line: u32,
    pub column: u32,
}

/// What must be at a [`Need`]'s path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeedKind {
    /// A share's directory.
    Directory,
    /// A file that nearshare can read.
    Readable,
    /// The same, and nobody but its owner may.
    Private,
    /// The state directory. It is made if it is not there.
    State,
}

/// All that one text gave: the map if there is no mistake in it, and what each site needs as far as
/// it could be made out.
#[derive(Debug)]
pub struct Reading {
    /// In the order of their places in the text; empty exactly when `map` is there.
    pub mistakes: Vec<Mistake>,
    pub map: Option<Map>,
    pub needs: Vec<Need>,
}

/// The map in `text`, or every mistake in it, in the order of their places in the text. Never an
/// empty list.
pub fn parse(text: &str) -> Result<Map, Vec<Mistake>> {
    let reading = read(text);
    reading.map.ok_or(reading.mistakes)
}

/// Like [`parse`], and also says what each site needs on its disk.
pub fn read(text: &str) -> Reading {
    read::read(text)
}

/// Why a file's bytes are not even a text to look for mistakes in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    #[error("a server map is at most 1048576 bytes, this file is larger")]
    TooLarge,
    #[error("{line}:{column}: the byte here is not UTF-8; save the file as UTF-8")]
    NotUtf8 { line: u32, column: u32 },
}

/// A file's bytes as a text for [`parse`].
pub fn text(bytes: &[u8]) -> Result<&str, NotText> {
    if bytes.len() > TEXT_MAX {
        return Err(NotText::TooLarge);
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let (line, column) = read::Position::START.after(&good).line_column();
        NotText::NotUtf8 { line, column }
    })
}
