//! Which node of a store has a key.

use std::fmt;

use redis::Value;

/// A node: what a lane talks to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// The one server there is, or whatever the sentinels call the primary
    /// at the time of connecting.
    Primary,
    /// A node of a cluster: host and port.
    At(String, u16),
}

/// The nodes that take writes, and their slots.
#[derive(Clone, PartialEq, Eq)]
pub struct Topology {
    nodes: Vec<Node>,
    /// The node of each slot; `None` where one node has all keys.
    slots: Option<Box<[u16]>>,
}

/// Slots of a cluster.
const SLOTS: u16 = 16_384;
/// A slot that no node has.
const NOBODY: u16 = u16::MAX;

/// The slot of a key: of what stands between its first `{` and the next `}`,
/// if that is anything, and of the whole key otherwise.
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let length = rest.iter().position(|&byte| byte == b'}')?;
        (length > 0).then(|| &rest[..length])
    });
    crc16::State::<crc16::XMODEM>::calculate(tag.unwrap_or(key)) % SLOTS
}

// === impl Topology ===

impl Topology {
    /// One node with all keys.
    #[must_use]
    pub fn single() -> Self {
        Self {
            nodes: vec![Node::Primary],
            slots: None,
        }
    }

    /// Reads a reply to `CLUSTER SLOTS` of the node at `host`. `None` when it
    /// is not one.
    #[must_use]
    pub fn parse(reply: &Value, host: &str) -> Option<Self> {
        let Value::Array(ranges) = reply else {
            return None;
        };
        let mut topology = Self {
            nodes: vec![],
            slots: None,
        };
        let mut slots = vec![NOBODY; SLOTS.into()].into_boxed_slice();
        for range in ranges {
            let Value::Array(range) = range else {
                return None;
            };
            let [Value::Int(from), Value::Int(to), Value::Array(primary), ..] = &range[..] else {
                return None;
            };
            let node = topology.number(parse_node(primary, host)?);
            let range = usize::try_from(*from).ok()?..=usize::try_from(*to).ok()?;
            slots.get_mut(range)?.fill(node);
        }
        topology.slots = Some(slots);
        (!topology.nodes.is_empty()).then_some(topology)
    }

    /// Whether one script can have both keys.
    #[must_use]
    pub fn is_together(&self, a: &[u8], b: &[u8]) -> bool {
        self.slots.is_none() || slot(a) == slot(b)
    }

    /// One script can have any keys.
    #[must_use]
    pub fn is_one_slot(&self) -> bool {
        self.slots.is_none()
    }

    /// The nodes; [`node_of`](Self::node_of) tells places among them.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The place of the node that has `key`; that of no node where nobody
    /// has its slot.
    #[must_use]
    pub fn node_of(&self, key: &[u8]) -> usize {
        match &self.slots {
            None => 0,
            Some(slots) => slots[usize::from(slot(key))].into(),
        }
    }

    fn number(&mut self, node: Node) -> u16 {
        let known = self.nodes.iter().position(|known| *known == node);
        let number = known.unwrap_or_else(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        });
        u16::try_from(number).unwrap_or(NOBODY)
    }
}

/// A node's host and port; a node that does not know its own name is at the
/// host that was asked.
fn parse_node(node: &[Value], asked: &str) -> Option<Node> {
    let [host, Value::Int(port), ..] = node else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) => host.clone(),
        Value::Nil => String::new(),
        _ => return None,
    };
    let host = if host.is_empty() || host == "?" {
        asked.to_owned()
    } else {
        host
    };
    Some(Node::At(host, u16::try_from(*port).ok()?))
}

/// The slots are too many to show.
impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.nodes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        for (key, expected) in [
            ("123456789", 12_739),
            ("", 0),
            ("foo", 12_182),
            ("{foo}bar", 12_182),
            ("a{foo}bar{baz}", 12_182),
            ("user1000", 3_443),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_ne!(slot(b"{}foo"), slot(b"{}bar"), "an empty tag is none");
        assert_ne!(slot(b"{foo"), slot(b"foo"), "an open tag is none");
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn reads_cluster_slots() {
        let range = |from, to, host, port| {
            let metadata = Value::Array(vec![text("hostname"), text("x")]);
            Value::Array(vec![
                Value::Int(from),
                Value::Int(to),
                Value::Array(vec![host, Value::Int(port), text("id"), metadata]),
                Value::Array(vec![text("replica"), Value::Int(1), text("id")]),
            ])
        };
        let reply = Value::Array(vec![
            range(0, 5_460, text("a"), 1),
            range(5_461, 10_922, text(""), 2),
            range(12_000, 16_383, text("a"), 1),
        ]);
        let topology = Topology::parse(&reply, "asked").expect("a topology");
        let nodes = [Node::At("a".into(), 1), Node::At("asked".into(), 2)];
        assert_eq!(topology.nodes(), nodes);
        assert_eq!(topology.node_of(b"foo"), 0, "slot 12,182");
        assert_eq!(topology.node_of(b"user1000"), 0, "slot 3,443");
        assert_eq!(topology.node_of(b"hello"), 0, "slot 866");
        let nobody = (0..)
            .map(|n| format!("k{n}"))
            .find(|key| slot(key.as_bytes()) == 11_000);
        let nobody = nobody.expect("a key for each slot");
        assert!(
            topology
                .nodes()
                .get(topology.node_of(nobody.as_bytes()))
                .is_none()
        );
    }

    #[test]
    fn refuses_what_is_no_topology() {
        let outside = Value::Array(vec![Value::Array(vec![
            Value::Int(0),
            Value::Int(16_384),
            Value::Array(vec![text("a"), Value::Int(1)]),
        ])]);
        for reply in [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![Value::Array(vec![Value::Int(1)])]),
            outside,
        ] {
            assert_eq!(Topology::parse(&reply, "asked"), None, "{reply:?}");
        }
    }
}
