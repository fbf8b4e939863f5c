//! One answer never mixes two versions: what runs while a file is written into (R22).

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::{mpsc, watch};

use super::copy::two;
use super::*;
use crate::body::BoxError;
use crate::plant::{Bug, plant};

/// A server that reads a file while it sends it: "old" when it is asked for, and "more" when something has
/// been changed, whatever that is by then.
#[derive(Clone)]
struct Server {
    readers: Arc<Mutex<Vec<mpsc::Sender<Bytes>>>>,
    /// It answers reads, and makes changes.
    reads: Arc<watch::Sender<bool>>,
    changes: Arc<watch::Sender<bool>>,
}

impl Server {
    fn new() -> Self {
        let (reads, changes) = (Arc::new(watch::Sender::new(true)), Arc::new(watch::Sender::new(true)));
        Self { readers: Arc::default(), reads, changes }
    }
    async fn answer(self, line: String) -> Response<Body> {
        let is_read = line.starts_with("GET");
        let may = if is_read { &self.reads } else { &self.changes };
        may.subscribe().wait_for(|may| *may).await.unwrap();
        let mut readers = self.readers.lock().unwrap();
        if !is_read {
            readers.drain(..).for_each(|reader| reader.try_send("more".into()).unwrap());
            return status(204);
        }
        let (reader, pieces) = mpsc::channel(2);
        reader.try_send("old".into()).unwrap();
        readers.push(reader);
        let pieces = stream::unfold(pieces, |mut pieces| async move {
            let piece = pieces.recv().await?;
            Some((Ok::<_, BoxError>(Frame::data(piece)), pieces))
        });
        Response::new(Body::boxed(StreamBody::new(pieces)))
    }
    async fn primary(&self, log: &Log) -> Arc<HttpRelay> {
        let server = self.clone();
        Arc::new(primary(log, move |line| server.clone().answer(line)).await)
    }
}

/// The answer to a GET, of which the first piece has come.
async fn begin(relay: &HttpRelay, uri: &str) -> Body {
    let response = relay.serve(client(), request("GET", uri, Body::Empty)).await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert_eq!(next(&mut body).await, "old");
    body
}

async fn next(body: &mut Body) -> String {
    match body.frame().await {
        None => "end".into(),
        Some(Err(_)) => "cut".into(),
        Some(Ok(frame)) => String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap(),
    }
}

/// `to`: a COPY's.
async fn change(relay: &HttpRelay, method: &str, uri: &str, to: &str) -> StatusCode {
    let mut request = request(method, uri, Body::Empty);
    if !to.is_empty() {
        request.headers_mut().insert("destination", format!("http://files{to}").parse().unwrap());
    }
    relay.serve(client(), request).await.status()
}

/// With the rule, and then without it.
async fn shows(play: impl AsyncFn() -> String, with: &str, without: &str) {
    assert_eq!(play().await, with);
    plant(Some(Bug::LetAnswersRun));
    assert_eq!(play().await, without);
    plant(None);
}

/// What this server does for them is not known to be a rename.
const WRITES_INTO: [(&str, &str, &str); 3] =
    [("COPY", "/g", "/d/f"), ("COPY", "/e", "/d"), ("FROB", "/d", "")];

#[tokio::test]
async fn an_answer_ends_when_its_file_is_written_into() {
    for (method, from, to) in WRITES_INTO {
        let play = async || {
            let relay = Server::new().primary(&Log::default()).await;
            let mut body = begin(&relay, "/eng/d/f").await;
            let to = if to.is_empty() { String::new() } else { format!("/eng{to}") };
            assert_eq!(change(&relay, method, &format!("/eng{from}"), &to).await, 204);
            next(&mut body).await
        };
        shows(play, "cut", "more").await;
    }
}

#[tokio::test]
async fn an_answer_that_begins_while_its_file_is_written_into_ends_too() {
    let play = async || {
        let (log, server) = (Log::default(), Server::new());
        let relay = server.primary(&log).await;
        server.changes.send_replace(false);
        let copying = tokio::spawn({
            let relay = relay.clone();
            async move { change(&relay, "COPY", "/eng/g", "/eng/d/f").await }
        });
        log.until("server COPY /eng/g destination=http://files/eng/d/f").await;
        let mut body = begin(&relay, "/eng/d/f").await;
        server.changes.send_replace(true);
        assert_eq!(copying.await.unwrap(), 204);
        next(&mut body).await
    };
    shows(play, "cut", "more").await;
}

#[tokio::test]
async fn an_answer_that_has_not_come_when_its_file_is_written_into_is_refused() {
    let play = async || {
        let (log, server) = (Log::default(), Server::new());
        let relay = server.primary(&log).await;
        server.reads.send_replace(false);
        let reading = tokio::spawn({
            let relay = relay.clone();
            async move { relay.serve(client(), request("GET", "/eng/d/f", Body::Empty)).await.status() }
        });
        log.until("server GET /eng/d/f").await;
        assert_eq!(change(&relay, "COPY", "/eng/g", "/eng/d/f").await, 204);
        server.reads.send_replace(true);
        reading.await.unwrap().as_str().to_owned()
    };
    shows(play, "503", "200").await;
}

#[tokio::test]
async fn an_answer_over_the_link_ends_when_its_file_is_written_into() {
    for here in [true, false] {
        let play = async || {
            let server = Server::new();
            let two = two(false, move |line| server.clone().answer(line)).await;
            let mut body = begin(&two.lyon, "/e/d/f").await;
            let changed = match here {
                true => change(&two.lyon, "COPY", "/e/g", "/e/d/f").await,
                false => change(&two.wire.to, "COPY", "/srv/eng/g", "/srv/eng/d/f").await,
            };
            assert_eq!(changed, 204);
            next(&mut body).await
        };
        shows(play, "cut", "more").await;
    }
}

/// A new content is put beside the old one, which goes on.
#[tokio::test]
async fn an_answer_of_what_is_replaced_or_not_touched_ends_whole() {
    for (method, at, to) in [
        ("PUT", "/eng/d/f", ""),
        ("DELETE", "/eng/d/f", ""),
        ("MOVE", "/eng/g", "/eng/d/f"),
        ("COPY", "/eng/g", "/eng/d/f2"),
        ("COPY", "/eng/d/f", "/eng/g"),
        ("FROB", "/eng/d2", ""),
    ] {
        let relay = Server::new().primary(&Log::default()).await;
        let mut body = begin(&relay, "/eng/d/f").await;
        assert_eq!(change(&relay, method, at, to).await, 204, "{method}");
        assert_eq!(next(&mut body).await, "more", "{method} {at} {to}");
        assert_eq!(next(&mut body).await, "end", "{method} {at} {to}");
    }
}
