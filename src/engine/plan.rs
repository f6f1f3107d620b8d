//! Request × rules → what to count.
//!
//! A request-wide view is needed before anything is counted: a limit found
//! for one descriptor may replace the limit found for another.

use smallvec::SmallVec;

use super::{
    algorithm::{Algorithm, Method, Observation},
    descriptor::{Descriptor, Entry, Hits, Request},
    key::CounterKey,
    limit::{Limit, Quota, Unit, Window},
    matching,
    rules::{ChargePolicy, Counting, Domain, DomainPolicy, LimitRule, RuleId, RuleSet},
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
    /// The rule's limits are in its [`Detail`](super::rules::Detail); there is
    /// a charge for each that is not in `dropped`.
    pub special: bool,
    /// Which of them are replaced, by their place: a bit for each.
    pub dropped: u32,
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
    /// How it is counted; `None` for a plain fixed window.
    pub method: Option<Method>,
    /// The value that is counted, where different values are.
    pub value: &'a [u8],
}

/// Limits that a rule may have.
pub const MOST_LIMITS: usize = 16;

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
    /// One for each limit of a descriptor, in order.
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
        let mut charges = PerDescriptor::new();
        for (planned, descriptor) in planned.iter().zip(request.descriptors) {
            if planned.special {
                let special = planned.special_charges(rules, request.domain, descriptor);
                charges.extend(special);
                continue;
            }
            let charge = planned.charge(rules, request.domain, descriptor, quota_mode);
            let Some(mut charge) = charge else { continue };
            if door_is_open && charge.refuses == Refuses::WithOthers {
                charge.refuses = Refuses::Never;
            }
            charges.push(charge);
        }
        Self {
            planned,
            charges,
            policy: domain.policy(),
        }
    }

    /// The place of the charge that remembers its value, if one does.
    #[must_use]
    pub fn remembering(&self) -> Option<usize> {
        if !self.planned.iter().any(|planned| planned.special) {
            return None;
        }
        self.charges.iter().position(Charge::remembers)
    }

    /// An unknown domain limits nothing, not even by overrides.
    fn without_rules(request: &Request<'_>) -> Self {
        let unmatched = |descriptor: &Descriptor<'_>| Planned {
            rule: None,
            grant: Grant::Nothing,
            replaced: false,
            hits: descriptor.hits,
            special: false,
            dropped: 0,
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
        if self.special {
            return false;
        }
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
                kind: 0,
                last: None,
                several: false,
            },
            limit,
            hits: self.hits,
            method: None,
            value: b"",
            refuses: match rule {
                Some((_, rule)) if rule.shadow_mode => Refuses::Never,
                Some((_, rule)) if rule.quota_mode || quota_mode => Refuses::WithOthers,
                None if quota_mode => Refuses::WithOthers,
                Some(_) | None => Refuses::Alone,
            },
            leased: rule.is_some_and(|(_, rule)| rule.counting == Counting::Leased),
        })
    }

    /// Drops those of its limits whose names are among `replaced`.
    fn drop_limits(&mut self, rules: &RuleSet, replaced: &[&str]) {
        let is_replaced = |limit: &LimitRule| {
            !limit.name.is_empty() && replaced.binary_search(&&*limit.name).is_ok()
        };
        let limits = self.limits(rules);
        let dropped = limits.filter(|(_, limit)| is_replaced(limit));
        self.dropped |= dropped.fold(0, |bits, (place, _)| bits | 1 << place);
        self.replaced = self.dropped != 0 && self.limits(rules).all(|(_, limit)| limit.is_event());
        if self.replaced {
            self.grant = Grant::Nothing;
        }
    }

    /// The limits of a special rule that apply.
    pub fn limits<'r>(&self, rules: &'r RuleSet) -> impl Iterator<Item = (usize, &'r LimitRule)> {
        let limits = match self.rule {
            Some(id) if self.special => rules.detail(id).limits.as_slice(),
            _ => &[],
        };
        let dropped = self.dropped;
        let applies = move |place: usize| dropped >> place & 1 == 0;
        // One more may open a gate.
        let limits = limits.iter().take(MOST_LIMITS + 1).enumerate();
        limits.filter(move |(place, _)| applies(*place))
    }

    fn special_charges<'a>(
        &self,
        rules: &'a RuleSet,
        domain: &'a [u8],
        descriptor: &Descriptor<'a>,
    ) -> impl Iterator<Item = Charge<'a>> {
        let rule = self.rule.map(|id| (id, rules.rule(id)));
        let shadow = rule.is_some_and(|(_, rule)| rule.shadow_mode);
        let shared = rule.filter(|(_, rule)| rule.shares);
        let shared = shared.map(|(id, _)| (rules, id));
        let (hits, entries) = (self.hits, descriptor.entries);
        let several = self.limits(rules).nth(1).is_some();
        self.limits(rules).map(move |(_, limit)| {
            let method = limit.extra.method;
            let mut key = CounterKey {
                domain,
                entries,
                shared,
                window: limit.limit.window,
                kind: method.map_or(0, |method| method.kind()),
                last: None,
                several,
            };
            let mut value: &[u8] = b"";
            match method.map(|method| method.algorithm) {
                Some(Algorithm::DistinctValues(_)) => {
                    if let Some(last) = entries.last() {
                        key.last = Some(Entry {
                            key: last.key,
                            value: b"",
                        });
                        value = last.value;
                    }
                }
                // Gates of any length are opened by the same event.
                Some(Algorithm::Opened | Algorithm::Event) => {
                    key.window = Window::of(Unit::Day);
                    let opened_by = limit.extra.opened_by.as_ref();
                    key.last = opened_by.map(|(key, value)| Entry {
                        key: key.as_bytes(),
                        value: value.as_bytes(),
                    });
                }
                _ => {}
            }
            Charge {
                key,
                limit: limit.limit,
                hits,
                refuses: if shadow || limit.extra.flag_only || limit.is_event() {
                    Refuses::Never
                } else {
                    Refuses::Alone
                },
                leased: limit.leased,
                method,
                value,
            }
        })
    }
}

