//! Typed definitions → compiled rules: what concerns more than one place.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use crate::{
    engine::{
        responses::ResponsesDef,
        rules::{
            ChargePolicy, DomainDef, DomainPolicy, OnStoreFailure, RuleDef, RuleSet, Source,
            composite_key,
        },
    },
    proto::ratelimit::config::ratelimit::v3::RateLimitConfig,
};

use super::{
    limits,
    messages::Messages,
    problem::{LOADING, Problems, Report, Stage, clip},
    schema::{self, Choice, Descriptor, Domain},
    yaml::{self, Mark},
};

/// Bytes that a file may have.
pub const MAX_FILE_BYTES: usize = 32 << 20;

/// How to read rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Files of the same domain add up; otherwise that is a mistake.
    pub merge_domains: bool,
    /// Let pass and ignore what the reference does: known keys in the wrong
    /// place, repeated keys, all documents of a file but the first.
    pub compat: bool,
}

/// A file's name and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// As shown in messages; files are read in the order of their names.
    pub name: Arc<str>,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// Compiles files, of one configuration, in the order of their names.
///
/// Pure, and safe on any input: time and memory are bounded, and nothing
/// panics.
///
/// # Errors
/// All mistakes of all files; then nothing is loaded.
pub fn compile(files: &[SourceFile], options: &Options) -> Result<RuleSet, Problems> {
    let mut sorted: Vec<&SourceFile> = files.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut problems = Problems::default();
    let mut loader = Loader::new(options);
    for file in &sorted {
        loader.file(file, &mut problems);
    }
    let last = sorted.last().map(|file| Arc::clone(&file.name));
    loader.finish(last, problems).map_err(|mut problems| {
        problems.sort();
        problems
    })
}

/// Compiles a management server's resources, of one configuration, in their
/// order.
///
/// Pure, and as safe as [`compile`] on anything that is not nested deeper
/// than a decoder lets pass.
///
/// # Errors
/// All mistakes of all of them, in their order; then nothing is loaded.
pub fn compile_messages(
    configs: Vec<RateLimitConfig>,
    options: &Options,
) -> Result<RuleSet, Problems> {
    let mut problems = Problems::default();
    let mut loader = Loader::new(options);
    let mut messages = Messages::default();
    let mut last = None;
    for config in configs {
        let (domain, mut report) = messages.read(config, &mut problems);
        last = Some(Arc::clone(report.file()));
        loader.domain(domain, &mut report);
    }
    loader.finish(last, problems)
}

/// What has been loaded so far.
struct Loader<'o> {
    options: &'o Options,
    domains: Vec<DomainDef>,
    by_name: HashMap<String, Known>,
}

/// A domain, and what would clash with it.
struct Known {
    index: usize,
    source: Source,
    roots: Siblings,
    /// What files have said for all of it, and where.
    charge: Option<(ChargePolicy, Source)>,
    on_store_failure: Option<(OnStoreFailure, Source)>,
    responses: Option<(ResponsesDef, Source)>,
}

/// The composite keys of one list, and where each stands.
type Siblings = HashMap<String, Source>;

// === impl Loader ===

impl<'o> Loader<'o> {
    fn new(options: &'o Options) -> Self {
        Self {
            options,
            domains: vec![],
            by_name: HashMap::new(),
        }
    }

    /// What there is, if nothing is wrong with it; `last` is the name of
    /// what was loaded last.
    fn finish(self, last: Option<Arc<str>>, mut problems: Problems) -> Result<RuleSet, Problems> {
        if !problems.is_empty() {
            return Err(problems);
        }
        RuleSet::compile(self.domains).map_err(|error| {
            let mut report = Report::new(last.unwrap_or_default(), "", &mut problems);
            report.add(Stage::Rules, Mark::START, "", error.to_string(), None);
            problems
        })
    }

