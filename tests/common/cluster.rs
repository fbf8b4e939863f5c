//! Sites of the real program on one machine: HQ has the primary copy of the share `docs`, the others
//! follow. Each site has a server of its own, certificates made by `nearshare cert`, and a cable to
//! HQ that a test can cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use rustix::process::Signal;

use super::apache::Apache;
use super::cable::Cable;
use super::daemon::Daemon;
use super::http::Client;
use super::nginx::Nginx;
use super::{NEARSHARE, PATIENCE, compare, free_port, lab, run, wait_until};

/// The share's URL at every site.
pub const SHARE: &str = "/docs";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// nginx with WebDAV. Its answers say which site's server gave them: `X-Served-By`.
    Nginx,
    /// Apache with mod_dav. Its answers say whose they are, too.
    Apache,
    Embedded,
}

/// What a cluster is made of; see [`Plan::start`].
pub struct Plan {
    pub server: Server,
    pub sites: Vec<SitePlan>,
    /// More keys of the share, a line each.
    pub keys: String,
}

pub struct SitePlan {
    pub name: &'static str,
    pub role: &'static str,
    /// Where the site's files lie; a directory of the cluster's own when `None`.
    pub disk: Option<PathBuf>,
    /// Its state directory; one of the cluster's own when `None`.
    pub state: Option<PathBuf>,
    /// The network namespace and address it runs at. With one there is no cable: see `lab`.
    pub network: Option<(String, Ipv4Addr)>,
    /// A server of another kind than the others'.
    pub server: Option<Server>,
    /// How long its server may be silent, as the map has it.
    pub server_timeout: Option<&'static str>,
    /// The share's URL there, and its place below what the server serves; [`SHARE`] when `None`.
    pub url: Option<&'static str>,
    /// What its server is told as Host, as the map has it.
    pub host: Option<&'static str>,
}

impl SitePlan {
    pub fn new(name: &'static str, role: &'static str) -> Self {
        Self {
            name,
            role,
            disk: None,
            state: None,
            network: None,
            server: None,
            server_timeout: None,
            url: None,
            host: None,
        }
    }
}

impl Plan {
    /// HQ with the primary copy, Osaka and Lyon with copies.
    pub fn three(server: Server) -> Self {
        let copies = ["osaka", "lyon"].map(|name| SitePlan::new(name, "broadcast"));
        let sites = std::iter::once(SitePlan::new("hq", "local")).chain(copies).collect();
        Self { server, sites, keys: String::new() }
    }

    pub fn site(&mut self, name: &str) -> &mut SitePlan {
        self.sites.iter_mut().find(|site| site.name == name).unwrap()
    }

    /// Makes directories, certificates and the map; starts nothing yet, so that a test can lay files.
    pub fn prepare(self) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        run(NEARSHARE, &["cert", "init", "--dir", text(&ca)]);
        let sites = self.sites.into_iter().map(|plan| Site::prepare(dir.path(), &ca, plan, self.server));
        let mut cluster =
            Cluster { sites: sites.collect(), keys: self.keys, map: dir.path().join("map.toml"), dir };
        let primary_link = cluster.primary().link;
        for site in &mut cluster.sites {
            if site.role != "local" && site.ns.is_none() {
                site.cable = Some(Cable::new(primary_link));
            }
        }
        cluster.write_map(1);
        cluster
    }

    pub fn start(self) -> Cluster {
        let mut cluster = self.prepare();
        cluster.start_all();
        cluster
    }
}

pub struct Cluster {
    pub sites: Vec<Site>,
    keys: String,
    pub map: PathBuf,
    pub dir: tempfile::TempDir,
}

pub struct Site {
    pub name: &'static str,
    pub role: &'static str,
    /// State, certificates, logs.
    pub home: PathBuf,
    /// What the server serves; the share is `docs` in it.
    pub www: PathBuf,
    /// Where clients connect.
    pub door: SocketAddr,
    /// Where the other sites connect.
    pub link: SocketAddr,
    pub ns: Option<String>,
    pub cable: Option<Cable>,
    pub nginx: Option<Nginx>,
    pub apache: Option<Apache>,
    pub daemon: Option<Daemon>,
    state: PathBuf,
    server: Server,
    pub server_address: SocketAddr,
    server_timeout: Option<&'static str>,
    pub url: &'static str,
    host: Option<&'static str>,
}

