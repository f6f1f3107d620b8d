//! What is in a test file.

use crate::{
    config::{
        problem::clip,
        scalar::Meaning,
        yaml::{Mark, Node},
    },
    engine::time::Timestamp,
    proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor,
    settings::answers::{self, Answers},
};

use super::{
    ask,
    expect::{self, Expect},
    reader::{Reader, scalar},
    time,
};

/// One file.
#[derive(Debug)]
pub(super) struct Suite {
    /// The path of the rules and where it stands, if the file says so.
    pub(super) rules: Option<(String, Mark)>,
    pub(super) merge_domains: bool,
    /// The domain of steps that name none, and where it stands.
    pub(super) domain: Option<(String, Mark)>,
    pub(super) tests: Vec<Test>,
}

/// Steps on the same counters.
#[derive(Debug)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) at: Mark,
    pub(super) answers: Answers,
    pub(super) steps: Vec<Step>,
}

/// One request, asked once or several times, and its answer.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) at: Mark,
    pub(super) time: Timestamp,
    /// The domain and where it stands, if the step names one.
    pub(super) domain: Option<(String, Mark)>,
    pub(super) descriptors: Vec<RateLimitDescriptor>,
    pub(super) hits: u32,
    pub(super) repeat: u32,
    pub(super) expect: Expect,
}

/// Times that a step may ask.
const MOST_REPEATS: u32 = 1_000_000;

/// A setting: its name, its value and where that stands.
type Setting = (String, String, Mark);

// === impl Reader: places ===

impl Reader<'_, '_> {
    /// Reads a file; `None` where nothing can be made of it. All mistakes
    /// are reported.
    pub(super) fn suite(&mut self, document: &Node<'_>) -> Option<Suite> {
        let known = ["rules", "merge_domains", "domain", "settings", "tests"];
        let fields = self.fields(document, "a test file", &known)?;
        let settings = self.settings(fields.get("settings"));
        let mut suite = Suite {
            rules: self.placed_text(fields.get("rules"), "rules"),
            merge_domains: match fields.get("merge_domains") {
                None => false,
                Some(node) => self.flag(node, "merge_domains")?,
            },
            domain: self.placed_text(fields.get("domain"), "domain"),
            tests: vec![],
        };
        let Some(tests) = fields.get("tests") else {
            self.mistake(document.at, "there are no `tests`", None);
            return None;
        };
        for node in self.list(tests, "tests") {
            let test = self.test(node, &settings);
            self.test.clear();
            let Some(test) = test else { continue };
            let mut others = suite.tests.iter();
            if let Some(other) = others.find(|other| other.name == test.name) {
                let hint = format!("the first one is on line {}", other.at.line);
                let message = "another test of this file has that name";
                self.mistake(test.at, message, Some(hint));
            }
            suite.tests.push(test);
        }
        Some(suite)
    }

    fn test(&mut self, node: &Node<'_>, settings: &[Setting]) -> Option<Test> {
        let fields = self.fields(node, "a test", &["name", "settings", "steps"])?;
        let name = self.needed(fields.get("name"), node, "name", "a test");
        let name = name.and_then(|name| self.text(name, "name"));
        self.test = clip(name.unwrap_or_default());
        let own = self.settings(fields.get("settings"));
        let answers = self.answers(settings, &own, node);
        let steps = self.needed(fields.get("steps"), node, "steps", "a test")?;
        let mut now = None;
        let steps = self.list(steps, "steps").iter();
        let steps: Vec<_> = steps.map(|step| self.step(step, &mut now)).collect();
        Some(Test {
            name: name?.to_owned(),
            at: node.at,
            answers: answers?,
            steps: steps.into_iter().collect::<Option<_>>()?,
        })
    }

