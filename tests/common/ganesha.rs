//! A real NFS server, nfs-ganesha, with a directory of its own, in a network namespace of its own: version 3
//! needs port 111.

use std::path::{Path, PathBuf};

use super::daemon::Daemon;

pub struct Ganesha {
    pub ns: String,
    /// The export, by the same path for clients.
    pub export: PathBuf,
    daemon: Daemon,
    _dir: tempfile::TempDir,
}

impl Ganesha {
    pub const NFS: u16 = 2049;
    pub const MOUNT: u16 = 20048;

    pub fn start() -> Self {
        super::needs_root("a network namespace");
        let dir = tempfile::tempdir().unwrap();
        let export = dir.path().join("export");
        std::fs::create_dir(&export).unwrap();
        let ns = format!("nearshare-{}-nfs", std::process::id());
        super::run("ip", &["netns", "add", &ns]);
        super::run("ip", &["-n", &ns, "link", "set", "lo", "up"]);
        // Ganesha wants an address beside that of loopback.
        super::run("ip", &["-n", &ns, "address", "add", "10.66.1.1/32", "dev", "lo"]);
        let (conf, log) = (dir.path().join("ganesha.conf"), dir.path().join("ganesha.log"));
        std::fs::write(&conf, configuration(dir.path(), &export)).unwrap();
        // The port mapper's socket is a file in /run, and every other one of the machine would fight for it.
        let script = format!(
            "mount -t tmpfs tmpfs /run && rpcbind -w && exec ganesha.nfsd -F -f {} -L {} -p {}",
            conf.display(),
            log.display(),
            dir.path().join("ganesha.pid").display()
        );
        let command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", &script];
        let daemon = Daemon::spawn(&command, Some(&ns), &dir.path().join("out.log"));
        super::wait_until("ganesha", super::PATIENCE, || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains("NFS SERVER INITIALIZED") { Ok(()) } else { Err(daemon.tail() + &text) }
        });
        Self { ns, export, daemon, _dir: dir }
    }
}

impl Drop for Ganesha {
    fn drop(&mut self) {
        self.daemon.kill();
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.ns]).status();
    }
}

fn configuration(dir: &Path, export: &Path) -> String {
    let dirs =
        ["/usr/lib/x86_64-linux-gnu/ganesha", "/usr/lib/aarch64-linux-gnu/ganesha", "/usr/lib/ganesha"];
    let plugins = super::modules(&dirs, "libfsalvfs.so").display();
    let (dir, export) = (dir.display(), export.display());
    let (nfs, mount) = (Ganesha::NFS, Ganesha::MOUNT);
    format!(
        "NFS_CORE_PARAM {{ Protocols = 3; NFS_Port = {nfs}; MNT_Port = {mount}; Enable_UDP = false;
  Enable_NLM = false; Enable_RQUOTA = false; Plugins_Dir = {plugins}; }}
NFSV4 {{ Graceless = true; RecoveryRoot = {dir}; }}
NFS_KRB5 {{ Active_krb5 = false; }}
EXPORT {{ Export_Id = 1; Path = {export}; Pseudo = /nfs; Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
  Protocols = 3; Transports = TCP; PrivilegedPort = false; Attr_Expiration_Time = 0; FSAL {{ Name = VFS; }} }}
LOG {{ Default_Log_Level = EVENT; }}
"
    )
}
