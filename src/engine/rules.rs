//! Rules: the definition that a reader of some format hands in, and the
//! compiled, immutable tree that requests are matched against.
//!
//! Children are found by their *composite key*: `key` for a rule without a
//! value, `key_value` otherwise. That text is the reference's, so `a_b`
//! without value and `a` with value `b` are the same child.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use smallvec::SmallVec;

use super::{
    algorithm::{Algorithm, Method},
    limit::{Limit, Quota},
    metadata,
    placement::{self, Placement, Text},
    responses::ResponsesDef,
    wildcard::{Pattern, WildcardIndex},
};

// === definition ===

/// Where a rule was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The file, as the reader names it.
    pub file: Arc<str>,
    /// Line, from 1; 0 where there are none.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// One domain's rules.
#[derive(Clone, Debug, Default)]
pub struct DomainDef {
    /// Its name; not empty.
    pub name: String,
    /// What goes for all of it.
    pub policy: DomainPolicy,
    /// How its answers look, if anything is said.
    pub responses: Option<ResponsesDef>,
    /// The first level, in file order.
    pub rules: Vec<RuleDef>,
}

/// What goes for all of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DomainPolicy {
    /// What happens to the counters of a request that is refused.
    pub charge: Option<ChargePolicy>,
    /// What to do when the store does not answer.
    pub on_store_failure: Option<OnStoreFailure>,
}

/// What happens to the counters of a request that is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChargePolicy {
    /// All take their hits, as in the reference.
    #[default]
    Always,
    /// They stay as they were.
    AllOrNothing,
}

/// What to do when the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// Answer with an error; the proxy decides.
    #[default]
    Error,
    /// Let everything pass, uncounted.
    Allow,
    /// Refuse everything.
    Deny,
    /// Count in this process against a share of the limit.
    Local,
}

/// One place in the tree.
///
/// The reader has validated it: `key` is not empty, no two of a list have
/// the same composite key, `share_threshold` stands only beside a `*`.
#[derive(Clone, Debug, Default)]
pub struct RuleDef {
    /// The entry's key; may hold `*`.
    pub key: String,
    /// The entry's value; empty matches any; may hold `*`.
    pub value: String,
    /// What it grants; `None` grants everything and counts nothing.
    pub limit: Option<LimitDef>,
    /// Further limits that apply beside it, none of them unlimited.
    pub more: Vec<LimitDef>,
    /// Count and report, but do not refuse.
    pub shadow_mode: bool,
    /// Refuse only when every quota rule of a request is over.
    pub quota_mode: bool,
    /// Name the request's values in metrics.
    pub detailed_metric: bool,
    /// Name this level's value in metrics.
    pub value_to_metric: bool,
    /// One counter for all values that a wildcard matches.
    pub share_threshold: bool,
    /// Goes into the answer's dynamic metadata when the rule lets pass.
    pub metadata: metadata::Map,
    /// How its answers look, where it says otherwise than its domain.
    pub responses: Option<ResponsesDef>,
    /// The next level, in file order.
    pub children: Vec<RuleDef>,
    /// Where it was written.
    pub source: Source,
}

/// The `rate_limit` of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitDef {
    /// How much.
    pub quota: Quota,
    /// Its name; empty for none.
    pub name: String,
    /// Names of limits that do not apply where this one does.
    pub replaces: Vec<String>,
    /// A store that is shared may take hits in advance.
    pub leased: bool,
    /// What it says beyond that.
    pub extra: Extra,
}

/// What few limits say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// How it is counted, if that is not a plain fixed window.
    pub method: Option<Method>,
    /// It never refuses; answers say that it is over.
    pub flag_only: bool,
    /// Answers say when less than so many percent are left; 0 for never.
    pub notify_below: u8,
    /// Key and value of the rule of the same list whose requests open it.
    pub opened_by: Option<(String, String)>,
}

