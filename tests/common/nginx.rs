//! A real nginx with WebDAV, one per site, with files of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::daemon::Daemon;

pub struct Nginx {
    pub address: SocketAddr,
    pub daemon: Daemon,
    access: PathBuf,
}

impl Nginx {
    /// Serves `www` at `/` on `address`. Every answer carries `X-Served-By: site`, and every request
    /// is a line `METHOD URI STATUS` of the access log. What `home` has as `server.conf` is part of the
    /// configuration.
    pub fn start(home: &Path, www: &Path, site: &str, address: SocketAddr, ns: Option<&str>) -> Self {
        let dir = home.join("nginx");
        std::fs::create_dir_all(&dir).unwrap();
        let access = dir.join("access.log");
        let conf = dir.join("nginx.conf");
        std::fs::write(&conf, configuration(&dir, www, site, address, &access)).unwrap();
        let error = dir.join("error.log");
        let (conf, error) = (conf.to_str().unwrap(), error.to_str().unwrap());
        let command = ["nginx", "-e", error, "-p", dir.to_str().unwrap(), "-c", conf];
        let daemon = Daemon::spawn(&command, ns, &dir.join("out.log"));
        Self { address, daemon, access }
    }

    /// Requests that reached this server, as `METHOD URI STATUS`.
    pub fn requests(&self) -> Vec<String> {
        super::daemon::lines(&self.access)
    }

    /// It takes connections, as the kernel does that for it, and answers nothing until [`Self::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// To the master and its worker.
    fn signal(&self, signal: Signal) {
        let master = self.daemon.pid();
        let workers = format!("/proc/{master}/task/{master}/children");
        let workers = std::fs::read_to_string(workers).unwrap();
        let workers: Vec<i32> = workers.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        assert!(!workers.is_empty(), "nginx has no worker");
        for worker in workers {
            kill_process(Pid::from_raw(worker).unwrap(), signal).unwrap();
        }
        self.daemon.signal(signal);
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // One that is frozen, as when a test fails, would not hear that it is to end.
        if self.daemon.exit().is_none() {
            self.thaw();
        }
        self.daemon.end_with_workers();
    }
}

fn configuration(dir: &Path, www: &Path, site: &str, address: SocketAddr, access: &Path) -> String {
    const MODULE: &str = "ngx_http_dav_ext_module.so";
    let dirs = ["/usr/lib/nginx/modules", "/usr/share/nginx/modules", "/usr/lib64/nginx/modules"];
    let module = super::modules(&dirs, MODULE).join(MODULE);
    let more = dir.with_file_name("server*.conf");
    let (module, dir, www, more) = (module.display(), dir.display(), www.display(), more.display());
    let access = access.display();
    // As root, so that files of any owner can be served and written.
    let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    format!(
        "load_module {module};
daemon off; {user} worker_processes 1; pid {dir}/pid;
events {{ worker_connections 1024; }}
http {{
  default_type application/octet-stream; types {{ text/html html; text/css css; }}
  gzip on; gzip_types text/css; sendfile on; client_max_body_size 0; keepalive_requests 1000000;
  log_format short '$request_method $request_uri $status';
  access_log {access} short;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  server {{
    listen {address}; root {www}; add_header X-Served-By {site} always;
    dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS; dav_access user:rw group:r all:r;
    include {more};
  }}
}}
"
    )
}
