//! Spans of traced calls: what each layer hangs its own on.
//!
//! A call that is not traced carries `None`, and nothing is done for it. One
//! that is carries a [`Span`] where it is open and a [`Traced`] where others
//! hang theirs on it. Who takes finished spans is known to the [`Tracer`]
//! alone: layers below the service do not know of any exporter.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, ShouldSample as _, SpanData, SpanEvents, SpanLinks,
};

use crate::clock::Clock;

/// Takes finished spans. Whoever gives them is a call: it must not wait.
pub trait Sink: fmt::Debug + Send + Sync {
    /// Takes one, or drops it.
    fn take(&self, span: SpanData);
}

/// Decides which calls are traced, and begins their spans.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: Sampler,
    shows_values: bool,
    clock: Clock,
    sink: Box<dyn Sink>,
    scope: InstrumentationScope,
}

/// What a caller says of its own trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parent {
    /// Its trace and span, if it has any.
    pub ids: Option<(TraceId, SpanId)>,
    /// Whether that is recorded; `None` leaves it to us.
    pub sampled: Option<bool>,
}

/// An open span; it ends when it is dropped.
#[derive(Debug)]
pub struct Span(Box<Open>);

#[derive(Debug)]
struct Open {
    traced: Traced,
    /// `None` once it has ended.
    data: Option<SpanData>,
}

/// A span as others see it: to hang spans on, and to link to.
#[derive(Clone, Debug)]
pub struct Traced(Arc<Seen>);

#[derive(Debug)]
struct Seen {
    tracer: Tracer,
    context: SpanContext,
    /// Work that was done for it and for others.
    shared: Mutex<Vec<SpanContext>>,
}

/// Calls that one span of shared work links to.
pub const MOST_CALLS: usize = 64;
/// Spans of shared work that one call links to.
const MOST_SHARED: usize = 16;

// === impl Tracer ===

impl Tracer {
    /// Traces the share `rate` (from 0 to 1) of the calls whose caller does
    /// not say itself whether they are to be traced. `shows_values`: what
    /// clients send may be told, values of descriptors too.
    pub fn new(rate: f64, shows_values: bool, clock: Clock, sink: impl Sink + 'static) -> Self {
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self(Arc::new(Shared {
            root: Sampler::TraceIdRatioBased(rate),
            shows_values,
            clock,
            sink: Box::new(sink),
            scope,
        }))
    }

    /// The span of a call that comes in; `None` where it is not traced.
    /// `state` is only asked for where it is.
    #[must_use]
    pub fn begin(
        &self,
        name: &'static str,
        parent: Parent,
        state: impl FnOnce() -> TraceState,
    ) -> Option<Span> {
        if parent.sampled == Some(false) {
            return None;
        }
        let (trace, above) = match parent.ids {
            Some((trace, span)) => (trace, Some(span)),
            None => (TraceId::from(rand::random::<u128>()), None),
        };
        if parent.sampled.is_none() && !self.samples(trace, name) {
            return None;
        }
        let state = above.map_or(TraceState::NONE, |_| state());
        let above = (above.unwrap_or(SpanId::INVALID), above.is_some());
        Some(Span::new(self, name, SpanKind::Server, trace, above, state))
    }

    /// A span of work that is done for several calls at once, in a trace of
    /// its own: it links to them (to the first [`MOST_CALLS`]), and they to
    /// it. `None` where none of them is traced.
    #[must_use]
    pub fn shared<'a>(
        name: &'static str,
        mut calls: impl Iterator<Item = &'a Traced>,
    ) -> Option<Span> {
        let first = calls.next()?;
        let trace = TraceId::from(rand::random::<u128>());
        let above = (SpanId::INVALID, false);
        let tracer = &first.0.tracer;
        let kind = SpanKind::Client;
        let mut span = Span::new(tracer, name, kind, trace, above, TraceState::NONE);
        span.serve(first);
        calls.for_each(|call| span.serve(call));
        Some(span)
    }

    /// Whether what clients send may be told.
    #[must_use]
    pub fn shows_values(&self) -> bool {
        self.0.shows_values
    }

    fn samples(&self, trace: TraceId, name: &str) -> bool {
        let kind = &SpanKind::Server;
        let result = self.0.root.should_sample(None, trace, name, kind, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.0.clock.now().as_nanos())
    }
}

// === impl Span ===

impl Span {
    fn new(
        tracer: &Tracer,
        name: &'static str,
        kind: SpanKind,
        trace: TraceId,
        (above, is_remote): (SpanId, bool),
        state: TraceState,
    ) -> Self {
        let id = SpanId::from(rand::random_range(1..=u64::MAX));
        let context = SpanContext::new(trace, id, TraceFlags::SAMPLED, false, state);
        let now = tracer.now();
        let data = SpanData {
            span_context: context.clone(),
            parent_span_id: above,
            parent_span_is_remote: is_remote,
            span_kind: kind,
            name: Cow::Borrowed(name),
            start_time: now,
            end_time: now,
            attributes: vec![],
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: tracer.0.scope.clone(),
        };
        let traced = Traced(Arc::new(Seen {
            tracer: tracer.clone(),
            context,
            shared: Mutex::default(),
        }));
        Self(Box::new(Open {
            traced,
            data: Some(data),
        }))
    }

    /// To hang other spans on.
    #[must_use]
    pub fn traced(&self) -> &Traced {
        &self.0.traced
    }