/// `key`, or `key_value` when there is a value.
#[must_use]
pub fn composite_key(key: &str, value: &str) -> String {
    if value.is_empty() {
        key.to_owned()
    } else {
        format!("{key}_{value}")
    }
}

// === compiled ===

/// All rules of a configuration: immutable, shared by every request.
#[derive(Debug, Default)]
pub struct RuleSet {
    domains: HashMap<Box<str>, Domain>,
    /// Where rules are, by their parent's number and their composite key.
    placement: Placement,
    seed: u32,
    /// With vacant places between them.
    rules: Vec<Rule>,
    /// By number.
    details: Vec<Detail>,
    /// Wildcard children, of the few rules that have any.
    wildcards: Vec<Wildcards>,
    /// Some answers look otherwise than usual.
    has_responses: bool,
}

/// The children of a rule that are patterns. Those that only end in a star
/// are found where rules are, by what stands before it.
#[derive(Debug)]
struct Wildcards {
    /// The lengths of these, ascending.
    prefix_lengths: Box<[usize]>,
    /// The others, by their rank in `others`.
    index: WildcardIndex,
    others: Box<[RuleId]>,
}

/// A domain's place in the rule set, and what goes for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    root: RuleId,
    policy: DomainPolicy,
}

/// A rule's place in the rule set. The order of places means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u32);

/// What matching and deciding need of a rule, in one cache line.
#[derive(Debug)]
#[repr(align(64))]
pub struct Rule {
    composite: Text,
    /// What it grants, if anything is said.
    pub quota: Option<Quota>,
    parent: RuleId,
    /// Counts rules in the order of their definition.
    number: u32,
    wildcards: u32,
    /// Has nested rules.
    pub has_children: bool,
    /// Has nested rules that an entry's key and value may equal.
    has_exact: bool,
    /// This rule or one above it shares a counter between values.
    pub shares: bool,
    /// See [`RuleDef::shadow_mode`].
    pub shadow_mode: bool,
    /// See [`RuleDef::quota_mode`].
    pub quota_mode: bool,
    /// The limit has a name.
    pub named: bool,
    /// The limit replaces others.
    pub replaces: bool,
    /// Where its limit is told, and how exactly it is held.
    pub counting: Counting,
}

/// How a rule's limit is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// As a plain fixed window.
    Plain,
    /// The same; a store that is shared may take hits in advance.
    Leased,
    /// As [`Detail::limits`] say.
    Special,
}

/// What is needed of a rule only sometimes.
#[derive(Debug)]
pub struct Detail {
    /// The key, as written.
    pub key: Box<str>,
    /// The value, as written; empty for any.
    pub value: Box<str>,
    /// The limit's name; empty for none.
    pub name: Box<str>,
    /// See [`LimitDef::replaces`].
    pub replaces: Box<[Box<str>]>,
    /// See [`RuleDef::metadata`].
    pub metadata: metadata::Map,
    /// See [`RuleDef::detailed_metric`].
    pub detailed_metric: bool,
    /// See [`RuleDef::value_to_metric`].
    pub value_to_metric: bool,
    /// See [`RuleDef::share_threshold`].
    pub share_threshold: bool,
    /// Where it was written; `None` for a domain's root.
    pub source: Option<Source>,
    /// How its answers look, where it says so. Of a domain's root, what the
    /// domain says.
    pub responses: Option<Box<ResponsesDef>>,
    /// Nested rules, in file order.
    pub children: Vec<RuleId>,
    /// All of its limits, where it has several, or one that is more than a
    /// plain fixed window.
    pub limits: Vec<LimitRule>,
}

/// One limit of several, or one that is more than a plain fixed window.
#[derive(Debug)]
pub struct LimitRule {
    /// How much.
    pub limit: Limit,
    /// Its name; empty for none.
    pub name: Box<str>,
    /// See [`LimitDef::replaces`].
    pub replaces: Box<[Box<str>]>,
    /// A store that is shared may take hits in advance.
    pub leased: bool,
    /// What it says beyond that.
    pub extra: Extra,
}

