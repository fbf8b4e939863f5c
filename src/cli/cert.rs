//! `nearshare cert`: the cluster's private CA, its secret, and a bundle of files for each site.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::clock::Clock;
use crate::id::SiteId;
use crate::link::bundle;
use crate::link::cert::{Authority, SITE_DAYS, Secret};

/// Where the CA lives unless told.
const CA_DIR: &str = "/etc/nearshare/ca";
/// Where a site looks for its bundle unless the map says otherwise.
const SITE_DIR: &str = "/etc/nearshare";

/// Make the cluster's private CA, or a site's certificate
#[derive(Debug, clap::Args)]
pub struct CertArgs {
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CertCommand {
    /// Make the private CA and the cluster secret, once per cluster
    Init {
        /// Directory to make; must not exist or be empty
        #[arg(long, default_value = CA_DIR)]
        dir: PathBuf,
    },
    /// Issue a certificate for one site and write the bundle to copy there
    Issue {
        /// The site's name, as in the server map
        site: SiteId,
        /// Directory that `cert init` made
        #[arg(long, default_value = CA_DIR)]
        dir: PathBuf,
        /// Directory to make for the bundle [default: DIR/SITE]
        #[arg(long)]
        out: Option<PathBuf>,
        /// How long the certificate is valid
        #[arg(long, default_value_t = SITE_DAYS, value_name = "DAYS")]
        days: u32,
    },
}

/// Runs `nearshare cert`. The time comes from `clock`, what it did goes to standard output.
pub fn cert(args: &CertArgs, clock: &dyn Clock) -> anyhow::Result<()> {
    let told = match &args.command {
        CertCommand::Init { dir } => init(dir, clock)?,
        CertCommand::Issue { site, dir, out, days } => {
            let out = out.clone().unwrap_or_else(|| dir.join(site.as_str()));
            issue(site, dir, &out, *days, clock)?
        }
    };
    std::io::stdout().write_all(told.as_bytes()).context("cannot write to standard output")
}

fn init(dir: &Path, clock: &dyn Clock) -> anyhow::Result<String> {
    let ca = Authority::create(clock.wall())?;
    bundle::write_authority(dir, &ca, &Secret::generate()?)?;
    let dir = dir.display();
    Ok(format!(
        "The cluster's CA and secret are in {dir}.\n\
         Keep {dir}/ca.key here and nowhere else, and keep a copy of the directory in a safe place:\n\
         the secret is part of every object's identity and cannot be made again.\n\
         Next, for each site of the map: nearshare cert issue SITE --dir {dir}\n"
    ))
}

fn issue(site: &SiteId, dir: &Path, out: &Path, days: u32, clock: &dyn Clock) -> anyhow::Result<String> {
    let (ca, secret) = bundle::read_authority(dir)?;
    let issued = ca.issue(site, clock.wall(), days)?;
    bundle::write_bundle(out, &ca, &issued, &secret)?;
    let out = out.display();
    Ok(format!(
        "The bundle of {site} is in {out}, valid for {days} days.\n\
         Copy its four files to {SITE_DIR} on {site}, keeping their modes, and remove them here:\n\
         \x20 scp -p {out}/* root@{site}:{SITE_DIR}/ && rm -r {out}\n\
         A certificate is renewed the same way; sites take the new one at their next start.\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{BootTime, WallTime};
    use clap::Parser;

    struct Fixed;
    impl Clock for Fixed {
        fn boot(&self) -> BootTime {
            BootTime::default()
        }
        fn wall(&self) -> WallTime {
            WallTime(1_795_000_000_000_000_000)
        }
    }

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        cert: CertArgs,
    }

    fn run(line: &[&str]) -> anyhow::Result<()> {
        let args = Cli::try_parse_from(["cert"].iter().chain(line))?;
        cert(&args.cert, &Fixed)
    }

    #[test]
    fn init_and_issue_make_a_bundle_that_reads_back() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("ca");
        let dir_text = dir.to_str().unwrap();
        let early = run(&["issue", "hq", "--dir", dir_text]).unwrap_err().to_string();
        assert!(early.contains("nearshare cert init"), "{early}");
        run(&["init", "--dir", dir_text]).unwrap();
        assert!(run(&["init", "--dir", dir_text]).is_err());
        run(&["issue", "hq", "--dir", dir_text]).unwrap();
        let site = dir.join("hq");
        let identity = bundle::read_identity(
            &site.join(bundle::CA_CERT),
            &site.join(bundle::SITE_CERT),
            &site.join(bundle::SITE_KEY),
        );
        assert_eq!(identity.unwrap().site.as_str(), "hq");
        assert!(run(&["issue", "hq", "--dir", dir_text]).is_err());
        assert!(run(&["issue", "Not A Site", "--dir", dir_text]).is_err());
        assert!(run(&["issue", "lyon", "--dir", dir_text, "--days", "0"]).is_err());
    }
}
