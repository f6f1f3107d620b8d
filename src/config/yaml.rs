//! YAML text → trees of nodes that know where they stand.
//!
//! Scalars keep the text they were written with: what it means depends on
//! the field it lands in (see [`super::scalar`]). Aliases share the node of
//! their anchor, so a file cannot grow in memory; what they stand for is
//! counted all the same, so it cannot grow in time either. Nothing recurses
//! while reading, and depth is bounded, so recursion over a tree is safe.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    rc::Rc,
};

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, Tag as YamlTag};

use super::problem::clip;

/// Lists and maps may nest this deep.
pub(crate) const MAX_DEPTH: usize = 256;

/// Values that a file may hold.
pub(crate) const MAX_NODES: u64 = 4_000_000;

/// Values (and 64-byte pieces of text) that aliases may stand for.
const MAX_ALIASED: u64 = 1_000_000;

/// Mistakes in one file after which reading ends.
const MAX_MISTAKES: usize = 1_000;

/// A place in a file; all 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Bytes before it.
    pub(crate) offset: u32,
    /// Line, from 1.
    pub(crate) line: u32,
    /// Column in characters, from 1.
    pub(crate) column: u32,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    /// Where it begins; for an alias, where its anchor's value begins.
    pub(crate) at: Mark,
    kind: Kind<'a>,
}

/// The entries of a map, in file order; keys may repeat.
pub(crate) type Entries<'a> = Vec<(Node<'a>, Node<'a>)>;

#[derive(Clone, Debug)]
enum Kind<'a> {
    Scalar(Scalar<'a>),
    List(Vec<Node<'a>>),
    Map(Entries<'a>),
    Shared(Rc<Shared<'a>>),
}

/// An anchored value.
#[derive(Debug)]
struct Shared<'a> {
    node: Node<'a>,
    size: Size,
}

/// What a node is, aliases followed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'n, 'a> {
    /// Anything that is neither list nor map.
    Scalar(&'n Scalar<'a>),
    /// A list.
    List(&'n [Node<'a>]),
    /// A map, merge keys (`<<`) resolved.
    Map(&'n [(Node<'a>, Node<'a>)]),
}

/// A scalar as written.
#[derive(Clone, Debug)]
pub(crate) struct Scalar<'a> {
    /// Its text, quotes and escapes resolved.
    pub(crate) text: Cow<'a, str>,
    /// Written without quotes and not as a block.
    pub(crate) plain: bool,
    /// The type that was asked for.
    pub(crate) tag: Tag,
}

/// The type that a tag (`!!int`) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// No tag: style and text decide.
    None,
    /// `!!bool`.
    Bool,
    /// `!!int`.
    Int,
    /// `!!float`.
    Float,
    /// `!!null`.
    Null,
    /// `!!str`, and every tag that is nobody's.
    Text,
}

/// What was read of a file, and what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Stream<'a> {
    /// The documents read to their end.
    pub(crate) documents: Vec<Node<'a>>,
    /// Mistakes; the last one may have ended the reading.
    pub(crate) mistakes: Vec<(Mark, String)>,
}

/// How much there is to walk, and how deep.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    nodes: u64,
    height: usize,
}

/// A list or map whose end has not been read.
struct Open<'a> {
    at: Mark,
    anchor: usize,
    size: Size,
    kind: OpenKind<'a>,
}

enum OpenKind<'a> {
    List(Vec<Node<'a>>),
    Map(Entries<'a>, Option<Node<'a>>),
}

#[derive(Default)]
struct Builder<'a> {
    stream: Stream<'a>,
    open: Vec<Open<'a>>,
    anchors: HashMap<usize, Rc<Shared<'a>>>,
    written: u64,
    aliased: u64,
}

/// Nothing after this can be read.
struct Fatal(Mark, String);

/// Reads a file; with `only_first`, nothing after its first document.
pub(crate) fn parse(text: &str, only_first: bool) -> Stream<'_> {
    let mut builder = Builder::default();
    if let Err(Fatal(at, message)) = read_events(text, only_first, &mut builder) {
        builder.stream.mistakes.push((at, message));
    }
    builder.stream
}