const _: () = assert!(size_of::<Rule>() == 64);

const NONE: u32 = u32::MAX;

/// Leaves room for the vacant places.
const MOST_RULES: u32 = u32::MAX / 4 - 8;

// === impl RuleSet ===

impl RuleSet {
    /// Compiles validated definitions.
    ///
    /// # Errors
    /// More than about 2³⁰ rules.
    pub fn compile(domains: Vec<DomainDef>) -> Result<Self, TooManyRules> {
        let mut builder = Builder::default();
        for domain in domains {
            let root = builder.add_root(&domain.name, domain.responses)?;
            builder.add_level(root, domain.rules)?;
            let policy = domain.policy;
            builder
                .domains
                .push((domain.name.into(), Domain { root, policy }));
        }
        Ok(builder.finish())
    }

    /// The domain of that name, if it has rules.
    #[must_use]
    pub fn domain(&self, name: &[u8]) -> Option<Domain> {
        let name = std::str::from_utf8(name).ok()?;
        self.domains.get(name).copied()
    }

    /// Names of all domains, sorted.
    #[must_use]
    pub fn domain_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.domains.keys().map(AsRef::as_ref).collect();
        names.sort_unstable();
        names
    }

    /// How many rules there are, with and without a limit.
    #[must_use]
    pub fn len(&self) -> usize {
        self.details.len() - self.domains.len()
    }

    /// No rule at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The places of all rules, domains' roots left out.
    pub fn ids(&self) -> impl Iterator<Item = RuleId> {
        let places = (0..).zip(&self.rules);
        let taken = places.filter(|(_, rule)| rule.number != NONE);
        let ids = taken.map(|(place, _)| RuleId(place));
        ids.filter(|&id| self.detail(id).source.is_some())
    }

    /// The name of the domain that `id` belongs to.
    #[must_use]
    pub fn domain_of(&self, id: RuleId) -> &str {
        let mut at = id;
        while self.detail(at).source.is_some() {
            at = self.rule(at).parent;
        }
        &self.detail(at).key
    }

    /// How many numbers rules have.
    #[must_use]
    pub fn numbers(&self) -> usize {
        self.details.len()
    }

    /// The number of the rule at `id`, below [`numbers`](Self::numbers).
    #[must_use]
    pub fn number(&self, id: RuleId) -> usize {
        self.rule(id).number as usize
    }

    /// The rule at `id`.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.rules[id.index()]
    }

    /// The rarely needed part of the rule at `id`.
    #[must_use]
    pub fn detail(&self, id: RuleId) -> &Detail {
        &self.details[self.rule(id).number as usize]
    }

    /// How an answer that tells of `rule` looks; `None` as nearly always, for
    /// as usual.
    #[must_use]
    pub fn responses(&self, domain: &[u8], rule: Option<RuleId>) -> Option<Cow<'_, ResponsesDef>> {
        if !self.has_responses {
            return None;
        }
        let of_domain = self.domain(domain).map(Domain::root);
        let of_domain = of_domain.and_then(|root| self.detail(root).responses.as_deref());
        let of_rule = rule.and_then(|id| self.detail(id).responses.as_deref());
        match (of_rule, of_domain) {
            (Some(rule), Some(domain)) => Some(Cow::Owned(rule.or(domain))),
            (Some(one), None) | (None, Some(one)) => Some(Cow::Borrowed(one)),
            (None, None) => None,
        }
    }

    /// The rules from the first level down to `id`.
    #[must_use]
    pub fn path(&self, id: RuleId) -> SmallVec<[RuleId; 8]> {
        let mut path = SmallVec::new();
        let mut at = id;
        while self.detail(at).source.is_some() {
            path.push(at);
            at = self.rule(at).parent;
        }
        path.reverse();
        path
    }

    /// The path from the first level down to `id`: composite keys, joined by
    /// dots.
    #[must_use]
    pub fn path_text(&self, id: RuleId) -> String {
        let path = self.path(id);
        let keys = path
            .iter()
            .map(|&id| String::from_utf8_lossy(self.rule(id).composite()));
        keys.collect::<Vec<_>>().join(".")
    }

    /// The child of `parent` for this key and value: `composite` is both with
    /// `_` between them.
    pub(crate) fn exact_child(&self, parent: RuleId, composite: &[u8]) -> Option<RuleId> {
        // Where all children are patterns (or keys alone) only the text of a
        // pattern can be equal: mostly there is nothing to look for.
        if self.rule(parent).has_exact || composite.contains(&b'*') {
            self.child(parent, composite)
        } else {
            None
        }
    }

    /// The child of `parent` that names this key alone.
    pub(crate) fn key_child(&self, parent: RuleId, key: &[u8]) -> Option<RuleId> {
        // A root is not its own child.
        if key.is_empty() {
            return None;
        }
        self.child(parent, key)
    }

    fn child(&self, parent: RuleId, composite: &[u8]) -> Option<RuleId> {
        let hash = hash_child(self.seed, self.rule(parent).number, composite);
        self.at(hash, parent, |found| found == composite)
    }

    /// The child of `parent` with the pattern `prefix*`.
    fn prefix_child(&self, parent: RuleId, prefix: &[u8]) -> Option<RuleId> {
        let hash = hash_prefix(self.seed, self.rule(parent).number, prefix);
        self.at(hash, parent, |found| {
            found.strip_suffix(b"*") == Some(prefix)
        })
    }

    /// The child of `parent` whose hash this is, if it is the right one.
    fn at(&self, hash: u64, parent: RuleId, is_it: impl Fn(&[u8]) -> bool) -> Option<RuleId> {
        let place = self.placement.of(hash);
        let rule = self.rules.get(place)?;
        (rule.parent == parent && is_it(rule.composite())).then(|| RuleId(id(place)))
    }

    /// The first child of `parent`, in file order, whose pattern matches.
    pub(crate) fn wildcard_child(&self, parent: RuleId, composite: &[u8]) -> Option<RuleId> {
        let index = self.rule(parent).wildcards;
        if index == NONE {
            return None;
        }
        let wildcards = &self.wildcards[index as usize];
        let prefixes = wildcards
            .prefix_lengths
            .iter()
            .map_while(|&length| composite.get(..length))
            .filter_map(|prefix| self.prefix_child(parent, prefix));
        let other = wildcards.index.first_match(composite);
        prefixes
            .chain(other.map(|rank| wildcards.others[rank as usize]))
            .min_by_key(|&id| self.rule(id).number)
    }
}

