//! Rules: the definition that a reader of some format hands in, and the
//! compiled, immutable tree that requests are matched against.
//!
//! Children are found by their *composite key*: `key` for a rule without a
//! value, `key_value` otherwise. That text is the reference's, so `a_b`
//! without value and `a` with value `b` are the same child.

use std::{collections::HashMap, sync::Arc};

use super::{
    index::Index,
    limit::Quota,
    metadata,
    wildcard::{Pattern, WildcardIndex},
};

// === definition ===

/// Where a rule was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file, as the reader names it.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// One domain's rules.
#[derive(Clone, Debug)]
pub struct DomainDef {
    /// Its name; not empty.
    pub name: String,
    /// The first level, in file order.
    pub rules: Vec<RuleDef>,
}

/// One place in the tree.
///
/// The reader has validated it: `key` is not empty, no two of a list have
/// the same composite key, `share_threshold` stands only beside a `*`.
#[derive(Clone, Debug)]
pub struct RuleDef {
    /// The entry's key; may hold `*`.
    pub key: String,
    /// The entry's value; empty matches any; may hold `*`.
    pub value: String,
    /// What it grants; `None` grants everything and counts nothing.
    pub limit: Option<LimitDef>,
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
    domains: HashMap<Box<str>, DomainId>,
    rules: Vec<Rule>,
    details: Vec<Detail>,
    /// Exact children of all rules, by (parent, composite key).
    children: Index,
    /// Wildcard children, of the few rules that have any.
    wildcards: Vec<WildcardIndex>,
}

/// A domain's place in the rule set: that of its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainId(pub(crate) RuleId);

/// A rule's place in the rule set.
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
    wildcards: u32,
    /// Has nested rules.
    pub has_children: bool,
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
    /// Has metadata.
    pub has_metadata: bool,
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
    /// Nested rules, in file order.
    pub children: Vec<RuleId>,
}

/// Bytes that are in place when they are few.
#[derive(Debug)]
enum Text {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

/// As much as leaves a rule in its cache line.
const SHORT: usize = 30;

const _: () = assert!(size_of::<Rule>() == 64);

const NO_WILDCARDS: u32 = u32::MAX;

// === impl RuleSet ===

impl RuleSet {
    /// Compiles validated definitions.
    ///
    /// # Errors
    /// More than 2³² - 2 rules.
    pub fn compile(domains: Vec<DomainDef>) -> Result<Self, TooManyRules> {
        let mut set = Self::default();
        for domain in domains {
            let root = set.add_root(&domain.name)?;
            set.add_level(root, domain.rules)?;
            set.domains.insert(domain.name.into(), DomainId(root));
        }
        set.index_children();
        Ok(set)
    }

    /// The domain of that name, if it has rules.
    #[must_use]
    pub fn domain(&self, name: &[u8]) -> Option<DomainId> {
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
        self.rules.len() - self.domains.len()
    }

    /// No rule at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rule at `id`.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.rules[id.index()]
    }

    /// The rarely needed part of the rule at `id`.
    #[must_use]
    pub fn detail(&self, id: RuleId) -> &Detail {
        &self.details[id.index()]
    }

    /// The rules from the first level down to `id`.
    #[must_use]
    pub fn path(&self, id: RuleId) -> Vec<RuleId> {
        let mut path = vec![];
        let mut at = id;
        while self.detail(at).source.is_some() {
            path.push(at);
            at = self.rule(at).parent;
        }
        path.reverse();
        path
    }

    /// The child of `parent` with exactly this composite key.
    pub(crate) fn exact_child(&self, parent: RuleId, composite: &[u8]) -> Option<RuleId> {
        let hash = hash_child(parent, composite);
        let is_it = |number| {
            let rule = self.rule(RuleId(number));
            rule.parent == parent && rule.composite() == composite
        };
        self.children.find(hash, is_it).map(RuleId)
    }

    /// The first child of `parent`, in file order, whose pattern matches.
    pub(crate) fn wildcard_child(&self, parent: RuleId, composite: &[u8]) -> Option<RuleId> {
        let index = self.rule(parent).wildcards;
        if index == NO_WILDCARDS {
            return None;
        }
        self.wildcards[index as usize]
            .first_match(composite)
            .map(RuleId)
    }

    fn add_root(&mut self, name: &str) -> Result<RuleId, TooManyRules> {
        let id = self.next_id()?;
        self.rules.push(Rule {
            composite: Text::new(b""),
            quota: None,
            parent: id,
            wildcards: NO_WILDCARDS,
            has_children: false,
            shares: false,
            shadow_mode: false,
            quota_mode: false,
            named: false,
            replaces: false,
            has_metadata: false,
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
            source: None,
            children: vec![],
        });
        Ok(id)
    }

