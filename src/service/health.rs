//! Whether calls are welcome; that over gRPC, and what else tonic serves beside
//! rate limiting.

use std::sync::Arc;

use tonic::service::Routes;
use tonic_health::{
    ServingStatus,
    server::{HealthReporter, health_reporter},
};

use crate::{proto, rulebook::Rulebook};

/// Services whose health can be asked for.
const NAMES: [&str; 2] = ["", "ratelimit"];

/// What has to be there before calls are welcome.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    /// The rules, and what became of tries to change them.
    pub(crate) rulebook: Arc<Rulebook>,
    /// They must have a domain.
    pub(crate) needs_domain: bool,
}

/// Health and reflection, and the handle to say how the service is.
///
/// # Errors
/// The definitions in this program are broken.
pub(crate) fn routes() -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let (reporter, health) = health_reporter();
    let v1 = reflection().build_v1()?;
    let v1alpha = reflection().build_v1alpha()?;
    Ok((
        Routes::new(health).add_service(v1).add_service(v1alpha),
        reporter,
    ))
}

// === impl Readiness ===

impl Readiness {
    /// What is not there yet.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let store = self.rulebook.limiter().store();
        if !store.has_been_reached() {
            Some("the store has not been reached yet")
        } else if !store.is_ready() {
            Some("the store cannot be reached any more")
        } else if self.needs_domain && self.rulebook.loads().domains == 0 {
            Some("there are no rules yet")
        } else {
            None
        }
    }
}

/// Says whether new calls are welcome.
pub(crate) async fn say(reporter: &HealthReporter, serving: bool) {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for name in NAMES {
        reporter.set_service_status(name, status).await;
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
}