// === builder ===

/// Rules in the order of their definition; an id is a number here.
#[derive(Default)]
struct Builder {
    domains: Vec<(Box<str>, Domain)>,
    rules: Vec<Rule>,
    details: Vec<Detail>,
    /// Of the rules that have any: their number, and those of their children
    /// that are patterns.
    patterns: Vec<(RuleId, Vec<RuleId>)>,
}

impl Builder {
    fn add_root(
        &mut self,
        name: &str,
        responses: Option<ResponsesDef>,
    ) -> Result<RuleId, TooManyRules> {
        let id = self.next_id()?;
        self.rules.push(Rule {
            parent: id,
            number: id.0,
            ..Rule::vacant()
        });
        self.details.push(Detail {
            key: name.into(),
            value: "".into(),
            name: "".into(),
            replaces: [].into(),
            metadata: metadata::Map::new(),
            detailed_metric: false,
            value_to_metric: false,
            share_threshold: false,
            responses: responses.map(Box::new),
            source: None,
            children: vec![],
            limits: vec![],
        });
        Ok(id)
    }

    /// Adds everything below `top`, without recursion: rules nest deeply.
    fn add_level(&mut self, top: RuleId, rules: Vec<RuleDef>) -> Result<(), TooManyRules> {
        let mut levels = vec![(top, rules)];
        while let Some((parent, rules)) = levels.pop() {
            let mut patterns = vec![];
            let mut gates = vec![];
            self.rules[parent.index()].has_children = !rules.is_empty();
            for mut definition in rules {
                let children = std::mem::take(&mut definition.children);
                let composite = composite_key(&definition.key, &definition.value);
                gates.extend(definition.gates());
                let id = self.add_rule(parent, definition, composite.as_bytes())?;
                if composite.contains('*') {
                    patterns.push(id);
                } else if composite.contains('_') {
                    self.rules[parent.index()].has_exact = true;
                }
                levels.push((id, children));
            }
            if !patterns.is_empty() {
                self.patterns.push((parent, patterns));
            }
            for (composite, limit) in gates {
                self.add_event(parent, &composite, limit);
            }
        }
        Ok(())
    }

