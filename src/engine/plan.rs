//! Request × rules → what to count.
//!
//! A request-wide view is needed before anything is counted: a limit found
//! for one descriptor may replace the limit found for another.

use smallvec::SmallVec;

use super::{
    descriptor::{Descriptor, Hits, Request},
    key::CounterKey,
    limit::{Limit, Quota},
    matching,
    rules::{ChargePolicy, Domain, DomainPolicy, RuleId, RuleSet},
};

/// One per descriptor; inline up to a usual number of them.
pub type PerDescriptor<T> = SmallVec<[T; 4]>;

/// What a descriptor is subject to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// No limit applies.
    Nothing,
    /// A rule says that everything passes.
    Unlimited,
    /// A limit applies.
    Limited(Limit),
}

/// A descriptor's part of the plan.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// The rule that grants; `None` for an override and where none matched.
    pub rule: Option<RuleId>,
    /// What it grants.
    pub grant: Grant,
    /// The limit belongs to a rule that another limit of the request replaced.
    pub replaced: bool,
    /// What the request wants to count.
    pub hits: Hits,
}

/// One change of one counter.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// Which counter.
    pub key: CounterKey<'a>,
    /// The limit that the counter is held against.
    pub limit: Limit,
    /// The change.
    pub hits: Hits,
    /// What being over this limit means for the request.
    pub refuses: Refuses,
    /// A store that is shared may take hits in advance.
    pub leased: bool,
}

/// What being over a limit means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuses {
    /// Nothing.
    Never,
    /// It is refused.
    Alone,
    /// It is refused if all limits of this kind are over.
    WithOthers,
}

/// A request, matched.
#[derive(Debug)]
pub struct Plan<'a> {
    /// In the request's order.
    pub planned: PerDescriptor<Planned>,
    /// One for each limited descriptor, in order.
    pub charges: PerDescriptor<Charge<'a>>,
    /// What goes for the whole domain.
    pub policy: DomainPolicy,
}

// === impl Plan ===

impl<'a> Plan<'a> {
    /// Matches every descriptor and resolves overrides and `replaces`.
    /// `quota_mode`: every rule is one in quota mode.
    ///
    /// `scratch` is overwritten; keeping it between calls saves its
    /// allocation.
    #[must_use]
    pub fn new(
        rules: &'a RuleSet,
        request: &Request<'a>,
        quota_mode: bool,
        scratch: &mut Vec<u8>,
    ) -> Self {
        let Some(domain) = rules.domain(request.domain) else {
            return Self::without_rules(request);
        };
        let mut planned: PerDescriptor<Planned> = request
            .descriptors
            .iter()
            .map(|descriptor| plan(rules, domain, descriptor, scratch))
            .collect();
        drop_replaced(rules, &mut planned);
        // Who stands still beside a limit that is over does not depend on it.
        let door_is_open = domain.policy().charge == Some(ChargePolicy::AllOrNothing)
            && planned
                .iter()
                .any(|planned| planned.holds_door(rules, quota_mode));
        let charges = planned
            .iter()
            .zip(request.descriptors)
            .filter_map(|(planned, descriptor)| {
                let mut charge = planned.charge(rules, request.domain, descriptor, quota_mode)?;
                if door_is_open && charge.refuses == Refuses::WithOthers {
                    charge.refuses = Refuses::Never;
                }
                Some(charge)
            })
            .collect();
        Self {
            planned,
            charges,
            policy: domain.policy(),
        }
    }

    /// An unknown domain limits nothing, not even by overrides.
    fn without_rules(request: &Request<'_>) -> Self {
        let unmatched = |descriptor: &Descriptor<'_>| Planned {
            rule: None,
            grant: Grant::Nothing,
            replaced: false,
            hits: descriptor.hits,
        };
        Self {
            planned: request.descriptors.iter().map(unmatched).collect(),
            charges: SmallVec::new(),
            policy: DomainPolicy::default(),
        }
    }
}

// === impl Planned ===

