//! Two sites that let each other in.

use super::*;
use crate::link::frames::{self, FrameReader};
use crate::link::{Direction, SendError};

#[tokio::test]
async fn both_connections_come_up_and_carry_requests() {
    let cluster = Cluster::new();
    let answers = Arc::new(Answers::default());
    let hq =
        start_with(cluster.config("hq"), terms(&["hq", "osaka"], &[]), answers.clone(), QUICK()).await;
    let osaka = cluster.osaka(hq.local_addr()).await;
    let peer = osaka.peer(&site("hq")).unwrap();
    let mut watch = peer.watch();
    let up = *watch.wait_for(|up| up.up).await.unwrap();
    until("both connections", || both_up(&osaka, "hq") && both_up(&hq, "osaka")).await;
    for class in Class::ALL {
        let response = peer.send(class, get("/who")).await.unwrap();
        assert_eq!(text(response).await, format!("osaka {}", class.as_str()));
    }
    assert!(answers.callers.lock().unwrap().iter().all(|from| Some(from.session) == up.session));

    let [dialled] = &osaka.states()[..] else { panic!("one link") };
    assert_eq!((dialled.direction, dialled.session), (Direction::Dialled, up.session));
    assert!(dialled.rtt_ms.is_some_and(|ms| ms > 0.0), "{dialled:?}");
    assert_eq!(dialled.address, Some(hq.local_addr()));
    assert!(dialled.map.as_ref().is_some_and(|map| map.same_map));
    let [accepted] = &hq.states()[..] else { panic!("one link") };
    assert_eq!((accepted.direction, accepted.session), (Direction::Accepted, up.session));
    assert!(serde_json::to_string(&osaka.states()).unwrap().contains("\"site\":\"hq\""));
    assert!(hq.refused().is_empty() && osaka.refused().is_empty());

    hq.shutdown().await;
    watch.wait_for(|up| !up.up).await.unwrap();
    osaka.shutdown().await;
}

#[derive(Clone, PartialEq, prost::Message)]
struct Ping {
    #[prost(uint64, tag = "1")]
    number: u64,
}

#[tokio::test]
async fn frames_go_both_ways_at_once() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let osaka = cluster.osaka(hq.local_addr()).await;
    until("both connections", || both_up(&osaka, "hq")).await;
    let peer = osaka.peer(&site("hq")).unwrap();
    for class in Class::ALL {
        let (sender, body) = frames::sender(64);
        let request = Request::post("/echo").body(body).unwrap();
        let mut reader = FrameReader::new(peer.send(class, request).await.unwrap().into_body());
        // Each comes back before the next is sent: nothing waits for the end of the body.
        for number in 0..100 {
            sender.send(&Ping { number }).await.unwrap();
            assert_eq!(reader.next::<Ping>(64).await.unwrap(), Some(Ping { number }));
        }
        sender.finish().await.unwrap();
        assert_eq!(reader.next::<Ping>(64).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_long_body_goes_no_further_ahead_than_its_window() {
    const MIB: u64 = 64;
    let cluster = Cluster::new();
    let answers = Arc::new(Answers::default());
    let hq =
        start_with(cluster.config("hq"), terms(&["hq", "osaka"], &[]), answers.clone(), QUICK()).await;
    let osaka = cluster.osaka(hq.local_addr()).await;
    until("both connections", || both_up(&osaka, "hq")).await;
    let peer = osaka.peer(&site("hq")).unwrap();
    for class in Class::ALL {
        let limits = class.limits();
        // A request's window, what HTTP/2 buffers for it, and a piece that waits to fit.
        let ahead = u64::from(limits.window) + limits.buffer as u64 + 2 * PIECE as u64;
        answers.flooded.store(0, Ordering::SeqCst);
        let response = peer.send(class, get(&format!("/flood/{MIB}"))).await.unwrap();
        let (mut body, mut read) = (response.into_body(), 0u64);
        while let Some(frame) = body.frame().await {
            read += frame.unwrap().into_data().unwrap().len() as u64;
            let flooded = answers.flooded.load(Ordering::SeqCst);
            assert!(flooded <= read + ahead, "{class:?}: {flooded} sent, {read} read");
            // A small request gets through between the pieces of a long answer that nobody reads.
            if read.is_multiple_of(8 << 20) {
                assert_eq!(
                    text(peer.send(class, get("/who")).await.unwrap()).await.len(),
                    format!("osaka {}", class.as_str()).len()
                );
            }
        }
        assert_eq!(read, MIB << 20);
    }
}

#[tokio::test]
async fn a_long_body_goes_up_as_well() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let osaka = cluster.osaka(hq.local_addr()).await;
    until("both connections", || both_up(&osaka, "hq")).await;
    let peer = osaka.peer(&site("hq")).unwrap();
    let flooded = Arc::<AtomicU64>::default();
    let request = Request::post("/echo").body(flood(64, flooded.clone())).unwrap();
    let mut body = peer.send(Class::Bulk, request).await.unwrap().into_body();
    let mut read = 0u64;
    // Two windows, one each way.
    let limits = Class::Bulk.limits();
    let ahead = 2 * (u64::from(limits.window) + limits.buffer as u64 + 2 * PIECE as u64);
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        for (n, byte) in data.iter().enumerate().step_by(4099) {
            assert_eq!(*byte, ((read as usize + n) >> 16) as u8);
        }
        read += data.len() as u64;
        assert!(flooded.load(Ordering::SeqCst) <= read + ahead);
    }
    assert_eq!(read, 64 << 20);
}