impl Cluster {
    pub fn site(&self, name: &str) -> &Site {
        self.sites.iter().find(|site| site.name == name).unwrap()
    }
    pub fn site_mut(&mut self, name: &str) -> &mut Site {
        self.sites.iter_mut().find(|site| site.name == name).unwrap()
    }
    pub fn primary(&self) -> &Site {
        self.sites.iter().find(|site| site.role == "local").unwrap()
    }
    pub fn cable(&self, name: &str) -> &Cable {
        self.site(name).cable.as_ref().unwrap()
    }

    pub fn start_all(&mut self) {
        let map = self.map.clone();
        let primary = self.primary().name;
        for site in &mut self.sites {
            site.start(&map, primary);
        }
        for site in &self.sites {
            site.wait_ready();
        }
        for site in self.sites.iter().filter(|site| site.name != primary) {
            site.wait_linked();
        }
    }

    pub fn start(&mut self, name: &str) {
        let map = self.map.clone();
        let primary = self.primary().name;
        let site = self.site_mut(name);
        site.start(&map, primary);
        site.wait_ready();
    }

    /// Writes the map that all sites read.
    pub fn write_map(&self, serial: u64) {
        let sites: String = self.sites.iter().map(Site::in_map).collect();
        let roles: String = self.sites.iter().map(Site::role_in_map).collect();
        let text = format!(
            "serial = {serial}\n\n{sites}[share.docs]\nhttp = \"{SHARE}\"\n{}{roles}",
            self.keys
        );
        std::fs::write(&self.map, text).unwrap();
    }

    /// Waits until every copy is byte for byte what the primary has.
    pub fn settle(&self) {
        self.settle_within(PATIENCE);
    }

    pub fn settle_within(&self, limit: Duration) {
        let primary = self.primary().share();
        for copy in self.sites.iter().filter(|site| site.role == "broadcast") {
            wait_until(&format!("the copy at {} to follow", copy.name), limit, || {
                compare::same(&primary, &copy.share())
            });
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for site in &self.sites {
                eprintln!("{}", site.tail());
            }
        }
    }
}

impl Site {
    fn prepare(dir: &Path, ca: &Path, plan: SitePlan, server: Server) -> Self {
        let home = dir.join(plan.name);
        let www = plan.disk.unwrap_or_else(|| home.clone()).join("www");
        std::fs::create_dir_all(&home).unwrap();
        let url = plan.url.unwrap_or(SHARE);
        std::fs::create_dir_all(www.join(url.trim_start_matches('/'))).unwrap();
        run(
            NEARSHARE,
            &["cert", "issue", plan.name, "--dir", text(ca), "--out", text(&home.join("bundle"))],
        );
        let address = |port| match &plan.network {
            Some((_, ip)) => SocketAddr::from((*ip, port)),
            None => free_port(),
        };
        Self {
            name: plan.name,
            role: plan.role,
            www,
            door: address(8080),
            link: address(7400),
            server_address: address(8081),
            ns: plan.network.map(|(ns, _)| ns),
            state: plan.state.unwrap_or_else(|| home.join("state")),
            home,
            cable: None,
            nginx: None,
            apache: None,
            daemon: None,
            server: plan.server.unwrap_or(server),
            server_timeout: plan.server_timeout,
            url,
            host: plan.host,
        }
    }

