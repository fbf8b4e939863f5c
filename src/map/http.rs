//! `http` of a site: its door, and who may come in how often.

use std::path::PathBuf;
use std::time::Duration;

use super::read::{At, Reader, Section};
use super::rules::Fact;
use super::value::{self, text, wrong_type};
use super::{CertificateFiles, HttpDoor, HttpServer, HttpTls, Need, NeedKind};

pub(super) const HTTP_KEYS: &[&str] =
    &["client_connections", "client_rate", "host", "listen", "server", "server_timeout", "tls", "via"];
pub(super) const TLS_KEYS: &[&str] = &["certificates", "listen"];
pub(super) const CERTIFICATE_KEYS: &[&str] = &["certificate", "key"];

const HTTP_EXAMPLE: &str = r#"{ server = "http://127.0.0.1:8080", listen = "0.0.0.0:80" }"#;
const CERTIFICATE_EXAMPLE: &str =
    r#"{ certificate = "/etc/nearshare/files.pem", key = "/etc/nearshare/files.key" }"#;
const CERTIFICATES_EXAMPLE: &str =
    r#"[{ certificate = "/etc/nearshare/files.pem", key = "/etc/nearshare/files.key" }]"#;
const TLS_EXAMPLE: &str = r#"{ listen = "0.0.0.0:443", certificates = [{ certificate = "/etc/nearshare/files.pem", key = "/etc/nearshare/files.key" }] }"#;

/// Default of `server_timeout`: nginx's `proxy_read_timeout`.
const SERVER_TIMEOUT: Duration = Duration::from_secs(60);
const SERVER_TIMEOUT_LEAST: Duration = Duration::from_secs(1);
const SERVER_TIMEOUT_MOST: Duration = Duration::from_secs(3600);

/// Default of `client_connections`: a whole office may come from one address.
const CLIENT_CONNECTIONS: u64 = 4096;

impl<'t> Reader<'t> {
    pub(super) fn http_door(&mut self, site: &'t str, section: &Section<'t>) -> Option<HttpDoor> {
        let section = self.table(section, "http", HTTP_EXAMPLE)?;
        self.unknown(&section, HTTP_KEYS);
        let example = "\"http://127.0.0.1:8080\"";
        let server = self.required(&section, "server", example, text(example, value::http_server));
        let listen = self.listen(site, "http", &section);
        let host = self.optional(&section, "host", text("\"files.example.com\"", value::host));
        let server_timeout = self.optional(
            &section,
            "server_timeout",
            text("a duration such as \"60s\"", |duration| {
                value::duration(duration, SERVER_TIMEOUT_LEAST, SERVER_TIMEOUT_MOST)
            }),
        );
        let via = self.optional(&section, "via", value::boolean);
        let example = "a number such as 1000, without quotes";
        let connections = self.optional(&section, "client_connections", value::count(1, example));
        let rate = self.optional(&section, "client_rate", value::count(1, example));
        let tls = self.tls(site, &section);
        if let (Some(At { it: HttpServer::Embedded, .. }), Ok(site)) = (&server, site.parse()) {
            self.facts.embedded.insert(site);
        }
        if let Some(At { at, it: HttpServer::Url(url) }) = &server {
            self.facts.servers.push(Fact { site, of: "http", at: *at, it: url.clone() });
        }
        Some(HttpDoor {
            server: server?.it,
            listen: listen?.it,
            host: host.map(|host| host.it),
            server_timeout: server_timeout.map_or(SERVER_TIMEOUT, |timeout| timeout.it),
            via: via.is_some_and(|via| via.it),
            client_connections: connections.map_or(CLIENT_CONNECTIONS, |most| most.it),
            client_rate: rate.map(|rate| u32::try_from(rate.it).unwrap_or(u32::MAX)),
            tls,
        })
    }

    fn tls(&mut self, site: &'t str, door: &Section<'t>) -> Option<HttpTls> {
        let section = self.table(door, "tls", TLS_EXAMPLE)?;
        self.unknown(&section, TLS_KEYS);
        let listen = self.listen(site, "tls", &section);
        let Some((_, value)) = section.entry("certificates") else {
            let what = format!("{} has no `certificates`", section.title);
            self.absent(section.at, what, format!("add certificates = {CERTIFICATES_EXAMPLE}"));
            return None;
        };
        let at = value.span().start;
        let Some(array) = value.get_ref().as_array() else {
            if let Err(wrong) = wrong_type::<()>(value.get_ref(), "array", CERTIFICATES_EXAMPLE) {
                self.wrong(at, format!("`certificates` {}", wrong.what), wrong.right);
            }
            return None;
        };
        if array.is_empty() {
            self.wrong(at, "`certificates` is empty", format!("write {CERTIFICATES_EXAMPLE}"));
        }
        let mut certificates = Vec::new();
        for value in array.iter() {
            let at = value.span().start;
            let title = format!("`certificates` of {}", section.title);
            let key = At { at, it: "certificates" };
            let Some(table) = self.as_table(key, value, title, CERTIFICATE_EXAMPLE) else { continue };
            self.unknown(&table, CERTIFICATE_KEYS);
            let certificate = self.own_file(site, &table, "certificate", NeedKind::Readable);
            let key = self.own_file(site, &table, "key", NeedKind::Private);
            if let (Some(certificate), Some(key)) = (certificate, key) {
                certificates.push(CertificateFiles { certificate, key });
            }
        }
        Some(HttpTls { listen: listen?.it, certificates })
    }

    /// A file that the site must find, and that no share may show.
    fn own_file(
        &mut self,
        site: &'t str,
        section: &Section<'t>,
        of: &'static str,
        kind: NeedKind,
    ) -> Option<PathBuf> {
        let example = match of {
            "key" => "\"/etc/nearshare/files.key\"",
            _ => "\"/etc/nearshare/files.pem\"",
        };
        let At { at, it } = self.required(section, of, example, text(example, value::absolute_path))?;
        if let Ok(site) = site.parse() {
            let need = Need { site, path: it.clone(), kind, line: 0, column: 0 };
            self.facts.needs.push(At { at, it: need });
        }
        self.facts.own.push(Fact { site, of, at, it: it.clone() });
        Some(it)
    }
}