    fn file(&mut self, file: &SourceFile, problems: &mut Problems) {
        let name = Arc::clone(&file.name);
        let text = match text_of(&file.bytes) {
            Ok(text) => text,
            Err((valid, at, message)) => {
                let message = format!("{LOADING}{message}");
                let mut report = Report::new(name, valid, problems);
                report.add(Stage::Syntax, at, "", message, None);
                return;
            }
        };
        let mut report = Report::new(name, text, problems);
        let stream = yaml::parse(text, self.options.compat);
        let broken = !stream.mistakes.is_empty();
        for (at, message) in stream.mistakes {
            let message = format!("{LOADING}{message}");
            report.add(Stage::Syntax, at, "", message, None);
        }
        let mut documents = stream.documents;
        documents.retain(|document| !schema::is_nothing(document));
        if documents.is_empty() && !broken {
            self.domain(schema::nothing(), &mut report);
        }
        for document in documents {
            if let Some(domain) = schema::read(&document, &mut report, self.options.compat) {
                self.domain(domain, &mut report);
            }
        }
    }

    fn domain(&mut self, domain: Domain, report: &mut Report<'_>) {
        let at = domain.name.at_or(domain.at);
        if domain.name.is_empty() {
            let message = "config file cannot have empty domain";
            report.add(Stage::Rules, at, "", message, None);
        }
        let source = source(report, at);
        let name = domain.name.into_string();
        let mut validator = Validator {
            path: clip(&name),
            report,
        };
        // Without a name, it is no other domain's double.
        if name.is_empty() {
            validator.rules(domain.descriptors, &mut Siblings::new());
            return;
        }
        let next = self.domains.len();
        let known = match self.by_name.entry(name.clone()) {
            hash_map::Entry::Vacant(entry) => {
                self.domains.push(DomainDef {
                    name,
                    policy: DomainPolicy::default(),
                    responses: None,
                    rules: vec![],
                });
                entry.insert(Known {
                    index: next,
                    source,
                    roots: Siblings::new(),
                    charge: None,
                    on_store_failure: None,
                    responses: None,
                })
            }
            hash_map::Entry::Occupied(entry) => {
                let known = entry.into_mut();
                if !self.options.merge_domains {
                    validator.duplicate_domain(&name, at, &known.source);
                    validator.rules(domain.descriptors, &mut Siblings::new());
                    return;
                }
                known
            }
        };
        let rules = validator.rules(domain.descriptors, &mut known.roots);
        validator.agree("charge", domain.charge, &mut known.charge);
        validator.agree(
            "on_store_failure",
            domain.on_store_failure,
            &mut known.on_store_failure,
        );
        validator.agree_on_responses(domain.responses, &mut known.responses);
        let definition = &mut self.domains[known.index];
        definition.responses = known.responses.as_ref().map(|(said, _)| said.clone());
        definition.rules.extend(rules);
        definition.policy = DomainPolicy {
            charge: known.charge.as_ref().map(|(charge, _)| *charge),
            on_store_failure: known.on_store_failure.as_ref().map(|(what, _)| *what),
        };
    }
}

/// Makes rules of descriptors.
pub(super) struct Validator<'r, 'p> {
    report: &'r mut Report<'p>,
    path: String,
}

// === impl Validator ===

impl Validator<'_, '_> {
    /// `siblings` are those that stand before in the same list.
    fn rules(&mut self, descriptors: Vec<Descriptor>, siblings: &mut Siblings) -> Vec<RuleDef> {
        let above = self.path.len();
        let mut rules = Vec::with_capacity(descriptors.len());
        let mut gates = vec![];
        for descriptor in descriptors {
            gates.extend(limits::gates(&descriptor));
            let broken = descriptor.key.is_broken() || descriptor.value.is_broken();
            let composite = composite_key(descriptor.key.as_str(), descriptor.value.as_str());
            self.path.push('.');
            self.path
                .push_str(&clip(if broken { "?" } else { &composite }));
            if !broken {
                self.check_key(&descriptor, composite, siblings);
            }
            rules.push(self.rule(descriptor));
            self.path.truncate(above);
        }
        for (at, composite) in gates {
            let opens = |rule: &&RuleDef| composite_key(&rule.key, &rule.value) == composite;
            if rules.iter().find(opens).is_some_and(|rule| rule.quota_mode) {
                let message = "opened_by names a rule in quota_mode, which would lose it";
                self.problem(at, message, None);
            }
            if !siblings.contains_key(&composite) {
                let message = format!("opened_by names no rule beside it: '{}'", clip(&composite));
                let hint =
                    "opened_by is the value of a descriptor of the same list with the same key";
                self.problem(at, message, Some(hint.to_owned()));
            }
        }
        rules
    }