    /// Says something of it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(data) = &mut self.0.data {
            data.attributes.push(KeyValue::new(key, value));
        }
    }

    /// It went wrong.
    pub fn fail(&mut self, why: impl Into<Cow<'static, str>>) {
        if let Some(data) = &mut self.0.data {
            data.status = Status::error(why);
        }
    }

    /// Links it and a call with each other. One call may have asked for much
    /// at once, which comes in a row.
    fn serve(&mut self, call: &Traced) {
        let context = self.0.traced.0.context.clone();
        let Some(data) = &mut self.0.data else { return };
        let links = &mut data.links;
        let last = links.links.last().map(|link| link.span_context.span_id());
        if last == Some(call.0.context.span_id()) {
            return;
        }
        if links.links.len() >= MOST_CALLS {
            links.dropped_count += 1;
            return;
        }
        links.links.push(Link::with_context(call.0.context.clone()));
        let mut shared = call.lock();
        if shared.len() < MOST_SHARED {
            shared.push(context);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(mut data) = self.0.data.take() else {
            return;
        };
        let Seen { tracer, .. } = &*self.0.traced.0;
        data.end_time = tracer.now().max(data.start_time);
        let shared = std::mem::take(&mut *self.0.traced.lock());
        data.links
            .links
            .extend(shared.into_iter().map(Link::with_context));
        tracer.0.sink.take(data);
    }
}

// === impl Traced ===

impl Traced {
    /// A span below it.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Span {
        let Seen {
            tracer, context, ..
        } = &*self.0;
        let above = (context.span_id(), false);
        let (kind, state) = (SpanKind::Internal, context.trace_state().clone());
        Span::new(tracer, name, kind, context.trace_id(), above, state)
    }

    /// See [`Tracer::shows_values`].
    #[must_use]
    pub fn shows_values(&self) -> bool {
        self.0.tracer.shows_values()
    }

    /// Nothing under the lock can panic half-way.
    fn lock(&self) -> MutexGuard<'_, Vec<SpanContext>> {
        self.0.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what it is given.
    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl Sink for Kept {
        fn take(&self, span: SpanData) {
            self.0.lock().unwrap().push(span);
        }
    }

    fn tracer(rate: f64) -> (Tracer, Kept) {
        let kept = Kept::default();
        let tracer = Tracer::new(rate, false, Clock::System, kept.clone());
        (tracer, kept)
    }

    fn begin(tracer: &Tracer, parent: Parent) -> Option<Span> {
        tracer.begin("call", parent, || TraceState::NONE)
    }

    fn spans(kept: &Kept) -> Vec<SpanData> {
        std::mem::take(&mut *kept.0.lock().unwrap())
    }

    const IDS: Option<(TraceId, SpanId)> = Some((
        TraceId::from_bytes([7; 16]),
        SpanId::from_bytes([8, 0, 0, 0, 0, 0, 0, 8]),
    ));

    #[test]
    fn the_caller_decides_and_where_it_does_not_the_rate() {
        for (rate, sampled, expected) in [
            (0.0, Some(true), true),
            (1.0, Some(false), false),
            (0.0, None, false),
            (1.0, None, true),
        ] {
            for ids in [None, IDS] {
                let (tracer, _) = tracer(rate);
                let span = begin(&tracer, Parent { ids, sampled });
                assert_eq!(span.is_some(), expected, "{rate} {sampled:?} {ids:?}");
            }
        }
        let (tracer, _) = tracer(0.5);
        let traced = (0..1_000).filter(|_| begin(&tracer, Parent::default()).is_some());
        assert!((400..600).contains(&traced.count()));
    }

    #[test]
    fn spans_hang_on_each_other() {
        let (tracer, kept) = tracer(0.0);
        let sampled = Some(true);
        let call = begin(&tracer, Parent { ids: IDS, sampled }).unwrap();
        drop(call.traced().child("below"));
        drop(call);
        let [below, call] = &spans(&kept)[..] else {
            panic!("two spans");
        };
        assert_eq!(call.parent_span_id, IDS.unwrap().1);
        assert!(call.parent_span_is_remote);
        assert_eq!(below.parent_span_id, call.span_context.span_id());
        assert_eq!(below.span_context.trace_id(), IDS.unwrap().0);
        assert!(!below.parent_span_is_remote);
    }

    #[test]
    fn shared_work_and_its_calls_link_to_each_other() {
        let (tracer, kept) = tracer(1.0);
        assert!(Tracer::shared("work", std::iter::empty()).is_none());
        let calls: Vec<Span> = (0..MOST_CALLS + 6)
            .map(|_| begin(&tracer, Parent::default()).unwrap())
            .collect();
        let traced = calls.iter().flat_map(|call| [call.traced(); 2]);
        drop(Tracer::shared("work", traced).unwrap());
        drop(calls);
        let spans = spans(&kept);
        let work = &spans[0];
        assert_eq!(work.links.len(), MOST_CALLS);
        let linked = |call: &SpanData| {
            call.links
                .iter()
                .map(|it| it.span_context.span_id())
                .collect()
        };
        let back: Vec<Vec<SpanId>> = spans[1..].iter().map(linked).collect();
        assert_eq!(back[0], [work.span_context.span_id()]);
        assert!(back[MOST_CALLS].is_empty(), "{back:?}");
        let call = &spans[1].span_context;
        assert_eq!(work.links[0].span_context.span_id(), call.span_id());
    }
}
