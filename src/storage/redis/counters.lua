-- Counts on KEYS in any algorithm, one part for each key; see scripts.rs.
-- Times are microseconds, and all numbers are whole and below 2^53.
local mode, still = ARGV[1], ARGV[1] == 'still'
local channel, name = ARGV[3], ARGV[4]
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local ONE, SECOND, REGISTERS, TOP = 1036800, 1000000, 4096, 32

local pack, unpack, sub = struct.pack, struct.unpack, string.sub
local STATE = '<ddddd'
local function shown(n) return string.format('%.0f', n) end

-- a * b / w, rounded down, and what is left; a <= w < 2^36, b < 2^52.
local function muldiv(a, b, w)
  local q, r = 0, 0
  for shift = 39, 0, -13 do
    local x = r * 8192 + a * (floor(b / 2 ^ shift) % 8192)
    local n = floor(x / w)
    q, r = q * 8192 + n, x - n * w
  end
  return q, r
end

-- An argument: kind, whether being over refuses, sign, and numbers.
local function read(key, text)
  local kind, refuses, back = sub(text, 1, 1), sub(text, 2, 2), sub(text, 3, 3) == '-'
  if kind == 'p' then
    local hits, limit, ttl = unpack('<ddd', text, 4)
    return {key = key, kind = kind, refuses = refuses, back = back, hits = hits, limit = limit, ttl = ttl}
  end
  local hits, now, full, requests, tick, length, start, ends, lockout, from, over = unpack('<ddddddddddd', text, 4)
  local p = {
    key = key, kind = kind, refuses = refuses, back = back, hits = hits, now = now, full = full, requests = requests,
    tick = tick, length = length, start = start, ends = ends, lockout = lockout, from = from, over = over,
    micros = tick * length, keep = 0, exact = 0, value = '',
  }
  if kind == 'd' then
    p.keep, p.exact = unpack('<dd', text, 92)
    p.value = sub(text, 108, 123)
  end
  return p
end

-- A value's register in a sketch, and what it raises that to.
local function place(value)
  local b1, b2, b3, b4, b5, b6, b7, b8 = string.byte(value, 1, 8)
  local rest = floor(b2 / 16) + b3 * 2 ^ 4 + b4 * 2 ^ 12 + b5 * 2 ^ 20 + b6 * 2 ^ 28 + b7 * 2 ^ 36 + b8 * 2 ^ 44
  local rank = 1
  while rank < TOP and rest % 2 == 0 do
    rest, rank = rest / 2, rank + 1
  end
  return (b1 + b2 * 256) % REGISTERS, rank
end

