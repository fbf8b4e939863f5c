//! Where log lines go and how they look. Only the program installs this, never the library.

use std::fmt;
use std::fs::File;
use std::io::{IsTerminal, Write as _};
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use nearshare::cli::run::LogFormat;
use nearshare::id::SiteId;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The log of a running site goes to standard error, and every line names the site.
pub fn to_stderr(verbose: u8, format: LogFormat, site: &SiteId) {
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter(verbose)).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(verbose > 0)
            .with_timer(TimeAndSite(site.clone()))
            .init(),
        LogFormat::Json => {
            let inner = tracing_subscriber::fmt::format().json();
            builder
                .fmt_fields(JsonFields::new())
                .event_format(OfSite { site: site.clone(), inner })
                .init();
        }
    }
}

/// The demonstration's log goes to a file, out of the way of what it tells.
pub fn to_file(path: &Path) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter(1))
        .with_writer(Mutex::new(file))
        .with_ansi(false)
        .init();
    Ok(())
}

/// A panic is one line as well. It is always a fault of the program.
pub fn on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let why = info.payload_as_str().unwrap_or("no text").replace('\n', " ");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("-");
        if tracing::dispatcher::has_been_set() {
            tracing::error!(
                place,
                thread,
                "panicked: {why}; this is a fault of nearshare, report this line"
            );
        } else {
            let line = format!("nearshare: panicked at {place}: {why}; this is a fault of nearshare\n");
            let _unread = std::io::stderr().write_all(line.as_bytes());
        }
    }));
}

/// `RUST_LOG` counts, if it is set; otherwise libraries speak up only when something is amiss, or when
/// everything is asked for.
fn filter(verbose: u8) -> EnvFilter {
    let wanted = std::env::var("RUST_LOG").ok().filter(|wanted| !wanted.is_empty());
    EnvFilter::new(match (&wanted, verbose) {
        (Some(wanted), _) => wanted.as_str(),
        (None, 0) => "warn,nearshare=info",
        (None, 1) => "warn,nearshare=debug",
        (None, _) => "trace",
    })
}

/// The time, then the site's name.
struct TimeAndSite(SiteId);

impl FormatTime for TimeAndSite {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        SystemTime.format_time(w)?;
        write!(w, " {}", self.0)
    }
}

/// A JSON line with the site in front.
struct OfSite {
    site: SiteId,
    inner: Format<Json>,
}

impl<S, N> FormatEvent<S, N> for OfSite
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        // A site's name has no character that JSON would have to escape.
        let rest = line.strip_prefix('{').unwrap_or(&line);
        write!(writer, "{{\"site\":\"{}\",{rest}", self.site)
    }
}
