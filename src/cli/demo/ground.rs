//! Three sites on loopback: directories, certificates, the map, and the sites themselves, all in this
//! process. Not here: what is shown on them (see `story`).

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::future::join_all;

use super::cable::Cable;
use crate::clock::Clock;
use crate::id::SiteId;
use crate::link::bundle;
use crate::link::cert::{Authority, SITE_DAYS, Secret};
use crate::map::{self, Role};
use crate::serve::{Options, ServeError, Site};

/// The share's name, and its URL at every site.
pub(super) const SHARE: &str = "engineering";
/// Files at the primary before anything starts.
const DRAWINGS: usize = 40;
/// A free port may be taken before the site binds it: so often others are tried.
const STARTS: usize = 5;
/// How long all sites together may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// The sites, the one with the primary copy first.
pub(super) const SITES: [(&str, Role); 3] =
    [("hq", Role::Local), ("lyon", Role::Broadcast), ("osaka", Role::Broadcast)];

/// One site of the demonstration.
pub(super) struct Place {
    pub name: &'static str,
    pub role: Role,
    /// Where clients connect.
    pub door: SocketAddr,
    link: SocketAddr,
    home: PathBuf,
}

impl Place {
    /// The share's directory.
    pub fn share(&self) -> PathBuf {
        self.home.join(SHARE)
    }
    pub fn url(&self) -> String {
        format!("http://{}/{SHARE}/", self.door)
    }
    pub fn socket(&self) -> PathBuf {
        self.home.join("state/control.sock")
    }

    fn in_map(&self) -> String {
        let bundle = self.home.join("bundle");
        let file = |name: &str| quoted(&bundle.join(name));
        format!(
            "[site.{}]\nlink = \"{}\"\nhttp = {{ server = \"embedded\", listen = \"{}\" }}\n\
             ca = {}\ncertificate = {}\nkey = {}\nsecret = {}\nstate = {}\n\n",
            self.name,
            self.link,
            self.door,
            file(bundle::CA_CERT),
            file(bundle::SITE_CERT),
            file(bundle::SITE_KEY),
            file(bundle::SECRET),
            quoted(&self.home.join("state")),
        )
    }
    fn role_in_map(&self) -> String {
        format!("{} = {{ role = \"{}\", path = {} }}\n", self.name, self.role, quoted(&self.share()))
    }
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

/// All three sites, running.
pub(super) struct Ground {
    pub places: Vec<Place>,
    pub map: PathBuf,
    /// Between Osaka and HQ.
    pub cable: Cable,
    sites: BTreeMap<&'static str, Arc<Site>>,
}

impl Ground {
    /// Lays out everything in `dir`, which is empty, and starts the sites.
    pub async fn start(dir: &Path, clock: &dyn Clock) -> anyhow::Result<Self> {
        lay(dir, clock)?;
        for _ in 0..STARTS {
            match Self::try_start(dir).await? {
                Some(ground) => return Ok(ground),
                None => tracing::info!("a port was taken in the meantime: others are tried"),
            }
        }
        bail!("{STARTS} times a free port was taken before it could be bound; try again")
    }

    /// `None`: an address is in use.
    async fn try_start(dir: &Path) -> anyhow::Result<Option<Self>> {
        let places = places(dir)?;
        let text = map_text(&places);
        let file = dir.join("map.toml");
        fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
        let map = map::parse(&text)
            .map_err(|mistakes| anyhow!("{}", super::super::check::report(&file, &mistakes)))?;
        let home = &places[0];
        let cable = Cable::lay(home.link).await.context("cannot lay the cable")?;
        let mut ground = Self { map: file, cable, sites: BTreeMap::new(), places };
        for place in &ground.places {
            let site: SiteId = place.name.parse()?;
            let via = match place.name {
                "osaka" => BTreeMap::from([(SITES[0].0.parse()?, ground.cable.address)]),
                _ => BTreeMap::new(),
            };
            let options = Options { map_file: ground.map.clone(), site, via };
            match Site::start(map.clone(), options).await {
                Ok(site) => ground.sites.insert(place.name, site),
                Err(error) if in_use(&error) => {
                    ground.stop().await;
                    return Ok(None);
                }
                Err(error) => {
                    ground.stop().await;
                    return Err(error).with_context(|| format!("site {} cannot start", place.name));
                }
            };
        }
        Ok(Some(ground))
    }

