//! Rules from a management server: xDS, state of the world, over the
//! aggregated discovery service.
//!
//! The server sends all rules there are, each time some change. Good ones
//! are adopted and acknowledged; with bad ones the server is told what is
//! wrong, and those in force stay. When the connection ends they stay, too,
//! and it is tried again, after waits that grow.
//!
//! [`connect`] address → connection · [`backoff`] how long to wait ·
//! `stream` requests and responses · `rules` resources → rules in force.

pub mod backoff;
pub mod connect;
mod rules;
mod stream;

use std::{
    convert::Infallible,
    future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch::{self, Sender},
    time::sleep,
};
use tonic::metadata::MetadataMap;

use self::{
    backoff::{Backoff, Growth},
    connect::Server,
};
use crate::{
    config::Options, proto::envoy::config::core::v3::Node, rulebook::Rulebook, watch::Watch,
};

/// From one look at certificates to the next, while there is no connection.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Bytes of a message where nothing else is said, as everywhere in gRPC.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Where rules come from.
#[derive(Clone, Debug)]
pub struct Config {
    /// The management server.
    pub server: Server,
    /// Who asks.
    pub node: Node,
    /// Headers of the call.
    pub headers: MetadataMap,
    /// Bytes of a message from the server.
    pub max_message_bytes: usize,
    /// Waits between connections.
    pub growth: Growth,
    /// How to compile what comes.
    pub compile: Options,
}

/// What is asked for, for as long as the process runs.
#[derive(Debug)]
pub struct Subscription {
    config: Config,
    rulebook: Arc<Rulebook>,
    figures: Mutex<Figures>,
    /// Turns true with the first configuration, good or bad.
    heard: Sender<bool>,
}

/// How it goes with the management server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// There is a connection now.
    pub connected: bool,
    /// Tries to connect after the first one: a connection had ended, or could
    /// not be made.
    pub reconnects: u64,
    /// Responses that were adopted.
    pub accepted: u64,
    /// Responses that were refused, as rules are.
    pub refused: u64,
    /// Responses that were refused because they could not even be decoded:
    /// not among the failures of [`crate::rulebook::Loads`].
    pub undecodable: u64,
    /// The version in force, as the server calls it.
    pub version: Option<Arc<str>>,
    /// Why there is no connection; `None` while there is one.
    pub trouble: Option<Arc<str>>,
}

// === impl Subscription ===

impl Subscription {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(config: Config, rulebook: Arc<Rulebook>) -> Self {
        Self {
            config,
            rulebook,
            figures: Mutex::default(),
            heard: watch::channel(false).0,
        }
    }

    /// Asks for rules, and goes on doing so.
    pub async fn run(self: Arc<Self>) -> Infallible {
        let mut backoff = Backoff::new(self.config.growth);
        let mut files = self.files();
        loop {
            let trouble = self.connection(&mut backoff).await;
            let wait = backoff.next(rand::random());
            let server = &self.config.server.address;
            // As a field, which is quoted: the server may say anything.
            tracing::warn!(%server, ?wait, trouble, "no rules from the management server");
            self.note(|figures| {
                figures.connected = false;
                figures.trouble = Some(trouble.into());
            });
            tokio::select! {
                () = sleep(wait) => {}
                () = changed(&mut files) => backoff.reset(),
            }
            self.note(|figures| figures.reconnects += 1);
        }
    }

    /// Waits for the first configuration, good or bad.
    pub async fn first(&self) {
        // The sender is ours, so it is there.
        let _ = self.heard.subscribe().wait_for(|heard| *heard).await;
    }

    /// How it goes.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.note(|figures| figures.clone())
    }

    /// Whom it asks.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.config.server
    }

    /// One connection, from its beginning to its end; says why it ended.
    async fn connection(&self, backoff: &mut Backoff) -> String {
        let channel = match self.config.server.connect().await {
            Ok(channel) => channel,
            Err(error) => return error.to_string(),
        };
        self.note(|figures| {
            figures.connected = true;
            figures.trouble = None;
        });
        let server = &self.config.server.address;
        tracing::info!(%server, "connected to the management server");
        match self.talk(channel, backoff).await {
            Ok(()) => "the server has ended the stream".to_owned(),
            Err(status) => stream::told(&status),
        }
    }

    /// New certificates are a reason to try at once.
    fn files(&self) -> Option<Files> {
        self.config.server.tls.as_ref()?;
        let server = self.config.server.clone();
        Some(Watch::new(LOOK_EVERY, Box::new(move || server.look())))
    }

    fn note<T>(&self, change: impl FnOnce(&mut Figures) -> T) -> T {
        let figures = self.figures.lock();
        change(&mut figures.unwrap_or_else(PoisonError::into_inner))
    }
}

type Files = Watch<Box<dyn Fn() -> u64 + Send + Sync>>;

async fn changed(files: &mut Option<Files>) {
    match files {
        Some(files) => files.changed().await,
        None => future::pending().await,
    }
}