    /// The share's directory.
    pub fn share(&self) -> PathBuf {
        self.www.join(self.url.trim_start_matches('/'))
    }
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }
    pub fn log(&self) -> PathBuf {
        self.home.join("nearshare.log")
    }
    pub fn client(&self) -> Client {
        Client::new(self.door)
    }
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log()).unwrap_or_default()).into_owned()
    }
    pub fn tail(&self) -> String {
        self.daemon.as_ref().map_or_else(|| format!("--- {} is not running", self.name), Daemon::tail)
    }

    fn in_map(&self) -> String {
        let server = match self.server {
            Server::Nginx | Server::Apache => format!("http://{}", self.server_address),
            Server::Embedded => "embedded".to_owned(),
        };
        let timeout = self.server_timeout.map(|it| format!(", server_timeout = \"{it}\""));
        let host = self.host.map(|host| format!(", host = \"{host}\""));
        let timeout = timeout.unwrap_or_default() + &host.unwrap_or_default();
        let bundle = self.home.join("bundle");
        let file = |name: &str| text(&bundle.join(name)).to_owned();
        format!(
            "[site.{}]\nlink = \"{}\"\nhttp = {{ server = \"{server}\", listen = \"{}\"{timeout} }}\n\
             ca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\nsecret = \"{}\"\nstate = \"{}\"\n\n",
            self.name,
            self.link,
            self.door,
            file("ca.pem"),
            file("site.pem"),
            file("site.key"),
            file("secret"),
            text(&self.state()),
        )
    }

    fn role_in_map(&self) -> String {
        let Self { name, role, .. } = self;
        match *role {
            "remote" => format!("{name} = {{ role = \"remote\" }}\n"),
            _ => {
                let (path, url) = (self.share(), self.url);
                let path = text(&path);
                format!("{name} = {{ role = \"{role}\", path = \"{path}\", http = \"{url}\" }}\n")
            }
        }
    }

    /// Starts the site's server, unless it runs, and nearshare.
    pub fn start(&mut self, map: &Path, primary: &str) {
        if self.server == Server::Nginx && self.nginx.is_none() {
            self.start_nginx();
        }
        if self.server == Server::Apache && self.apache.is_none() {
            self.start_apache();
        }
        self.start_with(map, &self.via(primary));
    }

    pub fn start_nginx(&mut self) {
        let ns = self.ns.as_deref();
        self.nginx = Some(Nginx::start(&self.home, &self.www, self.name, self.server_address, ns));
    }

    pub fn start_apache(&mut self) {
        let ns = self.ns.as_deref();
        let (www, share) = (&self.www, self.share());
        self.apache = Some(Apache::start(&self.home, www, &share, self.name, self.server_address, ns));
    }

    fn via(&self, primary: &str) -> Vec<String> {
        self.cable.iter().map(|cable| format!("{primary}={}", cable.address)).collect()
    }

    pub fn start_with(&mut self, map: &Path, via: &[String]) {
        let mut command = vec![NEARSHARE, "run", "--map", text(map), "--site", self.name];
        command.extend(via.iter().flat_map(|via| ["--via", via]));
        self.daemon = Some(Daemon::spawn(&command, self.ns.as_deref(), &self.log()));
    }

    /// Waits until the door takes connections.
    pub fn wait_ready(&self) {
        wait_until(&format!("{} to open its door", self.name), PATIENCE, || {
            let connect = || self.client().connect().map(drop);
            lab::inside(self.ns.as_deref(), connect).map_err(|error| format!("{error}\n{}", self.tail()))
        });
    }

    /// Its links to other sites are up.
    pub fn wait_linked(&self) {
        wait_until(&format!("{} to be linked", self.name), PATIENCE, || {
            let status = self.status()?;
            let links = status["links"].as_array().cloned().unwrap_or_default();
            let up = links.iter().all(|link| link["up"] == true && link["bulk"] == true);
            if up && !links.is_empty() { Ok(()) } else { Err(format!("{links:?}")) }
        });
    }

    pub fn kill(&mut self) {
        self.daemon.take().unwrap().kill();
    }
    pub fn terminate(&mut self) -> ExitStatus {
        self.daemon.take().unwrap().terminate(PATIENCE)
    }
    pub fn freeze(&self) {
        self.daemon.as_ref().unwrap().signal(Signal::STOP);
    }
    pub fn thaw(&self) {
        self.daemon.as_ref().unwrap().signal(Signal::CONT);
    }

    /// `nearshare status --json` as this site tells it, or what it said instead.
    pub fn status(&self) -> Result<serde_json::Value, String> {
        let socket = self.state().join("control.sock");
        let output = nearshare(&["status", "--json", "--socket", text(&socket)]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {errors}"))
    }
}

/// Runs a command of the program to its end.
pub fn nearshare(arguments: &[&str]) -> Output {
    Command::new(NEARSHARE).args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