    fn rule(&mut self, mut descriptor: Descriptor) -> RuleDef {
        let (limit, more) = self.limits(&mut descriptor);
        RuleDef {
            source: source(self.report, descriptor.at),
            limit,
            more,
            children: self.rules(descriptor.descriptors, &mut Siblings::new()),
            key: descriptor.key.into_string(),
            value: descriptor.value.into_string(),
            shadow_mode: descriptor.shadow_mode,
            quota_mode: descriptor.quota_mode,
            detailed_metric: descriptor.detailed_metric,
            value_to_metric: descriptor.value_to_metric,
            share_threshold: descriptor.share_threshold,
            metadata: descriptor.metadata,
            responses: descriptor.responses,
        }
    }

    fn check_key(&mut self, descriptor: &Descriptor, composite: String, siblings: &mut Siblings) {
        let at = descriptor.key.at_or(descriptor.at);
        if descriptor.key.is_empty() {
            self.problem(at, "descriptor has empty key", None);
            return;
        }
        if descriptor.share_threshold && !composite.contains('*') {
            let message = format!(
                "share_threshold can only be used with wildcard values (containing '*'), \
                 but found key '{}'",
                clip(&composite)
            );
            self.problem(at, message, None);
        }
        match siblings.entry(composite) {
            hash_map::Entry::Vacant(entry) => {
                entry.insert(source(self.report, at));
            }
            hash_map::Entry::Occupied(entry) => {
                let message = format!("duplicate descriptor composite key '{}'", self.path);
                let hint = first_at(entry.get());
                self.problem(at, message, Some(hint));
            }
        }
    }

    /// Files of a domain may all say something for all of it, if they say
    /// the same.
    fn agree<T: Copy + PartialEq>(
        &mut self,
        what: &str,
        said: Choice<T>,
        known: &mut Option<(T, Source)>,
    ) {
        let Choice::Given(value, at) = said else {
            return;
        };
        match known {
            Some((other, first)) if *other != value => {
                let message = format!("{what} differs between files of a domain");
                let hint = first_at(first);
                self.problem(at, message, Some(hint));
            }
            Some(_) => {}
            None => *known = Some((value, source(self.report, at))),
        }
    }

    fn agree_on_responses(
        &mut self,
        said: Option<(ResponsesDef, Mark)>,
        known: &mut Option<(ResponsesDef, Source)>,
    ) {
        let Some((responses, at)) = said else { return };
        match known {
            Some((other, first)) if *other != responses => {
                let hint = first_at(first);
                let message = "responses differs between files of a domain";
                self.problem(at, message, Some(hint));
            }
            Some(_) => {}
            None => *known = Some((responses, source(self.report, at))),
        }
    }

    fn duplicate_domain(&mut self, name: &str, at: Mark, first: &Source) {
        let message = format!("duplicate domain '{}' in config file", clip(name));
        let hint = format!(
            "{}; files of a domain can be merged (--merge-domains)",
            first_at(first)
        );
        self.problem(at, message, Some(hint));
    }

    pub(super) fn problem(&mut self, at: Mark, message: impl Into<String>, hint: Option<String>) {
        self.report.add(Stage::Rules, at, &self.path, message, hint);
    }
}

fn first_at(source: &Source) -> String {
    format!("the first one is at {}:{}", source.file, source.line)
}

fn source(report: &Report<'_>, at: Mark) -> Source {
    Source {
        file: Arc::clone(report.file()),
        line: at.line,
        column: at.column,
    }
}

/// A file's text; or what can be read of it, and what is wrong after that.
pub(crate) fn text_of(bytes: &[u8]) -> Result<&str, (&str, Mark, String)> {
    if bytes.len() > MAX_FILE_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20);
        return Err(("", Mark::START, message));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = &bytes[..error.valid_up_to()];
        let valid = std::str::from_utf8(valid).unwrap_or_default();
        let at = yaml::mark_at(valid, valid.len());
        (valid, at, "the file is not UTF-8 text".to_owned())
    })
}