impl Planned {
    /// Counts among the quotas of a request and is never over, so that quotas
    /// cannot refuse it.
    fn holds_door(&self, rules: &RuleSet, quota_mode: bool) -> bool {
        match self.grant {
            Grant::Nothing => quota_mode,
            Grant::Unlimited => false,
            Grant::Limited(_) => self.rule.is_some_and(|id| {
                let rule = rules.rule(id);
                rule.shadow_mode && (quota_mode || rule.quota_mode)
            }),
        }
    }

    fn charge<'a>(
        &self,
        rules: &'a RuleSet,
        domain: &'a [u8],
        descriptor: &Descriptor<'a>,
        quota_mode: bool,
    ) -> Option<Charge<'a>> {
        let Grant::Limited(limit) = self.grant else {
            return None;
        };
        let rule = self.rule.map(|id| (id, rules.rule(id)));
        Some(Charge {
            key: CounterKey {
                domain,
                entries: descriptor.entries,
                shared: rule
                    .filter(|(_, rule)| rule.shares)
                    .map(|(id, _)| (rules, id)),
                window: limit.window,
            },
            limit,
            hits: self.hits,
            refuses: match rule {
                Some((_, rule)) if rule.shadow_mode => Refuses::Never,
                Some((_, rule)) if rule.quota_mode || quota_mode => Refuses::WithOthers,
                None if quota_mode => Refuses::WithOthers,
                Some(_) | None => Refuses::Alone,
            },
            leased: rule.is_some_and(|(_, rule)| rule.leased),
        })
    }
}

// === impl Refuses ===

impl Refuses {
    /// Whether a request is refused by limits of these kinds, where they are
    /// over.
    pub fn any(limits: impl IntoIterator<Item = (Self, bool)>) -> bool {
        let (mut alone, mut others, mut others_over) = (false, false, true);
        for (refuses, over) in limits {
            match refuses {
                Self::Never => {}
                Self::Alone => alone |= over,
                Self::WithOthers => {
                    others = true;
                    others_over &= over;
                }
            }
        }
        alone || (others && others_over)
    }
}

fn plan(
    rules: &RuleSet,
    domain: Domain,
    descriptor: &Descriptor<'_>,
    scratch: &mut Vec<u8>,
) -> Planned {
    let (rule, grant) = match descriptor.limit {
        Some(limit) => (None, Grant::Limited(limit)),
        None => matched(rules, domain, descriptor, scratch),
    };
    Planned {
        rule,
        grant,
        replaced: false,
        hits: descriptor.hits,
    }
}

fn matched(
    rules: &RuleSet,
    domain: Domain,
    descriptor: &Descriptor<'_>,
    scratch: &mut Vec<u8>,
) -> (Option<RuleId>, Grant) {
    let Some(id) = matching::find(rules, domain, descriptor.entries, scratch) else {
        return (None, Grant::Nothing);
    };
    match rules.rule(id).quota {
        None => (None, Grant::Nothing),
        Some(Quota::Unlimited) => (Some(id), Grant::Unlimited),
        Some(Quota::Limited(limit)) => (Some(id), Grant::Limited(limit)),
    }
}

/// Takes the limit from every descriptor whose limit has a name that any
/// limit of the request replaces. Only names count, not the order; an
/// unlimited rule replaces but is not replaced.
fn drop_replaced(rules: &RuleSet, planned: &mut [Planned]) {
    let mut replaced: SmallVec<[&str; 8]> = planned
        .iter()
        .filter_map(|planned| planned.rule)
        .filter(|&id| rules.rule(id).replaces)
        .flat_map(|id| &rules.detail(id).replaces)
        .map(AsRef::as_ref)
        .collect();
    if replaced.is_empty() {
        return;
    }
    replaced.sort_unstable();
    replaced.dedup();
    for planned in planned {
        let Some(id) = planned.rule else { continue };
        let named = rules.rule(id).named && matches!(planned.grant, Grant::Limited(_));
        if named && replaced.binary_search(&&*rules.detail(id).name).is_ok() {
            planned.rule = None;
            planned.grant = Grant::Nothing;
            planned.replaced = true;
        }
    }
}
