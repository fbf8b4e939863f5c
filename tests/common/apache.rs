//! A real Apache with mod_dav and mod_dav_fs, one per site, with files of its own. It keeps its locks and
//! the properties that clients set.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::daemon::Daemon;

pub struct Apache {
    pub address: SocketAddr,
    pub daemon: Daemon,
    access: PathBuf,
}

impl Apache {
    /// Serves `www` at `/` on `address`, and may write into `share` there. Every answer carries
    /// `X-Served-By: site`, and every request is a line `METHOD URI STATUS` of the access log. What `home`
    /// has as `server.conf` is part of the configuration.
    pub fn start(
        home: &Path,
        www: &Path,
        share: &Path,
        site: &str,
        address: SocketAddr,
        ns: Option<&str>,
    ) -> Self {
        let dir = home.join("apache");
        std::fs::create_dir_all(dir.join("locks")).unwrap();
        // As root it refuses to serve, so what it is to write belongs to its own user.
        super::needs_root("Apache");
        for own in [dir.join("locks").as_path(), share] {
            super::run("chown", &["www-data:www-data", own.to_str().unwrap()]);
        }
        // Its user has to get there.
        let temp = std::env::temp_dir();
        for above in
            www.ancestors().skip(1).take_while(|above| above.starts_with(&temp) && *above != temp)
        {
            super::run("chmod", &["a+x", above.to_str().unwrap()]);
        }
        let access = dir.join("access.log");
        let conf = dir.join("apache.conf");
        std::fs::write(&conf, configuration(&dir, www, site, address, &access)).unwrap();
        // Whom NTLM knows, if a test asks for that.
        let users = format!("NTLM_USER_FILE={}", home.join("ntlm-users").display());
        let command = ["env", &users, "apache2", "-f", conf.to_str().unwrap(), "-DFOREGROUND"];
        let daemon = Daemon::spawn(&command, ns, &dir.join("out.log"));
        super::wait_for("Apache to listen", || std::net::TcpStream::connect(address).is_ok());
        Self { address, daemon, access }
    }

    /// Requests that reached this server, as `METHOD URI STATUS`.
    pub fn requests(&self) -> Vec<String> {
        super::daemon::lines(&self.access)
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        self.daemon.end_with_workers();
    }
}

fn configuration(dir: &Path, www: &Path, site: &str, address: SocketAddr, access: &Path) -> String {
    let modules = ["mpm_event", "authz_core", "dir", "headers", "dav", "dav_fs", "dav_lock"];
    let dirs = ["/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules"];
    let at = super::modules(&dirs, "mod_dav_lock.so").display();
    let load = |name: &str| format!("LoadModule {name}_module {at}/mod_{name}.so\n");
    let modules: String = modules.into_iter().map(load).collect();
    let more = dir.with_file_name("server.conf");
    let (dir, www, access, more) = (dir.display(), www.display(), access.display(), more.display());
    format!(
        "{modules}
ServerRoot {dir}
ServerName localhost
Listen {address}
PidFile {dir}/pid
ErrorLog {dir}/error.log
LogFormat \"%m %U %>s\" short
CustomLog {access} short
DocumentRoot {www}
DavLockDB {dir}/locks/db
User www-data
Group www-data
StartServers 1
MaxRequestWorkers 64
ThreadsPerChild 64
MaxKeepAliveRequests 0
Header always set X-Served-By {site}
<Directory {www}>
  Require all granted
  Dav On
</Directory>
IncludeOptional {more}
"
    )
}
