//! What a site believes of who leads, told by sites that answer what they like.

use super::*;
use crate::clock::{BootTime, WallTime};
use crate::link::{Remote, SendError, Up};
use crate::tree::model::Model;

struct Still;
impl Clock for Still {
    fn boot(&self) -> BootTime {
        BootTime::default()
    }
    fn wall(&self) -> WallTime {
        WallTime::default()
    }
}

/// HQ, where nothing runs: only its catalog knows who leads.
struct Hq {
    me: SiteId,
    map: Arc<Map>,
    catalog: Arc<Catalog>,
    clock: Arc<dyn Clock>,
    moving: Moving,
    stop: CancellationToken,
    answers: Mutex<said::Lead>,
}

fn site(name: &str) -> SiteId {
    name.parse().unwrap()
}

fn share() -> ShareId {
    "eng".parse().unwrap()
}

fn lead(name: &str, epoch: u32) -> Lead {
    let (base, chain) = (Position::default(), Hash::default());
    Lead { epoch: Epoch(epoch), site: site(name), base, chain }
}

impl Hq {
    /// Osaka and Paris have copies, Lyon forwards everything. HQ leads since epoch 2.
    fn new() -> Arc<Self> {
        let roles =
            [("hq", "local"), ("osaka", "broadcast"), ("paris", "broadcast"), ("lyon", "remote")];
        let mut text = "serial = 1\n".to_owned();
        for (name, _) in roles {
            let door = "{ server = \"embedded\", listen = \"0.0.0.0:80\" }";
            text += &format!("[site.{name}]\nlink = \"{name}:1\"\nhttp = {door}\n");
        }
        text += "[share.eng]\nhttp = \"/eng\"\n";
        for (name, role) in roles {
            let path = if role == "remote" { "" } else { ", path = \"/eng\"" };
            text += &format!("{name} = {{ role = \"{role}\"{path} }}\n");
        }
        let map = crate::map::parse(&text).unwrap();
        let catalog = Catalog::in_memory(&Default::default()).unwrap();
        let shelf = catalog.share(&share()).unwrap();
        let mut batch = shelf.batch();
        batch.new_incarnation(Epoch(1));
        batch.set_meta(|meta| meta.lead = Some(lead("hq", 2)));
        shelf.commit(batch, true).wait().unwrap();
        Arc::new(Self {
            me: site("hq"),
            map: Arc::new(map),
            catalog,
            clock: Arc::new(Still),
            moving: Moving::default(),
            stop: CancellationToken::new(),
            answers: Mutex::default(),
        })
    }

    /// Whom HQ takes for the primary when `from` has answered so.
    async fn told(self: &Arc<Self>, from: &str, answer: &Lead) -> (String, u32) {
        *self.answers.lock().unwrap() = to_wire(answer);
        assert!(Leading(self.clone()).tell(&share(), &site(from)).await);
        let known = self.shelf(&share()).unwrap().meta().lead.unwrap();
        (known.site.to_string(), known.epoch.0)
    }
}

impl Host for Hq {
    type Tree = Model;

    fn me(&self) -> &SiteId {
        &self.me
    }
    fn map(&self) -> Arc<Map> {
        self.map.clone()
    }
    fn shelf(&self, share: &ShareId) -> Result<Arc<Shelf>, ServeError> {
        Ok(self.catalog.share(share)?)
    }
    fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
    fn links(&self) -> Arc<dyn Net> {
        Arc::new(Said(self.answers.lock().unwrap().clone()))
    }
    fn contact(&self, _: &SiteId) -> i64 {
        0
    }
    fn dial_too(&self, _: BTreeSet<SiteId>) {}
    fn home(&self, _: &ShareId) -> Option<Arc<Notice<Model>>> {
        None
    }
    fn copy(&self, _: &ShareId) -> Option<Arc<Follow<Model>>> {
        None
    }
    fn disk(&self, _: &ShareId) -> Option<Arc<Model>> {
        None
    }
    fn locks(&self, _: &ShareId) -> Vec<Lock> {
        Vec::new()
    }
    fn take_out(&self, _: &ShareId) -> Option<(bool, End)> {
        None
    }
    fn install(&self) -> Result<(), ServeError> {
        Ok(())
    }
    fn moving(&self) -> &Moving {
        &self.moving
    }
    fn stopping(&self) -> &CancellationToken {
        &self.stop
    }
}

/// Every site answers this.
#[derive(Clone)]
struct Said(said::Lead);

impl Net for Said {
    fn peer(&self, _: &SiteId) -> Option<Arc<dyn Remote>> {
        Some(Arc::new(self.clone()))
    }
    fn disagrees(&self, _: &SiteId, _: &ShareId) -> bool {
        false
    }
}

