//! One stream: what is asked, what comes, what is answered.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use futures_util::stream::poll_fn;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Status, transport::Channel};

use super::{
    Subscription,
    backoff::{Backoff, Growth},
    connect::chain,
    rules::{Outcome, TYPE_URL},
};
use crate::proto::{
    envoy::service::discovery::v3::{
        DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    google::rpc,
};

/// From an answer to its way into the connection.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// A refused response is refused again at once by servers that send it again
/// at once: from the second in a row on, the answer waits.
const REFUSALS: Growth = Growth {
    initial: Duration::from_millis(100),
    max: Duration::from_secs(5),
    factor: 2.0,
    jitter: true,
};

// === impl Subscription: a stream ===

impl Subscription {
    /// Asks for all rules, and answers each response, until the stream ends.
    pub(super) async fn talk(&self, channel: Channel, backoff: &mut Backoff) -> Result<(), Status> {
        let (requests, mut queue) = mpsc::channel(1);
        // There is room: whether anybody takes it is seen later.
        let _ = send(&requests, self.request()).await?;
        let mut call = Request::new(poll_fn(move |context| queue.poll_recv(context)));
        *call.metadata_mut() = self.config.headers.clone();
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(self.config.max_message_bytes);
        let mut responses = client.stream_aggregated_resources(call).await?.into_inner();
        let mut refusals: Option<Backoff> = None;
        while let Some(response) = responses.message().await? {
            if !matches!(&*response.type_url, "" | TYPE_URL) {
                let found = response.type_url;
                tracing::warn!(
                    type_url = found,
                    "the management server sends what was not asked for"
                );
                continue;
            }
            let answer = self.answer(response).await;
            match (&answer.error_detail, &mut refusals) {
                (None, _) => {
                    backoff.reset();
                    refusals = None;
                }
                (Some(_), None) => refusals = Some(Backoff::new(REFUSALS)),
                (Some(_), Some(refusals)) => sleep(refusals.next(rand::random())).await,
            }
            if send(&requests, answer).await?.is_break() {
                // The stream knows why.
                let ended = timeout(SEND_TIMEOUT, responses.message()).await;
                return ended.map_or(Ok(()), |last| last.map(|_| ()));
            }
        }
        Ok(())
    }

    /// Takes in a response: the request that acknowledges it, or says what is
    /// wrong with it.
    async fn answer(&self, response: DiscoveryResponse) -> DiscoveryRequest {
        let version = response.version_info;
        let outcome = self.apply(response.resources).await;
        let error = match outcome {
            Outcome::Adopted => {
                self.note(|figures| figures.version = Some(Arc::from(&*version)));
                None
            }
            Outcome::Refused(trouble) | Outcome::Undecodable(trouble) => Some(trouble),
        };
        let good = self.figures().version;
        tracing::info!(
            version,
            nonce = response.nonce,
            is_good = error.is_none(),
            "answered the management server"
        );
        DiscoveryRequest {
            version_info: good.as_deref().unwrap_or_default().to_owned(),
            response_nonce: response.nonce,
            error_detail: error.map(|message| rpc::Status {
                code: Code::InvalidArgument as i32,
                message,
            }),
            ..self.request()
        }
    }

    /// Names no version: a server that was started anew counts from the
    /// beginning, and would take ours for one of its own.
    fn request(&self) -> DiscoveryRequest {
        DiscoveryRequest {
            node: Some(self.config.node.clone()),
            type_url: TYPE_URL.to_owned(),
            ..DiscoveryRequest::default()
        }
    }
}

/// Hands over a request; breaks off where nobody takes requests any more.
async fn send(
    requests: &mpsc::Sender<DiscoveryRequest>,
    request: DiscoveryRequest,
) -> Result<ControlFlow<()>, Status> {
    match timeout(SEND_TIMEOUT, requests.send(request)).await {
        Ok(Ok(())) => Ok(ControlFlow::Continue(())),
        Ok(Err(_)) => Ok(ControlFlow::Break(())),
        Err(_) => Err(Status::deadline_exceeded("the server takes no answers")),
    }
}

/// How a stream ended, for people.
pub(super) fn told(status: &Status) -> String {
    let mut text = chain(status);
    if status.code() == Code::OutOfRange {
        text.push_str("; --xds-max-message-bytes (XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES) bounds it");
    }
    text
}
