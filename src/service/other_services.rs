//! The services beside rate limiting: health and reflection, as tonic has
//! them, over the streams of our own connections.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tonic::{Status, service::Routes};
use tower::ServiceExt as _;

/// tonic's router.
pub(crate) type OtherServices = Routes;

/// A health watch lasts as long as its client; all else has a deadline.
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Answers one call.
pub(crate) async fn answer(
    services: OtherServices,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    call_timeout: Duration,
) {
    let lasts = request.uri().path() == WATCH;
    let call = pass(services, request.map(Incoming), respond);
    let result = if lasts {
        call.await
    } else {
        match timeout(call_timeout, call).await {
            Ok(result) => result,
            // Dropping the call resets its stream.
            Err(_) => return,
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "call ended early");
    }
}

async fn pass(
    services: OtherServices,
    request: Request<Incoming>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let request = request.map(tonic::body::Body::new);
    let Ok(response) = services.oneshot(request).await;
    let (head, mut body) = response.into_parts();
    let ended = body.is_end_stream();
    let mut stream = respond.send_response(Response::from_parts(head, ()), ended)?;
    if ended {
        return Ok(());
    }
    while let Some(frame) = next_frame(&mut body, &mut stream).await? {
        match frame.into_data() {
            Ok(data) => send_data(&mut stream, data).await?,
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return stream.send_trailers(trailers);
            }
        }
    }
    stream.send_data(Bytes::new(), true)
}

/// The next part of an answer; an error when the client takes the call back.
async fn next_frame(
    body: &mut tonic::body::Body,
    stream: &mut SendStream<Bytes>,
) -> Result<Option<Frame<Bytes>>, h2::Error> {
    tokio::select! {
        frame = body.frame() => match frame.transpose() {
            Ok(frame) => Ok(frame),
            Err(status) => Ok(Some(Frame::trailers(trailers_of(&status)))),
        },
        reset = std::future::poll_fn(|cx| stream.poll_reset(cx)) => Err(reset?.into()),
    }
}

fn trailers_of(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // It only fails for bytes that no header holds, which a status escapes.
    let _ = status.add_header(&mut trailers);
    trailers
}

async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let capacity = capacity.unwrap_or(Err(Reason::CANCEL.into()))?;
        let part = data.split_to(capacity.min(data.len()));
        stream.send_data(part, false)?;
    }
    Ok(())
}

/// A request's body as tonic reads it.
struct Incoming(RecvStream);

impl Body for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.0.poll_data(cx)) {
            Some(Ok(data)) => {
                self.0.flow_control().release_capacity(data.len())?;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