impl Remote for Said {
    fn up(&self) -> bool {
        true
    }
    fn watch(&self) -> tokio::sync::watch::Receiver<Up> {
        tokio::sync::watch::channel(Up::default()).1
    }
    fn send(
        &self,
        _: Class,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, SendError>> {
        assert_eq!(request.uri().path(), "/v1/share/eng/lead");
        let answer = reply(&self.0);
        async move { Ok(answer) }.boxed()
    }
}

#[tokio::test]
async fn a_later_primary_is_believed_of_itself_alone() {
    let hq = Hq::new();
    let before = || ("hq".to_owned(), 2);
    // One without a copy cannot lead, whoever tells of it.
    for (from, leads) in [("lyon", "lyon"), ("osaka", "lyon"), ("lyon", "osaka"), ("osaka", "paris")] {
        assert_eq!(hq.told(from, &lead(leads, 3)).await, before(), "{from} of {leads}");
    }
    // What is there of the old epoch goes on.
    assert_eq!(hq.told("osaka", &lead("osaka", 1)).await, before());
    assert_eq!(hq.told("osaka", &lead("osaka", 3)).await, ("osaka".to_owned(), 3));
}

#[tokio::test]
async fn nobody_leads_in_an_epoch_that_cannot_be() {
    let hq = Hq::new();
    let before = ("hq".to_owned(), 2);
    assert_eq!(hq.told("osaka", &lead("osaka", EPOCH_MAX)).await, before);
    assert_eq!(hq.told("osaka", &lead("osaka", 2 + 1025)).await, before);
    assert_eq!(hq.told("osaka", &lead("osaka", 2 + 1024)).await, ("osaka".to_owned(), 2 + 1024));
}

/// R33, R34: the known lead is of epoch 5, and goes on from (3, 100).
#[test]
fn of_other_copies_counts_what_is_in_the_history_that_goes_on() {
    let position = |epoch, seq| Position { epoch: Epoch(epoch), seq: Seq(seq) };
    let known = Lead { base: position(3, 100), ..lead("osaka", 5) };
    let report = |epoch, seq, accepted, confirmed| said::Report {
        epoch,
        seq,
        incarnation: Hash::default().0.to_vec().into(),
        confirmed,
        accepted,
        ..said::Report::default()
    };
    for (epoch, seq, accepted, confirmed, counts) in [
        (5, 120, 5, true, 120),
        (6, 130, 6, true, 130),
        (3, 90, 3, true, 90),
        (3, 140, 3, true, 100),
        (3, 140, 5, false, 100),
        // Where epoch 1 ended, it knows itself: that is behind what it has.
        (1, 80, 1, true, 0),
        (1, 80, 3, true, 0),
        (1, 80, 5, false, 0),
        (1, 40, 5, true, 40),
        // It may have heard of the lead, and whoever leads has not said that this is the beginning of its history:
        // one in between, of which it never heard, may have ended epoch 1 before that.
        (1, 40, 1, true, 0),
        // It led, or followed another, beside the one that counts.
        (4, 110, 4, true, 0),
    ] {
        let report = report(epoch, seq, accepted, confirmed);
        assert_eq!(counts_to(&report, &known), Seq(counts), "{report:?}");
    }
    let here = Head { at: position(1, 30), chain: Hash::default(), incarnation: Hash::default() };
    let reports = [
        (site("hq"), report(4, 160, 4, true)),
        (site("lyon"), report(1, 40, 5, true)),
        (site("paris"), report(1, 35, 5, true)),
    ];
    let found = furthest(&here, reports.iter(), &known).map(|(site, _)| site.as_str());
    assert_eq!(found, Some("lyon"));
    let here = Head { at: position(1, 40), ..here };
    assert!(furthest(&here, reports.iter(), &known).is_none());
}

/// R34: nobody is asked twice for what it did not have, and everybody for what is owed since then.
#[test]
fn who_was_asked_for_contents_is_asked_again_for_later_ones() {
    let report = |confirmed| said::Report { confirmed, ..said::Report::default() };
    let reports =
        [(site("lyon"), report(false)), (site("osaka"), report(true)), (site("paris"), report(true))];
    let mut gave = BTreeMap::new();
    let next =
        |gave: &_, owed| unasked(&reports, gave, Seq(owed)).map(|(site, _)| site.as_str().to_owned());
    assert_eq!(next(&gave, 10).as_deref(), Some("osaka"));
    gave.insert(site("osaka"), Seq(10));
    assert_eq!(next(&gave, 10).as_deref(), Some("paris"));
    // It brought a later record, whose content it has, and an older content that is another's.
    gave.insert(site("paris"), Seq(12));
    assert_eq!(next(&gave, 10), None);
    assert_eq!(next(&gave, 11).as_deref(), Some("osaka"));
}