    pub fn place(&self, name: &str) -> anyhow::Result<&Place> {
        self.places.iter().find(|place| place.name == name).with_context(|| format!("no site {name}"))
    }
    pub fn site(&self, name: &str) -> anyhow::Result<&Site> {
        self.sites.get(name).map(|site| &**site).with_context(|| format!("{name} does not run"))
    }
    pub fn sites(&self) -> impl Iterator<Item = (&'static str, &Site)> {
        self.sites.iter().map(|(name, site)| (*name, &**site))
    }

    pub async fn stop(&self) {
        let stopping = join_all(self.sites.values().map(|site| site.stop()));
        if tokio::time::timeout(STOP, stopping).await.is_err() {
            tracing::warn!("the sites did not stop in {} s and are left", STOP.as_secs());
        }
    }
}

/// Makes what is there before the sites start: certificates, directories, some files at HQ.
fn lay(dir: &Path, clock: &dyn Clock) -> anyhow::Result<()> {
    let ca = Authority::create(clock.wall())?;
    let secret = Secret::generate()?;
    for (name, _) in SITES {
        let home = dir.join(name);
        let share = home.join(SHARE);
        fs::create_dir_all(&share).with_context(|| format!("cannot make {}", share.display()))?;
        let issued = ca.issue(&name.parse()?, clock.wall(), SITE_DAYS)?;
        bundle::write_bundle(&home.join("bundle"), &ca, &issued, &secret)?;
    }
    let share = dir.join(SITES[0].0).join(SHARE);
    files(&share).with_context(|| format!("cannot lay files in {}", share.display()))
}

fn files(share: &Path) -> io::Result<()> {
    let drawings = share.join("drawings");
    fs::create_dir(&drawings)?;
    for number in 1..=DRAWINGS {
        let line = format!("drawing {number}: every site shows the same\n");
        fs::write(drawings.join(format!("{number:03}.txt")), line.repeat(number * 20))?;
    }
    symlink("001.txt", drawings.join("newest"))?;
    fs::hard_link(drawings.join("002.txt"), share.join("the same as 002"))
}

/// The sites with ports that were free a moment ago.
fn places(dir: &Path) -> anyhow::Result<Vec<Place>> {
    // All are held until all are known, so that none is given twice.
    let held: Vec<TcpListener> = (0..2 * SITES.len())
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<io::Result<_>>()
        .context("no free port on loopback")?;
    let ports: Vec<SocketAddr> = held.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
    let places = SITES.iter().zip(ports.chunks_exact(2)).map(|((name, role), ports)| Place {
        name,
        role: *role,
        door: ports[0],
        link: ports[1],
        home: dir.join(name),
    });
    Ok(places.collect())
}

fn map_text(places: &[Place]) -> String {
    let sites: String = places.iter().map(Place::in_map).collect();
    let roles: String = places.iter().map(Place::role_in_map).collect();
    format!("serial = 1\n\n{sites}[share.{SHARE}]\nhttp = \"/{SHARE}\"\n{roles}")
}

/// Whether the cause is a port that somebody else has.
fn in_use(error: &ServeError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::AddrInUse) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_clean_wherever_it_lies() {
        for dir in ["/tmp/demo", "/tmp/a \"quoted\" \\ directory"] {
            let map = map::parse(&map_text(&places(Path::new(dir)).unwrap())).unwrap();
            assert_eq!(map.sites.len(), SITES.len());
            let hq = "hq".parse().unwrap();
            let share = map.shares.values().next().unwrap();
            assert_eq!(share.primary(), &hq);
            assert_eq!(share.at(&hq).unwrap().path().unwrap(), Path::new(dir).join("hq/engineering"));
        }
    }
}