    fn step(&mut self, node: &Node<'_>, now: &mut Option<Timestamp>) -> Option<Step> {
        let known = ["at", "domain", "ask", "hits", "repeat", "expect"];
        let fields = self.fields(node, "a step", &known)?;
        let time = match fields.get("at") {
            None => Some(now.unwrap_or(time::START)),
            Some(at) => self.time(at, *now),
        };
        *now = time.or(*now);
        let domain = self.placed_text(fields.get("domain"), "domain");
        let hits = match fields.get("hits") {
            None => Some(0),
            Some(hits) => self.whole(hits, "hits", 0),
        };
        let repeat = match fields.get("repeat") {
            None => Some(1),
            Some(repeat) => self.repeat(repeat),
        };
        let ask = self.needed(fields.get("ask"), node, "ask", "a step");
        let descriptors = ask.and_then(|ask| ask::descriptors(ask, self));
        let asked = descriptors.as_ref().map(Vec::len);
        let expect = self.needed(fields.get("expect"), node, "expect", "a step");
        let expect = expect.and_then(|expect| expect::read(expect, asked, self));
        Some(Step {
            at: node.at,
            time: time?,
            domain,
            descriptors: descriptors?,
            hits: hits?,
            repeat: repeat?,
            expect: expect?,
        })
    }

    /// The time of a step; `before` is that of the one before it.
    fn time(&mut self, node: &Node<'_>, before: Option<Timestamp>) -> Option<Timestamp> {
        let text = self.text(node, "at")?;
        let Some(time) = time::read(text, before.unwrap_or(time::START)) else {
            self.invalid(node, "at", time::FORMS);
            return None;
        };
        if let Some(before) = before.filter(|before| time < *before) {
            let hint = format!("the step before is at {}", time::show(before));
            self.mistake(node.at, "time does not go backwards", Some(hint));
            return None;
        }
        Some(time)
    }

    fn repeat(&mut self, node: &Node<'_>) -> Option<u32> {
        let repeat = self.whole(node, "repeat", 1)?;
        if repeat > MOST_REPEATS {
            self.invalid(node, "repeat", &format!("{MOST_REPEATS} at most"));
            return None;
        }
        Some(repeat)
    }

    fn placed_text(&mut self, node: Option<&Node<'_>>, what: &str) -> Option<(String, Mark)> {
        let node = node?;
        let text = self.text(node, what)?;
        if text.is_empty() {
            self.invalid(node, what, "not empty");
            return None;
        }
        Some((text.to_owned(), node.at))
    }

    fn needed<'n, 'a>(
        &mut self,
        node: Option<&'n Node<'a>>,
        around: &Node<'_>,
        what: &str,
        place: &str,
    ) -> Option<&'n Node<'a>> {
        if node.is_none() {
            self.mistake(around.at, format!("{place} needs `{what}`"), None);
        }
        node
    }

    fn settings(&mut self, node: Option<&Node<'_>>) -> Vec<Setting> {
        let names = answers::names();
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let fields = node.and_then(|node| self.fields(node, "settings", &known));
        let Some(fields) = fields else {
            return vec![];
        };
        let mut settings = vec![];
        for (name, node) in fields.iter() {
            let value = match scalar(node) {
                Some((_, Meaning::Bool(flag))) => flag.to_string(),
                _ => match self.text(node, name) {
                    Some(text) => text.to_owned(),
                    None => continue,
                },
            };
            match answers::read(&[(name, &value)]) {
                Ok(_) => settings.push((name.to_owned(), value, node.at)),
                Err(error) => self.mistake(node.at, format!("settings: {error}"), None),
            }
        }
        settings
    }

    /// Settings of the file, and of the test, which stand before those.
    fn answers(&mut self, file: &[Setting], own: &[Setting], around: &Node<'_>) -> Option<Answers> {
        let is_own = |name: &str| own.iter().any(|(own, ..)| own == name);
        let file = file.iter().filter(|(name, ..)| !is_own(name));
        let all: Vec<(&str, &str)> = file
            .chain(own)
            .map(|(name, value, _)| (&**name, &**value))
            .collect();
        match answers::read(&all) {
            Ok(answers) => Some(answers),
            Err(error) => {
                let at = own.first().map_or(around.at, |(_, _, at)| *at);
                self.mistake(at, format!("settings: {error}"), None);
                None
            }
        }
    }
}
