//! One HTTP/1.1 request over a connection of its own. Not here: pools, redirects, retries.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use crate::body::{CollectError, collect};

/// No answer, or half of one.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("{0}")]
    Broken(#[from] hyper::Error),
    #[error("{0}")]
    Body(#[from] CollectError),
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
}

#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    /// A field's value; `None` when there is none, or none that is text.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.to_str().ok()
    }
}

/// Sends `request` and takes an answer with a body of at most `most` bytes, all within `limit`.
pub(super) async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    most: usize,
    limit: Duration,
) -> Result<Answer, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let answering = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // What goes wrong with the connection, the sender says too.
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = collect(body, most).await?;
        Ok(Answer { status: head.status, fields: head.headers, body })
    };
    tokio::time::timeout(limit, answering).await.map_err(|_| ExchangeError::Silent(limit))?
}
