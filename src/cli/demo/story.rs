//! What the demonstration shows, step by step. Every claim is checked before it is printed, with HTTP
//! requests of a client and with what lies on the sites' disks.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::net::TcpStream;

use super::compare::same;
use super::ground::{Ground, SHARE};
use super::say;
use crate::admin::ShareState;
use crate::cli::http::{Answer, exchange};
use crate::clock::Clock;
use crate::link::Direction;

/// For one request.
const ANSWER: Duration = Duration::from_secs(10);
const BODY_MAX: usize = 1 << 20;
/// For whatever is to come by itself, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(5);

pub(super) struct Story<'g> {
    pub ground: &'g Ground,
    pub clock: &'g dyn Clock,
}

impl Story<'_> {
    /// The whole story; the first claim that does not hold ends it.
    pub async fn tell(&self) -> anyhow::Result<()> {
        self.fill().await?;
        self.write_goes_home().await?;
        self.read_is_near().await?;
        self.edit_follows().await?;
        self.cut().await?;
        self.heal().await
    }

    async fn fill(&self) -> anyhow::Result<()> {
        step("The sites connect, and the copies at Lyon and Osaka fill from HQ.");
        let ready = || {
            for (name, site) in self.ground.sites() {
                let status = site.status();
                for share in &status.shares {
                    if !matches!(share.state, ShareState::Ok | ShareState::Following) {
                        return Err(format!("{name} is {}", share.state.as_str()));
                    }
                }
            }
            self.all_same()
        };
        let (entries, took) = self.until("three equal trees", ready).await?;
        shown(format!(
            "{entries} files and directories are the same at all three sites, after {}",
            ms(took)
        ));
        Ok(())
    }

    async fn write_goes_home(&self) -> anyhow::Result<()> {
        step("A client at Lyon writes plan.txt. Writes are done at the primary's site, HQ.");
        let text = "the plan, as Lyon wrote it\n";
        let (answer, took) = self.send("lyon", Method::PUT, "plan.txt", text).await?;
        claim(
            answer.status == StatusCode::CREATED,
            format!("PUT at Lyon: 201, in {}", ms(took)),
            &told(&answer),
        )?;
        let at_hq = self.file("hq", "plan.txt")?;
        let found = fs::read_to_string(&at_hq).unwrap_or_else(|error| error.to_string());
        claim(found == text, format!("it is on HQ's disk: {}", at_hq.display()), &found)?;

        let (answer, took) = self.send("lyon", Method::GET, "plan.txt", "").await?;
        let good = answer.status == StatusCode::OK && answer.text() == text;
        claim(good, format!("Lyon reads its own write at once, in {}", ms(took)), &told(&answer))
    }

    async fn read_is_near(&self) -> anyhow::Result<()> {
        step("A client at Osaka reads plan.txt. Reads are answered from the near copy.");
        let text = self.read_at_hq("plan.txt")?;
        let near = self.file("osaka", "plan.txt")?;
        let (_, took) = self.until("plan.txt at Osaka", || equal(&near, &text)).await?;
        shown(format!("Osaka's own disk has it, {} later: {}", ms(took), near.display()));
        let (answer, took) = self.send("osaka", Method::GET, "plan.txt", "").await?;
        let good = answer.status == StatusCode::OK && answer.text() == text;
        claim(good, format!("GET at Osaka: 200, in {}", ms(took)), &told(&answer))?;
        self.lease().await?;
        shown("Osaka has a lease: HQ asks it before anything changes, so it may answer for itself");
        self.cut_line().await?;
        let (answer, took) = self.send("osaka", Method::GET, "plan.txt", "").await?;
        let good = answer.status == StatusCode::OK && answer.text() == text;
        let near =
            format!("and the same with the line to HQ cut, in {}: nobody at HQ was asked", ms(took));
        claim(good, near, &told(&answer))?;
        self.heal_line().await
    }

    async fn edit_follows(&self) -> anyhow::Result<()> {
        step("A client at HQ edits plan.txt. Every copy follows.");
        let text = "the plan, second edition, from HQ\n";
        let (answer, took) = self.send("hq", Method::PUT, "plan.txt", text).await?;
        claim(
            answer.status.is_success(),
            format!("PUT at HQ: {}, in {}", answer.status.as_u16(), ms(took)),
            &told(&answer),
        )?;
        let original = self.file("hq", "plan.txt")?;
        let (lyon, osaka) = (self.file("lyon", "plan.txt")?, self.file("osaka", "plan.txt")?);
        let look = || {
            equal(&lyon, text)?;
            equal(&osaka, text)?;
            same_time(&original, &lyon)?;
            same_time(&original, &osaka)
        };
        let (time, took) = self.until("the edit at Lyon and Osaka", look).await?;
        shown(format!("it is on both copies' disks {} after the answer", ms(took)));
        shown(format!(
            "with the same content and the same time, to the nanosecond: {}.{:09}",
            time.0, time.1
        ));
        for site in ["lyon", "osaka"] {
            let (answer, _) = self.send(site, Method::GET, "plan.txt", "").await?;
            claim(answer.text() == text, format!("GET at {site} gives the new text"), &told(&answer))?;
        }
        Ok(())
    }

    async fn cut(&self) -> anyhow::Result<()> {
        step("The line between Osaka and HQ is cut.");
        self.lease().await?;
        self.cut_line().await?;
        let before = self.read_at_hq("plan.txt")?;
        let (answer, took) = self.send("osaka", Method::GET, "plan.txt", "").await?;
        let good = answer.status == StatusCode::OK && answer.text() == before;
        claim(
            good,
            format!("reads go on at Osaka, its lease is good for 5 s: 200, in {}", ms(took)),
            &told(&answer),
        )?;

        let (answer, _) = self.send("osaka", Method::PUT, "from-osaka.txt", "from Osaka\n").await?;
        let after = answer.field(RETRY_AFTER.as_str()).unwrap_or("nothing").to_owned();
        let refused = answer.status == StatusCode::SERVICE_UNAVAILABLE && after.parse::<u32>().is_ok();
        claim(refused, format!("a write there is refused: 503, Retry-After: {after}"), &told(&answer))?;
        for site in ["osaka", "hq"] {
            let file = self.file(site, "from-osaka.txt")?;
            if file.exists() {
                bail!("the refused write was done at {site}: {} is there", file.display());
            }
        }
        shown("and nothing of it was done, at Osaka or at HQ");

        let text = "the plan, third edition, while Osaka is cut off\n";
        let (put, took) = self.send("hq", Method::PUT, "plan.txt", text).await?;
        let (deleted, _) = self.send("hq", Method::DELETE, "drawings/003.txt", "").await?;
        let done = put.status.is_success() && deleted.status.is_success();
        let otherwise = format!("{} and {}", told(&put), told(&deleted));
        let waited = format!(
            "HQ edits plan.txt when Osaka's lease is over, in {}, and deletes a drawing at once",
            ms(took)
        );
        claim(done, waited, &otherwise)?;
        let (lyon, gone) = (self.file("lyon", "plan.txt")?, self.file("lyon", "drawings/003.txt")?);
        let look = || match gone.exists() {
            true => Err(format!("{} is still there", gone.display())),
            false => equal(&lyon, text),
        };
        let (_, took) = self.until("both changes at Lyon", look).await?;
        shown(format!("Lyon has both {} later", ms(took)));
        let answer = self.patiently("osaka", Method::GET, "plan.txt", "").await?;
        let good = answer.status == StatusCode::OK && answer.text() == before;
        let text = "Osaka is cut off for certain, and serves what it has: the second edition";
        claim(good, text, &told(&answer))
    }

    async fn heal(&self) -> anyhow::Result<()> {
        step("The line is healed.");
        self.ground.cable.heal();
        let (_, took) = self.until("three equal trees", || self.all_same()).await?;
        shown(format!("Osaka has caught up by itself, {} later", ms(took)));
        let answer = self.patiently("osaka", Method::PUT, "from-osaka.txt", "from Osaka\n").await?;
        let good = answer.status == StatusCode::CREATED;
        claim(good, "Osaka's client tries its write again: 201", &told(&answer))?;
        let written = self.file("osaka", "from-osaka.txt")?;
        let look = || equal(&written, "from Osaka\n").and_then(|()| self.all_same());
        let (entries, _) = self.until("three equal trees", look).await?;
        shown(format!("{entries} files and directories compared: HQ, Lyon and Osaka are identical"));
        Ok(())
    }

    /// Until Osaka may answer for itself. Who does not read gets no lease.
    async fn lease(&self) -> anyhow::Result<()> {
        let osaka = self.ground.site("osaka")?;
        let began = self.clock.boot();
        loop {
            self.send("osaka", Method::GET, "plan.txt", "").await?;
            let status = osaka.status();
            let copy = status.shares.iter().find_map(|share| share.copy.as_ref());
            if copy.is_some_and(|copy| copy.lease == Some("live") && copy.held + copy.ahead == 0) {
                return Ok(());
            }
            if self.clock.boot().since(began) > PATIENCE {
                bail!("Osaka has no lease: {copy:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A request that is tried again while the answer is to do so.
    async fn patiently(
        &self,
        site: &str,
        method: Method,
        path: &str,
        text: &'static str,
    ) -> anyhow::Result<Answer> {
        let began = self.clock.boot();
        loop {
            let (answer, _) = self.send(site, method.clone(), path, text).await?;
            let waited = self.clock.boot().since(began);
            if answer.status != StatusCode::SERVICE_UNAVAILABLE || waited > PATIENCE {
                return Ok(answer);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Cuts the line, and waits until Osaka has noticed.
    async fn cut_line(&self) -> anyhow::Result<()> {
        self.ground.cable.cut();
        self.line("the end of the link", false).await
    }
    async fn heal_line(&self) -> anyhow::Result<()> {
        self.ground.cable.heal();
        self.line("the link", true).await
    }
    async fn line(&self, what: &str, up: bool) -> anyhow::Result<()> {
        let osaka = self.ground.site("osaka")?;
        let look = || {
            let status = osaka.status();
            let mut dialled = status.links.iter().filter(|link| link.direction == Direction::Dialled);
            let is = dialled.any(|link| link.up && (!up || link.bulk));
            if is == up {
                Ok(())
            } else {
                Err(format!("Osaka's link is {}", if is { "up" } else { "down" }))
            }
        };
        self.until(what, look).await.map(|_| ())
    }

    /// How many entries all three trees have, or the first difference.
    fn all_same(&self) -> Result<usize, String> {
        let mut shares = self.ground.places.iter().map(|place| place.share());
        let first = shares.next().unwrap_or_default();
        shares.try_fold(0, |_, other| same(&first, &other))
    }

    fn file(&self, site: &str, name: &str) -> anyhow::Result<PathBuf> {
        Ok(self.ground.place(site)?.share().join(name))
    }
    fn read_at_hq(&self, name: &str) -> anyhow::Result<String> {
        let file = self.file("hq", name)?;
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }

    /// One request of a client, and how long its answer took.
    async fn send(
        &self,
        site: &str,
        method: Method,
        name: &str,
        body: &str,
    ) -> anyhow::Result<(Answer, Duration)> {
        let door = self.ground.place(site)?.door;
        let request = Request::builder()
            .method(&method)
            .uri(format!("/{SHARE}/{name}"))
            .header(HOST, door.to_string())
            .body(Full::new(Bytes::from(body.to_owned())))?;
        let began = self.clock.boot();
        let asking = || format!("{method} http://{door}/{SHARE}/{name}");
        let stream = TcpStream::connect(door).await.with_context(asking)?;
        let answer = exchange(stream, request, BODY_MAX, ANSWER).await.with_context(asking)?;
        Ok((answer, self.clock.boot().since(began)))
    }

    /// Looks until it is there; what it gave, and how long it took.
    async fn until<T>(
        &self,
        what: &str,
        mut look: impl FnMut() -> Result<T, String>,
    ) -> anyhow::Result<(T, Duration)> {
        let began = self.clock.boot();
        loop {
            let found = look();
            let took = self.clock.boot().since(began);
            match found {
                Ok(found) => return Ok((found, took)),
                Err(why) if took > PATIENCE => {
                    bail!("{} s were not enough for {what}: {why}", PATIENCE.as_secs())
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

fn step(what: &str) {
    say(&format!("\n{what}"));
}

fn shown(what: impl Display) {
    say(&format!("  ok  {what}"));
}

/// Prints what holds, or fails with it and with what is so instead.
fn claim(holds: bool, what: impl Display, otherwise: &str) -> anyhow::Result<()> {
    if !holds {
        bail!("this does not hold: {what}\ninstead: {otherwise}");
    }
    shown(what);
    Ok(())
}

/// An answer, for when it was another than it should be.
fn told(answer: &Answer) -> String {
    format!("{}, {:?}, {:?}", answer.status, answer.fields, answer.text())
}

fn equal(file: &Path, text: &str) -> Result<(), String> {
    match fs::read_to_string(file) {
        Ok(found) if found == text => Ok(()),
        Ok(found) => Err(format!("{} holds {found:?}", file.display())),
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
}

/// The time that both have, in seconds and nanoseconds.
fn same_time(first: &Path, second: &Path) -> Result<(i64, i64), String> {
    let time = |file: &Path| match fs::metadata(file) {
        Ok(found) => Ok((found.mtime(), found.mtime_nsec())),
        Err(error) => Err(format!("{}: {error}", file.display())),
    };
    let (left, right) = (time(first)?, time(second)?);
    if left == right { Ok(left) } else { Err(format!("time {left:?} and {right:?}")) }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