    /// Has the child of `parent` with that key open a gate of this length.
    fn add_event(&mut self, parent: RuleId, composite: &str, gate: Limit) {
        let children = &self.details[parent.index()].children;
        let is_it = |id: &&RuleId| self.rules[id.index()].composite() == composite.as_bytes();
        let Some(&id) = children.iter().find(is_it) else {
            return;
        };
        let rule = &mut self.rules[id.index()];
        let detail = &mut self.details[id.index()];
        if let (false, Some(Quota::Limited(limit))) = (rule.is_special(), rule.quota) {
            detail.limits.push(LimitRule {
                limit,
                name: detail.name.clone(),
                replaces: detail.replaces.clone(),
                leased: rule.counting == Counting::Leased,
                extra: Extra::default(),
            });
        }
        rule.counting = Counting::Special;
        let longest = detail.limits.iter_mut().find(|limit| limit.is_event());
        match longest {
            Some(event) if event.limit.window.seconds() >= gate.window.seconds() => {}
            Some(event) => event.limit = gate,
            None => detail.limits.push(LimitRule {
                limit: gate,
                name: "".into(),
                replaces: [].into(),
                leased: false,
                extra: Extra {
                    method: Some(Method::plain(Algorithm::Event)),
                    ..Extra::default()
                },
            }),
        }
    }

    fn add_rule(
        &mut self,
        parent: RuleId,
        definition: RuleDef,
        composite: &[u8],
    ) -> Result<RuleId, TooManyRules> {
        let id = self.next_id()?;
        let special = definition.is_special();
        let limits = if special {
            let all = definition.limit.iter().chain(&definition.more);
            all.filter_map(LimitRule::new).collect()
        } else {
            vec![]
        };
        let (quota, name, replaces, leased) = match definition.limit {
            Some(limit) => (Some(limit.quota), limit.name, limit.replaces, limit.leased),
            None => (None, String::new(), vec![], false),
        };
        self.rules.push(Rule {
            composite: Text::new(composite),
            quota,
            parent,
            number: id.0,
            shares: definition.share_threshold || self.rules[parent.index()].shares,
            shadow_mode: definition.shadow_mode,
            quota_mode: definition.quota_mode,
            named: !name.is_empty() || limits.iter().any(|limit| !limit.name.is_empty()),
            replaces: !replaces.is_empty() || limits.iter().any(|limit| !limit.replaces.is_empty()),
            counting: match (special, leased) {
                (true, _) => Counting::Special,
                (false, true) => Counting::Leased,
                (false, false) => Counting::Plain,
            },
            ..Rule::vacant()
        });
        self.details.push(Detail {
            key: definition.key.into(),
            value: definition.value.into(),
            name: name.into(),
            replaces: replaces.into_iter().map(Into::into).collect(),
            metadata: definition.metadata,
            detailed_metric: definition.detailed_metric,
            value_to_metric: definition.value_to_metric,
            share_threshold: definition.share_threshold,
            responses: definition.responses.map(Box::new),
            source: Some(definition.source),
            children: vec![],
            limits,
        });
        self.details[parent.index()].children.push(id);
        Ok(id)
    }