fn read_events<'a>(
    text: &'a str,
    only_first: bool,
    builder: &mut Builder<'a>,
) -> Result<(), Fatal> {
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        block_scalar_eof_without_line_feed: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| match error.kind() {
            ErrorKind::RecursionLimitExceeded => too_deep(mark(error.marker())),
            kind => Fatal(mark(error.marker()), kind.to_string()),
        })?;
        let ended = matches!(event, Event::DocumentEnd);
        builder.take(event, mark(&span.start))?;
        if ended && only_first {
            break;
        }
    }
    Ok(())
}

/// The place `offset` bytes into `text`.
pub(crate) fn mark_at(text: &str, offset: usize) -> Mark {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Mark {
        offset: clamp(offset),
        line: clamp(before.bytes().filter(|&byte| byte == b'\n').count() + 1),
        column: clamp(before[line_start..].chars().count() + 1),
    }
}

fn mark(marker: &Marker) -> Mark {
    Mark {
        offset: clamp(marker.byte_offset().unwrap_or(0)),
        line: clamp(marker.line().max(1)),
        column: clamp(marker.col() + 1),
    }
}

fn clamp(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn too_deep(at: Mark) -> Fatal {
    Fatal(
        at,
        format!("nested too deeply: more than {MAX_DEPTH} levels of lists and maps"),
    )
}

// === impl Builder ===

impl<'a> Builder<'a> {
    fn take(&mut self, event: Event<'a>, at: Mark) -> Result<(), Fatal> {
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                let size = Size {
                    nodes: 1 + text.len() as u64 / 64,
                    height: 0,
                };
                let scalar = Scalar {
                    text,
                    plain: style == ScalarStyle::Plain,
                    tag: tag.map_or(Tag::None, |tag| Tag::of(&tag)),
                };
                self.written(at)?;
                self.close_node(at, Kind::Scalar(scalar), anchor, size);
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(at, anchor, OpenKind::List(vec![]))?;
            }
            Event::MappingStart(_, anchor, _) => {
                self.open(at, anchor, OpenKind::Map(vec![], None))?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(anchor) => self.alias(at, anchor)?,
            Event::UnresolvedAlias(name) => {
                self.mistake(at, format!("unknown anchor '{}'", clip(&name)))?;
                self.add(Node::null(at), Size::default());
            }
            _ => {}
        }
        Ok(())
    }

    fn mistake(&mut self, at: Mark, message: String) -> Result<(), Fatal> {
        if self.stream.mistakes.len() >= MAX_MISTAKES {
            return Err(Fatal(at, message));
        }
        self.stream.mistakes.push((at, message));
        Ok(())
    }

    fn written(&mut self, at: Mark) -> Result<(), Fatal> {
        self.written += 1;
        if self.written > MAX_NODES {
            return Err(Fatal(at, format!("more than {MAX_NODES} values in a file")));
        }
        Ok(())
    }

    fn aliased(&mut self, at: Mark, nodes: u64) -> Result<(), Fatal> {
        self.aliased = self.aliased.saturating_add(nodes);
        if self.aliased > MAX_ALIASED {
            let message = format!("aliases stand for more than {MAX_ALIASED} values");
            return Err(Fatal(at, message));
        }
        Ok(())
    }

    fn open(&mut self, at: Mark, anchor: usize, kind: OpenKind<'a>) -> Result<(), Fatal> {
        self.written(at)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(at));
        }
        self.open.push(Open {
            at,
            anchor,
            size: Size {
                nodes: 1,
                height: 1,
            },
            kind,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Fatal> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let kind = match open.kind {
            OpenKind::List(list) => Kind::List(list),
            OpenKind::Map(entries, _) => Kind::Map(self.merge(entries, open.size)?),
        };
        self.close_node(open.at, kind, open.anchor, open.size);
        Ok(())
    }

    fn close_node(&mut self, at: Mark, kind: Kind<'a>, anchor: usize, size: Size) {
        let mut node = Node { at, kind };
        if anchor != 0 {
            let shared = Rc::new(Shared { node, size });
            self.anchors.insert(anchor, Rc::clone(&shared));
            node = Node {
                at,
                kind: Kind::Shared(shared),
            };
        }
        self.add(node, size);
    }

    fn alias(&mut self, at: Mark, anchor: usize) -> Result<(), Fatal> {
        self.written(at)?;
        let Some(shared) = self.anchors.get(&anchor).map(Rc::clone) else {
            self.mistake(at, "an alias stands inside of what it stands for".into())?;
            self.add(Node::null(at), Size::default());
            return Ok(());
        };
        let size = shared.size;
        self.aliased(at, size.nodes)?;
        if self.open.len() + size.height > MAX_DEPTH {
            return Err(too_deep(at));
        }
        let node = Node {
            at: shared.node.at,
            kind: Kind::Shared(shared),
        };
        self.add(node, size);
        Ok(())
    }

    fn add(&mut self, node: Node<'a>, size: Size) {
        let Some(open) = self.open.last_mut() else {
            self.stream.documents.push(node);
            return;
        };
        open.size.nodes = open.size.nodes.saturating_add(size.nodes);
        open.size.height = open.size.height.max(size.height + 1);
        match &mut open.kind {
            OpenKind::List(list) => list.push(node),
            OpenKind::Map(entries, key) => match key.take() {
                None => *key = Some(node),
                Some(key) => entries.push((key, node)),
            },
        }
    }

    /// Resolves merge keys: what the map says itself comes first, then the
    /// merged maps in their order.
    fn merge(&mut self, entries: Entries<'a>, size: Size) -> Result<Entries<'a>, Fatal> {
        if !entries.iter().any(|(key, _)| key.is_merge()) {
            return Ok(entries);
        }
        let (merges, mut merged): (Entries<'a>, Entries<'a>) =
            entries.into_iter().partition(|(key, _)| key.is_merge());
        let mut present: HashSet<String> = merged
            .iter()
            .filter_map(|(key, _)| key.text().map(str::to_owned))
            .collect();
        for (key, source) in &merges {
            // Merging copies: each nested merge would copy all below it again.
            self.aliased(key.at, size.nodes)?;
            let maps = match source.value() {
                Value::Map(_) => std::slice::from_ref(source),
                Value::List(maps) => maps,
                Value::Scalar(_) => &[],
            };
            let all_maps = maps.iter().all(|map| matches!(map.value(), Value::Map(_)));
            if maps.is_empty() || !all_maps {
                self.mistake(key.at, "<< merges a map or a list of maps".into())?;
            }
            for map in maps {
                let Value::Map(entries) = map.value() else {
                    continue;
                };
                for (key, value) in entries {
                    let text = key.text().unwrap_or_default();
                    if present.insert(text.to_owned()) {
                        merged.push((key.clone(), value.clone()));
                    }
                }
            }
        }
        Ok(merged)
    }
}

// === impl Node ===

impl<'a> Node<'a> {
    /// What it is, aliases followed.
    pub(crate) fn value(&self) -> Value<'_, 'a> {
        let mut node = self;
        loop {
            match &node.kind {
                Kind::Scalar(scalar) => return Value::Scalar(scalar),
                Kind::List(list) => return Value::List(list),
                Kind::Map(entries) => return Value::Map(entries),
                Kind::Shared(shared) => node = &shared.node,
            }
        }
    }

    /// Its text, when it is a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match self.value() {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    fn null(at: Mark) -> Self {
        let scalar = Scalar {
            text: Cow::Borrowed(""),
            plain: true,
            tag: Tag::None,
        };
        Self {
            at,
            kind: Kind::Scalar(scalar),
        }
    }

    fn is_merge(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(key) if key.plain && key.text == "<<")
    }
}

// === impl Tag ===

impl Tag {
    fn of(tag: &YamlTag) -> Self {
        match tag.core_suffix() {
            Some("bool") => Self::Bool,
            Some("int") => Self::Int,
            Some("float") => Self::Float,
            Some("null") => Self::Null,
            _ => Self::Text,
        }
    }
}

// === impl Mark ===

impl Mark {
    /// The beginning of a file.
    pub(crate) const START: Self = Self {
        offset: 0,
        line: 1,
        column: 1,
    };
}
