//! How often a site is dialled that cannot be reached.

use std::time::Instant;

use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;

/// Takes connections, and notes when. Each is closed at once, or is the next part of a line to `to`.
struct Listener {
    address: SocketAddr,
    came: Arc<Mutex<Vec<Instant>>>,
    to: watch::Sender<Option<SocketAddr>>,
}

impl Listener {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, came) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Instant>>>::default());
        let to = watch::Sender::new(None);
        let (noted, mut open) = (came.clone(), to.subscribe());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                noted.lock().unwrap().push(Instant::now());
                let Some(to) = *open.borrow_and_update() else { continue };
                let mut open = open.clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = open.wait_for(Option::is_none) => {}
                    }
                });
            }
        });
        Self { address, came, to }
    }
    fn came(&self) -> usize {
        self.came.lock().unwrap().len()
    }
    /// Milliseconds between two attempts and the next.
    fn gaps(&self) -> Vec<f64> {
        let came = self.came.lock().unwrap();
        came.windows(2).map(|two| (two[1] - two[0]).as_secs_f64() * 1e3).collect()
    }
}

/// `name` dials `hq` at the listener.
async fn dials(cluster: &Cluster, name: &str, at: &Listener, limits: Limits) -> Arc<Links> {
    let terms = terms(&["hq", "osaka", "lyon"], &[("hq", at.address)]);
    start_with(cluster.config(name), terms, Arc::new(Answers::default()), limits).await
}

/// Two sites lose one peer: neither burdens it, and they do not come back in step.
#[tokio::test(flavor = "multi_thread")]
async fn who_closes_at_once_is_dialled_seldom_and_not_by_all_at_a_time() {
    const FIRST: f64 = 5.0;
    const LONGEST: f64 = 50.0;
    let cluster = Cluster::new();
    let (one, two) = (Listener::new().await, Listener::new().await);
    let _osaka = dials(&cluster, "osaka", &one, QUICK()).await;
    let _lyon = dials(&cluster, "lyon", &two, QUICK()).await;
    let over = || [&one, &two].iter().all(|at| at.gaps().iter().sum::<f64>() > 1000.0 && at.came() > 40);
    until("a second and some attempts", over).await;
    // When the pauses are as long as they get.
    let steady = |at: &Listener| at.gaps().split_off((LONGEST / FIRST).log2().ceil() as usize);
    for at in [&one, &two] {
        let gaps = at.gaps();
        let mut passed = 0.0;
        let first_second = gaps.iter().take_while(|gap| {
            passed += **gap;
            passed <= 1000.0
        });
        // 42 on the average, by chance 4 more or less. With the first pause alone there are some 150.
        let many = 1 + first_second.count();
        assert!(many <= 70, "{many} in a second");
        // They have grown: half the longest on the average. And they may be anything, no fixed step.
        let steady = steady(at);
        assert!(steady.iter().sum::<f64>() > LONGEST / 4.0 * steady.len() as f64, "{gaps:?}");
        assert!(steady.iter().any(|gap| *gap < LONGEST * 0.9), "{gaps:?}");
    }
    let apart = steady(&one).iter().zip(steady(&two)).any(|(one, two)| (one - two).abs() > FIRST);
    assert!(apart, "{:?} {:?}", one.gaps(), two.gaps());
}

/// The pauses before a session that lasted say nothing of the time after it.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_session_that_lived_it_is_dialled_at_once_again() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let at = Listener::new().await;
    let lived = Duration::from_millis(50);
    let backoff = (Duration::from_millis(5), Duration::from_secs(3600));
    let osaka = dials(&cluster, "osaka", &at, Limits { backoff, lived, ..QUICK() }).await;
    // The next pause is 2.5 s at the most, the one behind it 5 s, and so on.
    until("nine attempts", || at.came() >= 9).await;
    at.to.send_replace(Some(hq.local_addr()));
    until("the control connection", || osaka.states().iter().any(|state| state.up)).await;
    tokio::time::sleep(lived * 2).await;
    at.to.send_replace(None);
    let ended = Instant::now();
    until("it is down", || osaka.states().iter().all(|state| !state.up)).await;
    let before = at.came();
    until("it is dialled again and again", || at.came() >= before + 5).await;
    // 155 ms at the most, and 38 s on the average if it went on where it was.
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
}