    fn next_id(&self) -> Result<RuleId, TooManyRules> {
        // Places outnumber rules, by four to one at worst.
        match u32::try_from(self.rules.len()) {
            Ok(number) if number < MOST_RULES => Ok(RuleId(number)),
            _ => Err(TooManyRules),
        }
    }

    /// Moves every rule to its place: ids change from numbers to places.
    fn finish(self) -> RuleSet {
        let (seed, placement, places) = self.place();
        let moved = |number: RuleId| RuleId(places[number.index()]);
        let mut rules = Vec::new();
        rules.resize_with(placement.len(), Rule::vacant);
        for (number, mut rule) in (0..).map(RuleId).zip(self.rules) {
            rule.parent = moved(rule.parent);
            rules[moved(number).index()] = rule;
        }
        let mut details = self.details;
        for detail in &mut details {
            detail.children.iter_mut().for_each(|id| *id = moved(*id));
        }
        let mut wildcards = vec![];
        for (parent, children) in self.patterns {
            rules[moved(parent).index()].wildcards = id(wildcards.len());
            let children = children.into_iter().map(moved).collect();
            wildcards.push(Wildcards::new(&rules, children));
        }
        let domains = self.domains.into_iter();
        RuleSet {
            domains: domains
                .map(|(name, domain)| {
                    let root = moved(domain.root);
                    (name, Domain { root, ..domain })
                })
                .collect(),
            placement,
            seed,
            rules,
            has_responses: details.iter().any(|detail| detail.responses.is_some()),
            details,
            wildcards,
        }
    }

    /// A seed under which all hashes differ, and each rule's place.
    fn place(&self) -> (u32, Placement, Vec<u32>) {
        let place = |seed| {
            let hashes = self.hashes(seed)?;
            let placement = Placement::new(&hashes)?;
            let places = hashes.iter().map(|&hash| id(placement.of(hash)));
            Some((seed, places.collect(), placement))
        };
        let (seed, places, placement) = (0..)
            .find_map(place)
            .expect("nearly every seed gives 64-bit hashes without equals");
        (seed, placement, places)
    }

    /// Each rule's hash; `None` when two rules have the same by chance.
    ///
    /// A second rule of the same key in one list, which readers refuse, gets
    /// a hash under which nobody looks for it: the first one counts.
    fn hashes(&self, seed: u32) -> Option<Vec<u64>> {
        let hash = |rule: &Rule| hash_child(seed, rule.parent.0, rule.composite());
        let mut hashes: Vec<u64> = self.rules.iter().map(hash).collect();
        let mut order: Vec<usize> = (0..hashes.len()).collect();
        order.sort_by_key(|&number| hashes[number]);
        let mut doubles = vec![];
        for pair in order.windows(2) {
            let [first, second] = [pair[0], pair[1]];
            if hashes[first] == hashes[second] {
                let (one, other) = (&self.rules[first], &self.rules[second]);
                if one.parent != other.parent || one.composite() != other.composite() {
                    return None;
                }
                doubles.push(second);
            }
        }
        for double in doubles {
            hashes[double] = placement::fold(hashes[double] ^ double as u64);
        }
        Some(hashes)
    }
}

impl Wildcards {
    /// `children` are in file order.
    fn new(rules: &[Rule], children: Vec<RuleId>) -> Self {
        let mut prefix_lengths = BTreeSet::new();
        let (mut patterns, mut others) = (vec![], vec![]);
        for child in children {
            let composite = rules[child.index()].composite();
            if let Some(prefix) = only_prefix(composite) {
                prefix_lengths.insert(prefix.len());
            } else if let Some(pattern) = Pattern::new(composite) {
                patterns.push((pattern, id(others.len())));
                others.push(child);
            }
        }
        Self {
            prefix_lengths: prefix_lengths.into_iter().collect(),
            index: WildcardIndex::new(patterns),
            others: others.into(),
        }
    }
}