local function load(p)
  if p.kind == 'p' then
    local n = min(2 ^ 53, max(0, tonumber(redis.call('GET', p.key) or '0')))
    return {kind = 'p', n = n, was = n}
  end
  if p.kind == 'd' then
    local s = {kind = 'd', added = {}, new = 0, raised = {}}
    if redis.call('TYPE', p.key).ok == 'string' then
      local head = redis.call('GETRANGE', p.key, 0, 47)
      s.start = tonumber(string.sub(head, 1, 16))
      -- A later window's is not for a request that comes late to forget.
      if s.start >= p.start then
        s.sum, s.zeros = tonumber(string.sub(head, 17, 32)), tonumber(string.sub(head, 33, 48))
      else
        redis.call('DEL', p.key)
      end
    end
    return s
  end
  local stored = redis.call('GET', p.key)
  local a, b, c, locked, first = 0, 0, 0, 0, 0
  if stored then
    a, b, c, locked, first = unpack(STATE, stored)
  end
  local s = {
    kind = p.kind, was = stored, text = stored or pack(STATE, 0, 0, 0, 0, 0),
    a = a, b = b, c = c, locked = locked, first = first, log = nil,
  }
  if p.kind == 'l' then
    s.log = {}
    for place = 41, #s.text - 15, 16 do
      local t, n = unpack('<dd', s.text, place)
      s.log[#s.log + 1] = {t, n}
    end
  end
  return s
end

local function copy(s)
  local new = {}
  for k, v in pairs(s) do new[k] = v end
  for _, k in ipairs({'log', 'added', 'raised'}) do
    if s[k] then
      new[k] = {}
      for i, v in pairs(s[k]) do new[k][i] = k == 'log' and {v[1], v[2]} or v end
    end
  end
  return new
end

local function write(s)
  local head = pack(STATE, s.a, s.b, s.c, s.locked, s.first)
  if not s.log or #s.log == 0 then return head end
  local log = {head}
  for i, hit in ipairs(s.log) do log[i + 1] = pack('<dd', hit[1], hit[2]) end
  return table.concat(log)
end

local function clear(s)
  s.a, s.b, s.c = 0, 0, 0
  if s.log then s.log = {} end
end

-- What a refusal leaves behind, though nothing is counted.
local function lock(p, s)
  if p.kind == 'p' or p.kind == 'd' or p.hits == 0 or p.back then return end
  if p.from >= 0 and s.first == 0 then s.first = p.now end
  if p.lockout > 0 and p.now >= s.locked then
    clear(s)
    s.locked = p.now + p.lockout
  end
  s.text = write(s)
end

-- Above which count it is over.
local function most(p, s, hits, back)
  if p.from < 0 then return p.full end
  if s.first == 0 and hits > 0 and not back then s.first = p.now end
  local elapsed = s.first == 0 and 0 or floor(max(0, p.now - s.first) / SECOND)
  if elapsed >= p.over or p.from >= p.full then return p.full end
  return p.from + muldiv(elapsed, p.full - p.from, p.over)
end

local step = {}

function step.f(p, s, hits, back, most)
  local start = p.start / SECOND
  local ahead = start + max(p.micros / SECOND, 10)
  if s.b < start or s.b > ahead then s.a, s.b = 0, start end
  if back then
    s.a = max(0, s.a - hits)
  else
    s.a = s.a + hits
  end
  return s.a > most
end

function step.s(p, s, hits, back, most)
  if s.a < p.start or s.a > p.start + max(p.micros, 10 * SECOND) then
    if s.a + p.micros == p.start then
      s.a, s.b, s.c = p.start, s.c, 0
    else
      s.a, s.b, s.c = p.start, 0, 0
    end
  end
  local elapsed = floor(min(max(0, p.now - s.a), p.micros) / p.tick)
  local covered, rest = muldiv(p.length - elapsed, s.b, p.length)
  if rest > 0 then covered = covered + 1 end
  if back then
    s.b, s.c = max(0, s.b - max(0, hits - s.c)), max(0, s.c - hits)
    return false
  end
  local over = covered + s.c + hits > most
  if not over then s.c = s.c + hits end
  return over
end

function step.b(p, s, hits, back, most)
  -- Written by a clock that was wrong.
  if s.b > p.now + max(p.micros, 10 * SECOND) then s.a, s.b = 0, p.now end
  local elapsed = max(0, p.now - s.b)
  local ticks = floor(elapsed / p.tick)
  local rate = p.requests * ONE
  local drained = floor(ticks / p.length) * rate + muldiv(ticks % p.length, rate, p.length)
  local level = max(0, s.a - drained)
  local when = level == 0 and max(s.b, p.now) or s.b + (elapsed - elapsed % p.tick)
  if back then
    level = max(0, level - hits * ONE)
  else
    level = level + hits * ONE
    if ceil(level / ONE) > most then return true end
  end
  if hits > 0 then s.a, s.b = level, when end
  return false
end

function step.l(p, s, hits, back, most)
  if #s.log > 0 and s.log[#s.log][1] > p.now + max(p.micros, 10 * SECOND) then s.log = {} end
  local log = s.log
  local now = #log > 0 and max(p.now, log[#log][1]) or p.now
  local before = 0
  for _, hit in ipairs(log) do
    if hit[1] + p.micros > now then before = before + hit[2] end
  end
  if back then
    while hits > 0 and #log > 0 do
      local last = log[#log]
      local taken = min(last[2], hits)
      hits, last[2] = hits - taken, last[2] - taken
      s.touched = true
      if last[2] == 0 then log[#log] = nil end
    end
    return false
  end
  if before + hits > most then return true end
  if hits > 0 then
    local kept = {}
    for _, hit in ipairs(log) do
      if hit[1] + p.micros > now then kept[#kept + 1] = hit end
    end
    if #kept > 0 and kept[#kept][1] == now then
      kept[#kept][2] = kept[#kept][2] + hits
    else
      kept[#kept + 1] = {now, hits}
    end
    s.log = kept
  end
  return false
end

-- A gate, and what opens it.
function step.o(p, s) return s.a == 0 or p.now >= s.a + p.ends end
function step.e(p, s, hits, back)
  if back then
    s.a = 0
  elseif hits > 0 then
    s.a = max(s.a, p.now)
  end
  return false
end

local function estimate(sum, zeros)
  local raw = 0.7213 / (1 + 1.079 / REGISTERS) * REGISTERS * REGISTERS * 4294967296 / sum
  if raw <= 2.5 * REGISTERS and zeros > 0 then raw = REGISTERS * math.log(REGISTERS / zeros) end
  return floor(raw + 0.5)
end

local function raise(p, s, value)
  local register, rank = place(value)
  local was = s.raised[register]
  if not was then
    was = s.fresh and 0 or string.byte(redis.call('GETRANGE', p.key, 48 + register, 48 + register))
  end
  if was >= rank then return nil end
  return register, rank, s.sum - 2 ^ (TOP - was) + 2 ^ (TOP - rank), s.zeros - (was == 0 and 1 or 0)
end

-- Counts before and after, and whether the value was known.
local function values(p, s, hits, back)
  if s.sum then
    local before = estimate(s.sum, s.zeros)
    local register, rank, sum, zeros = raise(p, s, p.value)
    local known = register == nil
    if back or hits == 0 then return before, before, false end
    if before >= p.full then return before, before + 1, false end
    if known then return before, before, false end
    local after = max(before, estimate(sum, zeros))
    if after <= p.full then s.raised[register], s.sum, s.zeros = rank, sum, zeros end
    return before, after, false
  end
  local seen = s.added[p.value]
  if seen == nil then
    seen = redis.call('ZSCORE', p.key, p.value)
    seen = seen and tonumber(seen)
  end
  local known = seen and (seen >= p.start or (p.keep > 0 and seen + p.keep > p.now)) or false
  local before = redis.call('ZCOUNT', p.key, shown(p.start), '+inf') + s.new
  if hits == 0 then return before, before, known end
  if back then
    if not seen then return before, before, known end
    local counted = seen >= p.start and before > 0
    s.added[p.value] = false
    if counted then s.new = s.new - 1 end
    return before, counted and before - 1 or before, known
  end
  if known then return before, before, true end
  if before >= p.full then return before, before + 1, false end
  if before >= p.exact then
    s.sum, s.zeros, s.fresh = REGISTERS * 2 ^ TOP, REGISTERS, true
    local all = redis.call('ZRANGEBYSCORE', p.key, shown(p.start), '+inf')
    for value, when in pairs(s.added) do
      if when then all[#all + 1] = value end
    end
    for _, value in ipairs(all) do
      local register, rank, sum, zeros = raise(p, s, value)
      if register then s.raised[register], s.sum, s.zeros = rank, sum, zeros end
    end
    local register, rank, sum, zeros = raise(p, s, p.value)
    local after = max(before, estimate(sum or s.sum, zeros or s.zeros))
    if register and after <= p.full then s.raised[register], s.sum, s.zeros = rank, sum, zeros end
    return before, after, false
  end
  s.added[p.value] = max(p.now, p.start)
  s.new = s.new + 1
  return before, before + 1, false
end

-- Changes s; says whether it is over, and what the answer is made of.
local function charge(p, s, hits, back, counted)
  if p.kind == 'p' then
    local before = s.n
    s.n = back and max(0, s.n - hits) or min(2 ^ 53, s.n + hits)
    return not back and s.n > p.limit, {counted, before, s.n}
  end
  if p.kind == 'd' then
    local before, after, known = values(p, s, hits, back)
    local over = not back and not known and after > p.full
    return over, {counted, before, after, known and 1 or 0}
  end
  local old = s.text
  local a, b, c, locked, first, log = s.a, s.b, s.c, s.locked, s.first, s.log
  local m = most(p, s, hits, back)
  local over
  if p.now < locked then
    over = not back
  else
    if locked > 0 then
      s.locked = 0
      clear(s)
    end
    over = step[p.kind](p, s, hits, back, m) and not back
    if over and hits > 0 then lock(p, s) end
  end
  -- A log that is only looked at is not written anew.
  if s.log ~= log or s.touched or s.a ~= a or s.b ~= b or s.c ~= c or s.locked ~= locked or s.first ~= first then
    s.text, s.touched = write(s), false
  end
  return over, {counted, old}
end

local function ends(p, s)
  local expires = s.locked
  if p.kind == 'f' then expires = max(expires, p.ends) end
  if p.kind == 's' then expires = max(expires, s.a + 2 * p.micros) end
  if p.kind == 'l' and #s.log > 0 then expires = max(expires, s.log[#s.log][1] + p.micros) end
  if p.kind == 'b' then
    local rate = max(1, p.requests) * ONE
    expires = max(expires, s.b + ceil(s.a / rate * p.micros) + SECOND)
  end
  if p.kind == 'o' or p.kind == 'e' then expires = max(expires, s.a + p.ends) end
  if p.from >= 0 and s.first > 0 then expires = max(expires, p.now + p.over * SECOND) end
  return expires
end

local function millis(p, expires) return shown(min(1e14, max(1, ceil((expires - p.now) / 1000))) + 5000) end

local function store_values(p, s)
  local lives = millis(p, max(p.ends, p.now + p.keep))
  if s.sum then
    if s.fresh then
      redis.call('DEL', p.key)
      local zeros = string.rep('\0', REGISTERS)
      redis.call('SET', p.key, string.rep('0', 48) .. zeros)
    end
    if next(s.raised) then
      for register, rank in pairs(s.raised) do
        redis.call('SETRANGE', p.key, 48 + register, string.char(rank))
      end
      local head = string.format('%016.0f%016.0f%016.0f', s.fresh and p.start or s.start, s.sum, s.zeros)
      redis.call('SETRANGE', p.key, 0, head)
      redis.call('PEXPIRE', p.key, lives)
    end
    return
  end
  if not next(s.added) then return end
  for value, when in pairs(s.added) do
    if when then
      redis.call('ZADD', p.key, shown(when), value)
    else
      redis.call('ZREM', p.key, value)
    end
  end
  local oldest = p.keep > 0 and min(p.start, p.now - p.keep) or p.start
  redis.call('ZREMRANGEBYSCORE', p.key, '-inf', '(' .. shown(oldest))
  redis.call('PEXPIRE', p.key, lives)
end

local function store(p, s)
  if p.kind == 'p' then
    if s.n ~= s.was then
      redis.call('SET', p.key, shown(s.n), 'KEEPTTL')
      if redis.call('TTL', p.key) < 0 then redis.call('EXPIRE', p.key, p.ttl) end
    end
    return
  end
  if p.kind == 'd' then return store_values(p, s) end
  if s.text ~= s.was and (s.was or s.a > 0 or s.locked > 0 or s.first > 0 or s.log) or (p.from >= 0 and s.first > 0) then
    redis.call('SET', p.key, s.text, 'PX', millis(p, ends(p, s)))
  end
end

local parts, states = {}, {}

-- Stores every state once, and leaves out of the answers what was just said.
local function finish(seen)
  local longest, said = {}, {}
  for i, p in ipairs(parts) do
    local other = longest[p.key]
    if not other or p.kind == 'p' or p.ends >= other.ends then longest[p.key] = p end
    local answer = seen[i]
    if #answer == 2 then
      local text = answer[2]
      if said[p.key] == text then answer[2] = '=' end
      said[p.key] = text
    end
  end
  for key, p in pairs(longest) do store(p, states[key]) end
  return seen
end
for i, key in ipairs(KEYS) do
  parts[i] = read(key, ARGV[i + 4])
  states[key] = states[key] or load(parts[i])
end

if mode == 'each' then
  local seen = {}
  for i, p in ipairs(parts) do
    local _, answer = charge(p, states[p.key], p.hits, p.back, 1)
    seen[i] = answer
  end
  return finish(seen)
end

local over, told, trial = {}, {}, {}
local refused, others, others_over = ARGV[2] == 'refused', 0, 0
do
  for i, p in ipairs(parts) do
    local s = not still and trial[p.key] or copy(states[p.key])
    trial[p.key] = s
    over[i], told[i] = charge(p, s, p.hits, p.back, 1)
    if p.refuses == 'a' or (still and p.refuses == 'o') then
      refused = refused or over[i]
    elseif p.refuses == 'o' then
      others = others + 1
      if over[i] then others_over = others_over + 1 end
    end
  end
  refused = refused or (others > 0 and others == others_over)
end

local seen = {}
for i, p in ipairs(parts) do
  local s = states[p.key]
  if not refused or (still and over[i]) then
    local _, answer = charge(p, s, p.hits, p.back, 1)
    seen[i] = answer
    if p.kind == 'p' and p.back then redis.pcall('PUBLISH', channel, name .. p.key) end
  elseif over[i] then
    seen[i] = told[i]
    lock(p, s)
  else
    local _, answer = charge(p, s, 0, false, 0)
    seen[i] = answer
  end
end
return finish(seen)