    /// Adds everything below `top`, without recursion: rules nest deeply.
    fn add_level(&mut self, top: RuleId, rules: Vec<RuleDef>) -> Result<(), TooManyRules> {
        let mut levels = vec![(top, rules)];
        while let Some((parent, rules)) = levels.pop() {
            let mut patterns = vec![];
            self.rules[parent.index()].has_children = !rules.is_empty();
            for mut definition in rules {
                let children = std::mem::take(&mut definition.children);
                let composite = composite_key(&definition.key, &definition.value);
                let id = self.add_rule(parent, definition, composite.as_bytes())?;
                if let Some(pattern) = Pattern::new(composite.as_bytes()) {
                    patterns.push((pattern, id.0));
                }
                levels.push((id, children));
            }
            if !patterns.is_empty() {
                let index = u32::try_from(self.wildcards.len()).map_err(|_| TooManyRules)?;
                self.wildcards.push(WildcardIndex::new(patterns));
                self.rules[parent.index()].wildcards = index;
            }
        }
        Ok(())
    }

    fn add_rule(
        &mut self,
        parent: RuleId,
        definition: RuleDef,
        composite: &[u8],
    ) -> Result<RuleId, TooManyRules> {
        let id = self.next_id()?;
        let (quota, name, replaces) = match definition.limit {
            Some(limit) => (Some(limit.quota), limit.name, limit.replaces),
            None => (None, String::new(), vec![]),
        };
        self.rules.push(Rule {
            composite: Text::new(composite),
            quota,
            parent,
            wildcards: NO_WILDCARDS,
            has_children: false,
            shares: definition.share_threshold || self.rule(parent).shares,
            shadow_mode: definition.shadow_mode,
            quota_mode: definition.quota_mode,
            named: !name.is_empty(),
            replaces: !replaces.is_empty(),
            has_metadata: !definition.metadata.is_empty(),
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
            source: Some(definition.source),
            children: vec![],
        });
        self.details[parent.index()].children.push(id);
        Ok(id)
    }

    /// Everything is in: makes children findable.
    fn index_children(&mut self) {
        let entries: Vec<(u64, u32)> = (0..)
            .zip(&self.rules)
            // Roots are nobody's children.
            .filter(|(number, rule)| rule.parent != RuleId(*number))
            .map(|(number, rule)| (hash_child(rule.parent, rule.composite()), number))
            .collect();
        self.children = Index::new(&entries);
    }

    fn next_id(&self) -> Result<RuleId, TooManyRules> {
        match u32::try_from(self.rules.len()) {
            Ok(id) if id < NO_WILDCARDS => Ok(RuleId(id)),
            _ => Err(TooManyRules),
        }
    }
}

impl DomainId {
    /// The domain's root, whose children are the first level.
    #[must_use]
    pub fn root(self) -> RuleId {
        self.0
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
        match &self.composite {
            Text::Short { length, bytes } => &bytes[..usize::from(*length)],
            Text::Long(bytes) => bytes,
        }
    }

    /// The rule one level up; a domain's root is its own parent.
    #[must_use]
    pub fn parent(&self) -> RuleId {
        self.parent
    }
}

impl Text {
    fn new(text: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(text);
                Self::Short { length, bytes }
            }
            _ => Self::Long(text.into()),
        }
    }
}

/// There are more rules than can be numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRules;

impl std::fmt::Display for TooManyRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("more rules than can be numbered (4,294,967,294)")
    }
}

impl std::error::Error for TooManyRules {}

/// Spreads (parent, composite key) over 64 bits.
///
/// Not keyed: the table holds the operator's keys only and never grows at
/// a client's wish.
fn hash_child(parent: RuleId, composite: &[u8]) -> u64 {
    let mut hash = fold(u64::from(parent.0) ^ ((composite.len() as u64) << 32));
    let (words, rest) = composite.as_chunks::<8>();
    for word in words {
        hash = fold(hash ^ u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(hash ^ u64::from_le_bytes(last))
}

/// Multiplies to 128 bits and folds the halves together.
#[allow(clippy::cast_possible_truncation, reason = "takes the halves apart")]
fn fold(value: u64) -> u64 {
    let product = u128::from(value ^ 0x2D35_8DCC_AA6C_78A5) * 0x9E37_79B9_7F4A_7C15;
    (product as u64) ^ ((product >> 64) as u64)
}