// === impl Charge ===

impl Charge<'_> {
    /// Whether a counter that was seen so is over the limit; a refund is never.
    #[must_use]
    pub fn is_over(&self, seen: &Observation) -> bool {
        matches!(self.hits, Hits::Take(_)) && seen.is_over()
    }

    /// It takes a value that is to be remembered.
    fn remembers(&self) -> bool {
        let algorithm = self.method.map(|method| method.algorithm);
        let remembers = matches!(
            algorithm,
            Some(Algorithm::DistinctValues(distinct)) if distinct.remember > 0
        );
        remembers && matches!(self.hits, Hits::Take(1..))
    }

    /// Above which count it is over.
    #[must_use]
    pub fn most(&self) -> u64 {
        match self.method {
            Some(method) => method.most(self.limit),
            None => self.limit.requests.into(),
        }
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
        special: rule.is_some_and(|id| rules.rule(id).is_special()),
        dropped: 0,
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
    let rule = rules.rule(id);
    match rule.quota {
        None if rule.is_special() => (Some(id), Grant::Nothing),
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
        .flat_map(|id| {
            let detail = rules.detail(id);
            let further = detail.limits.iter().flat_map(|limit| &limit.replaces);
            detail.replaces.iter().chain(further)
        })
        .map(AsRef::as_ref)
        .collect();
    if replaced.is_empty() {
        return;
    }
    replaced.sort_unstable();
    replaced.dedup();
    for planned in planned {
        let Some(id) = planned.rule else { continue };
        if planned.special {
            planned.drop_limits(rules, &replaced);
            continue;
        }
        let named = rules.rule(id).named && matches!(planned.grant, Grant::Limited(_));
        if named && replaced.binary_search(&&*rules.detail(id).name).is_ok() {
            planned.rule = None;
            planned.grant = Grant::Nothing;
            planned.replaced = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{
        decision::{Code, Decision, Policy},
        descriptor::Entry,
        rules::{DomainDef, Extra, LimitDef, RuleDef},
        time::Timestamp,
    };

    const LIMIT: Limit = Limit {
        requests: 5,
        window: Window::of(Unit::Hour),
    };

    /// A rule for each kind there is; its key is its place in this list.
    fn rules() -> RuleSet {
        let limited = Some(Quota::Limited(LIMIT));
        let kinds = [
            (None, false, false),
            (Some(Quota::Unlimited), false, false),
            (Some(Quota::Unlimited), false, true),
            (limited, false, false),
            (limited, true, false),
            (limited, false, true),
            (limited, true, true),
        ];
        let rules = (0..).zip(kinds).map(|(number, (quota, shadow, is_quota))| {
            let limit = quota.map(|quota| LimitDef {
                quota,
                name: format!("{number}"),
                replaces: vec![],
                leased: false,
                extra: Extra::default(),
            });
            rule(&number.to_string(), limit, shadow, is_quota)
        });
        let replaces = LimitDef {
            quota: Quota::Limited(LIMIT),
            name: String::new(),
            replaces: vec!["5".to_owned()],
            leased: true,
            extra: Extra::default(),
        };
        let last = rule("7", Some(replaces), false, false);
        let domain = DomainDef {
            name: "d".to_owned(),
            responses: None,
            policy: DomainPolicy {
                charge: Some(ChargePolicy::AllOrNothing),
                on_store_failure: None,
            },
            rules: rules.chain([last]).collect(),
        };
        RuleSet::compile(vec![domain]).unwrap()
    }

    fn rule(key: &str, limit: Option<LimitDef>, shadow_mode: bool, quota_mode: bool) -> RuleDef {
        RuleDef {
            key: key.to_owned(),
            limit,
            shadow_mode,
            quota_mode,
            ..RuleDef::default()
        }
    }

    /// One descriptor: which rule (the last: none), whether it brings a limit,
    /// whether it gives back, whether it is over.
    type Asked = (usize, bool, bool, bool);

    const KEYS: [&[u8]; 9] = [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"none"];

    /// What the weights of the charges say, and what the decision says.
    fn refused(rules: &RuleSet, asked: &[Asked], quota_mode: bool) -> (bool, bool) {
        let entries: Vec<[Entry<'_>; 1]> = asked
            .iter()
            .map(|&(key, ..)| {
                [Entry {
                    key: KEYS[key],
                    value: b"",
                }]
            })
            .collect();
        let descriptors: Vec<Descriptor<'_>> = entries
            .iter()
            .zip(asked)
            .map(|(entries, &(_, overrides, gives_back, _))| Descriptor {
                entries,
                limit: overrides.then_some(LIMIT),
                hits: if gives_back {
                    Hits::GiveBack(1)
                } else {
                    Hits::Take(1)
                },
            })
            .collect();
        let request = Request {
            domain: b"d",
            descriptors: &descriptors,
        };
        let plan = Plan::new(rules, &request, quota_mode, &mut vec![]);
        let limited = plan.planned.iter().zip(asked);
        let seen: Vec<Observation> = limited
            .filter(|(planned, _)| matches!(planned.grant, Grant::Limited(_)))
            .map(|(_, &(.., is_over))| {
                let (before, after) = if is_over { (5, 6) } else { (0, 1) };
                Observation::of_window(before, after, LIMIT.requests, Timestamp::MAX)
            })
            .collect();
        assert_eq!(seen.len(), plan.charges.len());
        let charges = plan.charges.iter().zip(&seen);
        let by_weight =
            Refuses::any(charges.map(|(charge, seen)| (charge.refuses, charge.is_over(seen))));
        let policy = Policy {
            quota_mode,
            ..Policy::default()
        };
        let decision = Decision::new(rules, &plan, &seen, &policy, Timestamp::default());
        (by_weight, decision.code == Code::OverLimit)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]
        #[test]
        fn stores_refuse_what_the_decision_refuses(
            asked in prop::collection::vec(
                (0..KEYS.len(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), any::<bool>()),
                0..6,
            ),
            quota_mode: bool,
        ) {
            let (by_weight, decided) = refused(&rules(), &asked, quota_mode);
            prop_assert_eq!(by_weight, decided);
        }
    }
}