/// Answers that nobody reads fill their own windows and nobody else's.
#[tokio::test]
async fn who_reads_nothing_holds_up_nobody() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let osaka = cluster.osaka(hq.local_addr()).await;
    until("both connections", || both_up(&osaka, "hq")).await;
    let peer = osaka.peer(&site("hq")).unwrap();
    for class in Class::ALL {
        let mut unread = Vec::new();
        for _ in 0..40 {
            unread.push(peer.send(class, get("/flood/3")).await.unwrap());
        }
        let others = async {
            assert_eq!(
                text(peer.send(class, get("/who")).await.unwrap()).await,
                format!("osaka {}", class.as_str())
            );
            let response = peer.send(class, get("/flood/8")).await.unwrap();
            assert_eq!(drain(response.into_body().into()).await, 8 << 20);
        };
        tokio::time::timeout(Duration::from_secs(60), others).await.expect("others stand still");
        drop(unread);
    }
}

/// Of bodies that are taken one after the other the first comes to its end.
#[tokio::test]
async fn bodies_that_wait_for_each_other_all_arrive() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let osaka = cluster.osaka(hq.local_addr()).await;
    until("both connections", || both_up(&osaka, "hq")).await;
    let peer = osaka.peer(&site("hq")).unwrap();
    for many in [5, 40] {
        let sending = (0..many).map(|_| {
            let peer = peer.clone();
            async move {
                let body = flood(10, Arc::default());
                let request = Request::put("/in-turn").body(body).unwrap();
                text(peer.send(Class::Bulk, request).await.unwrap()).await
            }
        });
        let all = futures_util::future::join_all(sending);
        let taken = tokio::time::timeout(Duration::from_secs(120), all).await.expect("a deadlock");
        assert!(taken.iter().all(|bytes| *bytes == (10 << 20).to_string()), "{taken:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_fails_at_once_and_says_so() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let osaka = cluster.osaka(hq.local_addr()).await;
    let peer = osaka.peer(&site("hq")).unwrap();
    until("both connections", || both_up(&osaka, "hq")).await;
    let asking = {
        let peer = peer.clone();
        tokio::spawn(async move { peer.send(Class::Control, get("/never")).await })
    };
    until("the request is there", || !asking.is_finished() && peer.up()).await;
    text(peer.send(Class::Control, get("/who")).await.unwrap()).await;
    hq.shutdown().await;
    let lost = asking.await.unwrap().err().unwrap();
    assert!(matches!(lost, SendError::Lost { .. }), "{lost}");
    until("the link is down", || !peer.up()).await;
    for class in Class::ALL {
        let error = peer.send(class, get("/who")).await.err().unwrap();
        assert!(matches!(error, SendError::NotSent { .. }), "{error}");
    }
    let state = &osaka.states()[0];
    until("it says why", || osaka.states()[0].last_error.is_some()).await;
    assert!(!state.up && state.session.is_none());
}

#[tokio::test]
async fn the_dialler_ends_whatever_it_waits_for() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let osaka = cluster.osaka(hq.local_addr()).await;
    until("both connections", || both_up(&osaka, "hq")).await;
    let peer = osaka.peer(&site("hq")).unwrap();
    let mut asking = Box::pin(peer.send(Class::Control, get("/never")));
    assert!(futures_util::poll!(&mut asking).is_pending());
    osaka.shutdown().await;
    assert!(asking.await.is_err());
    until("the link is down", || !hq.states()[0].up).await;
}

#[tokio::test]
async fn a_request_too_many_is_refused_here() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let osaka = cluster.osaka(hq.local_addr()).await;
    until("both connections", || both_up(&osaka, "hq")).await;
    let peer = osaka.peer(&site("hq")).unwrap();
    let limit = Class::Bulk.limits().streams as usize;
    let mut waiting: Vec<_> =
        (0..limit).map(|_| Box::pin(peer.send(Class::Bulk, get("/never")))).collect();
    for request in &mut waiting {
        assert!(futures_util::poll!(request).is_pending());
    }
    let error = peer.send(Class::Bulk, get("/who")).await.err().unwrap();
    assert!(matches!(error, SendError::NotSent { .. }), "{error}");
    drop(waiting);
    text(peer.send(Class::Bulk, get("/who")).await.unwrap()).await;
}
