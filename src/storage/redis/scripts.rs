//! What Redis runs for us, where one plain command does not do. Keys are
//! declared and of one slot; nothing here is newer than Redis 6.2.

use redis::{Pipeline, Value, aio::MultiplexedConnection};

/// What Redis can run for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// [`GIVE_BACK`].
    GiveBack,
    /// [`TOGETHER`].
    Together,
    /// [`COUNTERS`].
    Counters,
    /// [`CHARGES`].
    Charges,
}

/// Scripts as a node knows them.
#[derive(Debug, Default)]
pub(super) struct Scripts {
    /// By which hash it runs each; `None` where it has to be told the text.
    hashes: Option<[String; 4]>,
}

const ALL: [(Script, &str); 4] = [
    (Script::GiveBack, GIVE_BACK),
    (Script::Together, TOGETHER),
    (Script::Counters, COUNTERS),
    (Script::Charges, CHARGES),
];

// === impl Scripts ===

impl Scripts {
    /// Teaches the node at the other end, if it lets us.
    pub(super) async fn load(connection: &mut MultiplexedConnection) -> Self {
        let mut pipeline = Pipeline::with_capacity(ALL.len());
        for (_, text) in ALL {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(text);
        }
        let replies = connection.send_packed_commands(&pipeline, 0, ALL.len());
        let hashes = replies.await.ok().and_then(|replies| {
            let hashes: Vec<String> = replies
                .into_iter()
                .filter_map(|reply| match reply {
                    Value::BulkString(hash) => String::from_utf8(hash).ok(),
                    Value::SimpleString(hash) => Some(hash),
                    _ => None,
                })
                .collect();
            hashes.try_into().ok()
        });
        Self { hashes }
    }

    /// Adds the command that runs `script` on so many keys; they and the
    /// arguments follow.
    pub(super) fn run<'p>(
        &self,
        script: Script,
        keys: usize,
        pipeline: &'p mut Pipeline,
    ) -> &'p mut Pipeline {
        let place = script as usize;
        match &self.hashes {
            Some(hashes) => pipeline.cmd("EVALSHA").arg(&hashes[place]),
            None => pipeline.cmd("EVAL").arg(ALL[place].1),
        }
        .arg(keys)
    }
}

/// `KEYS[1]` loses `ARGV[1]` hits, down to 0. Returns the count before it was
/// cut to 0; `ARGV[2]`: seconds to live, for a key that has none. Says so on
/// the channel `ARGV[3]`, in the name of `ARGV[4]`, if that is allowed.
pub(super) const GIVE_BACK: &str = "\
local after = redis.call('DECRBY', KEYS[1], ARGV[1])
if after < 0 then redis.call('SET', KEYS[1], '0', 'KEEPTTL') end
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
redis.pcall('PUBLISH', ARGV[3], ARGV[4] .. KEYS[1])
return after";

/// Counts on `KEYS` in any algorithm, as [`Counter`] does, or holds back as
/// [`TOGETHER`] does. `ARGV[1]` to `ARGV[4]` are the same (and `each`: counts on
/// all, one after the other); then what [`Numbers`] say of each counter. A
/// counter's state is one key of its own: text, or a sorted set of values.
/// Returns for each whether its hits were counted and what [`Stored`] says.
///
/// [`Counter`]: crate::engine::algorithm::Counter
/// [`Numbers`]: crate::engine::algorithm::elsewhere::Numbers
/// [`Stored`]: crate::engine::algorithm::elsewhere::Stored
pub(super) const COUNTERS: &str = include_str!("counters.lua");

/// Charges windows and buckets, `KEYS`, as [`COUNTERS`] would with `each`. These
/// are most of what scripts count, and nearly all that a charge costs there is
/// tables and strings, not arithmetic; so they have a script of their own that
/// makes as few as it can: a third to a tenth of the cost. States are the same,
/// so that both can count on one key, but with a sixth number, until when the
/// key lives ([`COUNTERS`] leaves it out, and gives the key a time to live
/// instead). As long as that is enough only what has changed is written
/// (`SETRANGE`), at half the cost of a `SET` with a time to live. `ARGV[1]` and
/// the reply: see [`charges`].
///
/// [`charges`]: super::charges
pub(super) const CHARGES: &str = include_str!("charges.lua");

/// Counts on all of `KEYS` or, if the request is refused, on none (`nothing`)
/// or on those over their limit (`still`). `ARGV[1]` is which, `ARGV[2]` is
/// `refused` where that is known before, `ARGV[3]` and `ARGV[4]` are channel and
/// name, to say of refunds; then for each key: hits (given back with a minus), limit, whether being over refuses
/// (`never`, `alone`, with all `others`), seconds to live. Returns counts
/// before and after, key by key.
pub(super) const TOGETHER: &str = "\
local still = ARGV[1] == 'still'
local real, count, before, after, over = {}, {}, {}, {}, {}
local refused, others, others_over = ARGV[2] == 'refused', 0, 0
for i, key in ipairs(KEYS) do
  local at = i * 4 + 1
  if not real[key] then
    real[key] = math.min(2 ^ 53, math.max(0, tonumber(redis.call('GET', key) or '0')))
    count[key] = real[key]
  end
  if still then before[i] = real[key] else before[i] = count[key] end
  after[i] = math.min(2 ^ 53, math.max(0, before[i] + tonumber(ARGV[at])))
  count[key] = after[i]
  local gives_back = string.sub(ARGV[at], 1, 1) == '-'
  over[i] = not gives_back and after[i] > tonumber(ARGV[at + 1])
  if ARGV[at + 2] == 'alone' or (still and ARGV[at + 2] == 'others') then
    refused = refused or over[i]
  elseif ARGV[at + 2] == 'others' then
    others = others + 1
    if over[i] then others_over = others_over + 1 end
  end
end
refused = refused or (others > 0 and others == others_over)
local seen = {}
for i, key in ipairs(KEYS) do
  local at = i * 4 + 1
  if not refused or (still and over[i]) then
    before[i] = real[key]
    after[i] = math.min(2 ^ 53, math.max(0, before[i] + tonumber(ARGV[at])))
    if after[i] ~= before[i] then
      redis.call('SET', key, string.format('%.0f', after[i]), 'KEEPTTL')
      if redis.call('TTL', key) < 0 then redis.call('EXPIRE', key, ARGV[at + 3]) end
    end
    real[key] = after[i]
    if string.sub(ARGV[at], 1, 1) == '-' then
      redis.pcall('PUBLISH', ARGV[3], ARGV[4] .. key)
    end
  elseif not over[i] then
    before[i] = real[key]
    after[i] = real[key]
  end
  seen[#seen + 1] = before[i]
  seen[#seen + 1] = after[i]
end
return seen";