/// Numbers and places are below 2³²: see [`Builder::next_id`].
fn id(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(NONE)
}

impl Domain {
    /// The domain's root, whose children are the first level.
    #[must_use]
    pub fn root(self) -> RuleId {
        self.root
    }

    /// What goes for all of it.
    #[must_use]
    pub fn policy(self) -> DomainPolicy {
        self.policy
    }
}

impl RuleId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl Rule {
    /// `key` or `key_value`, as bytes.
    #[must_use]
    pub fn composite(&self) -> &[u8] {
        self.composite.as_bytes()
    }

    /// The rule one level up; a domain's root is its own parent.
    #[must_use]
    pub fn parent(&self) -> RuleId {
        self.parent
    }

    /// Nobody's rule.
    fn vacant() -> Self {
        Self {
            composite: Text::new(b""),
            quota: None,
            parent: RuleId(NONE),
            number: NONE,
            wildcards: NONE,
            has_children: false,
            has_exact: false,
            shares: false,
            shadow_mode: false,
            quota_mode: false,
            named: false,
            replaces: false,
            counting: Counting::Plain,
        }
    }

    /// Its limits are in [`Detail::limits`].
    #[must_use]
    pub fn is_special(&self) -> bool {
        self.counting == Counting::Special
    }
}

// === impl RuleDef ===

impl RuleDef {
    /// More than one limit, or one that is more than a plain fixed window.
    fn is_special(&self) -> bool {
        let says_more = |limit: &LimitDef| limit.extra != Extra::default();
        !self.more.is_empty() || self.limit.as_ref().is_some_and(says_more)
    }

    /// The composite keys of the rules beside it that open its gates.
    fn gates(&self) -> Vec<(String, Limit)> {
        let limits = self.limit.iter().chain(&self.more);
        let gates = limits.filter_map(|limit| {
            let (key, value) = limit.extra.opened_by.as_ref()?;
            let Quota::Limited(limit) = limit.quota else {
                return None;
            };
            Some((composite_key(key, value), limit))
        });
        gates.collect()
    }
}

// === impl LimitRule ===

impl LimitRule {
    fn new(definition: &LimitDef) -> Option<Self> {
        let Quota::Limited(limit) = definition.quota else {
            return None;
        };
        Some(Self {
            limit,
            name: definition.name.as_str().into(),
            replaces: definition
                .replaces
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            leased: definition.leased,
            extra: definition.extra.clone(),
        })
    }

    /// It opens gates, and limits nothing.
    #[must_use]
    pub fn is_event(&self) -> bool {
        let method = self.extra.method;
        method.is_some_and(|method| method.algorithm == Algorithm::Event)
    }
}

/// There are more rules than can be numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRules;

impl std::fmt::Display for TooManyRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("more rules than can be numbered (about 1,000,000,000)")
    }
}

impl std::error::Error for TooManyRules {}

fn hash_child(seed: u32, parent: u32, composite: &[u8]) -> u64 {
    match only_prefix(composite) {
        Some(prefix) => hash_prefix(seed, parent, prefix),
        None => placement::hash(seed, parent, composite),
    }
}

/// What stands before the star, where that is the only one and at the end.
fn only_prefix(composite: &[u8]) -> Option<&[u8]> {
    let prefix = composite.strip_suffix(b"*")?;
    (!prefix.contains(&b'*')).then_some(prefix)
}

fn hash_prefix(seed: u32, parent: u32, prefix: &[u8]) -> u64 {
    placement::hash(!seed, parent, prefix)
}
