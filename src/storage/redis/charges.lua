-- Charges windows and buckets, KEYS, by the numbers in ARGV[1]: those of each
-- limit, then of each key its charges; see charges.rs. States and arithmetic are
-- those of counters.lua; here they are in local numbers, since tables, strings
-- and calls are what a run costs.
local call, pack, unpack_state = redis.call, struct.pack, struct.unpack
local ONE, SECOND, SLACK, AHEAD = 1036800, 1000000, 5000000, 10000000
-- How long a state is, and one that says nothing.
local LENGTH, NONE, REST = 48, string.rep('\0', 48), string.rep('\0', 8)

local N = {unpack_state('<' .. string.rep('d', #ARGV[1] / 8), ARGV[1])}

-- a * b / w, rounded down, and whether that is less; a <= w < 2^36, b < 2^52.
local function muldiv(a, b, w)
  local product = a * b
  if product < 2 ^ 52 then
    local rest = product % w
    return (product - rest) / w, rest > 0
  end
  local q, r, scale = 0, 0, 2 ^ 39
  while scale >= 1 do
    local high = b % (scale * 8192)
    local x = r * 8192 + a * ((high - high % scale) / scale)
    r = x % w
    q, scale = q * 8192 + (x - r) / w, scale / 8192
  end
  return q, r > 0
end

-- Each takes a state, the place of its limit in N, above which count that is
-- over, and charges, from N[i] to N[last]: when, and how many hits; those given
-- back have a minus. It returns the new state, from when on that says nothing
-- any more, and whether the last charge was over.

local function fixed(a, b, c, limit, most, i, last)
  local start, ahead = N[limit + 5] / SECOND, N[limit + 3] * N[limit + 4]
  if ahead < AHEAD then ahead = AHEAD end
  if b < start or b > start + ahead / SECOND then a, b = 0, start end
  for i = i + 1, last, 2 do
    a = a + N[i]
    if a < 0 then a = 0 end
  end
  return a, b, c, N[limit + 6], a > most
end

local function sliding(a, b, c, limit, most, i, last)
  local tick, length, start = N[limit + 3], N[limit + 4], N[limit + 5]
  local micros, over = tick * length, false
  if a < start or a > start + (micros > AHEAD and micros or AHEAD) then
    if a + micros == start then b = c else b = 0 end
    a, c = start, 0
  end
  for i = i, last, 2 do
    local hits = N[i + 1]
    over = false
    if hits < 0 then
      hits = -hits
      if hits > c then b = b > hits - c and b - (hits - c) or 0 end
      c = c > hits and c - hits or 0
    elseif b + c + hits <= most then
      -- It fits even if all of the last window were covered.
      c = c + hits
    else
      local elapsed = N[i] - a
      if elapsed < 0 then elapsed = 0 elseif elapsed > micros then elapsed = micros end
      local covered, more = muldiv(length - (elapsed - elapsed % tick) / tick, b, length)
      if more then covered = covered + 1 end
      over = covered + c + hits > most
      if not over then c = c + hits end
    end
  end
  return a, b, c, a + 2 * micros, over
end

local function bucket(a, b, c, limit, most, i, last)
  local rate, tick, length = N[limit + 2] * ONE, N[limit + 3], N[limit + 4]
  local micros, over = tick * length, false
  local ahead = micros > AHEAD and micros or AHEAD
  most = most * ONE
  for i = i, last, 2 do
    local now, hits = N[i], N[i + 1] * ONE
    -- Written by a clock that was wrong.
    if b > now + ahead then a, b = 0, now end
    local level, when, elapsed = a, b, now - b
    if elapsed > 0 then
      local rest = elapsed % tick
      local ticks = (elapsed - rest) / tick
      -- Enough to be sure, however the products are rounded.
      if ticks * rate > level * length * 1.000001 then
        level = 0
      else
        local part = ticks % length
        level = level - (ticks - part) / length * rate - muldiv(part, rate, length)
      end
      if level > 0 then when = now - rest else level, when = 0, now end
    end
    level = level + hits
    over = hits >= 0 and level > most
    if hits < 0 then
      a, b = level > 0 and level or 0, when
    elseif hits > 0 and not over then
      a, b = level, when
    end
  end
  return a, b, c, b + a / (rate > 0 and rate or ONE) * micros + SECOND, over
end

local steps = {fixed, sliding, bucket}

-- How many hits there are of a limit that has begun low.
local function grown(limit, first, now)
  local full, from, over = N[limit + 1], N[limit + 8], N[limit + 9]
  local elapsed = now - first
  if first == 0 or elapsed < 0 then elapsed = 0 end
  elapsed = (elapsed - elapsed % SECOND) / SECOND
  if elapsed >= over or from >= full then return full end
  return from + (muldiv(elapsed, full - from, over))
end

-- The same, where being over may lock, or the limit grows, or it is locked.
local function guarded(step, a, b, c, locked, first, limit, i, last)
  local most, lockout, grows, ends = N[limit + 1], N[limit + 7], N[limit + 8] >= 0, 0
  for i = i, last, 2 do
    local now, hits, over = N[i], N[i + 1], false
    if grows then
      if first == 0 and hits > 0 then first = now end
      most = grown(limit, first, now)
    end
    if now >= locked then
      if locked > 0 then a, b, c, locked = 0, 0, 0, 0 end
      a, b, c, ends, over = step(a, b, c, limit, most, i, i + 1)
      if over and hits > 0 and lockout > 0 then a, b, c, locked = 0, 0, 0, now + lockout end
    end
  end
  if locked > ends then ends = locked end
  if grows and first > 0 then
    -- It is new again if it has not been seen for so long.
    local warm = N[last - 1] + N[limit + 9] * SECOND
    if warm > ends then ends = warm end
  end
  return a, b, c, ends, locked, first
end

local stored = call('MGET', unpack(KEYS))
local at = N[1]
for place = 1, #KEYS do
  local state, limit, i = stored[place], N[at], at + 2
  local last = i + 2 * N[at + 1] - 1
  at = last + 1
  local a0, b0, c0, locked0, first0, kept = 0, 0, 0, 0, 0, 0
  if not state then
    stored[place] = NONE
  else
    if #state < LENGTH then
      -- Written by counters.lua, which does not tell how long it is kept.
      state = state .. REST
      stored[place] = state
    end
    a0, b0, c0, locked0, first0, kept = unpack_state('<dddddd', state)
  end

  local kind, grows = N[limit], N[limit + 8] >= 0
  local locked, first, a, b, c, ends = locked0, first0
  if locked > 0 or grows or N[limit + 7] > 0 then
    a, b, c, ends, locked, first = guarded(steps[kind], a0, b0, c0, locked, first, limit, i, last)
  else
    a, b, c, ends = steps[kind](a0, b0, c0, limit, N[limit + 1], i, last)
  end

  local same = a == a0 and b == b0 and c == c0
  local same_guards = locked == locked0 and first == first0
  if not same or not same_guards or (grows and first > 0) then
    local key, now = KEYS[place], N[last - 1]
    if kept < ends + SLACK then
      -- A moving end is told now and then only.
      local more = grows and SLACK or kind == 3 and N[limit + 3] * N[limit + 4] or 0
      local lives = ends - now
      if lives < 0 then lives = 0 elseif lives > 1e17 then lives = 1e17 end
      lives = lives + more + SLACK
      lives = lives - lives % 1000 + 1000
      call('SET', key, pack('<dddddd', a, b, c, locked, first, now + lives), 'PX', lives / 1000)
    elseif not same_guards then
      call('SETRANGE', key, '0', pack('<ddddd', a, b, c, locked, first))
    elseif c == c0 then
      if not same then call('SETRANGE', key, '0', pack('<dd', a, b)) end
    elseif a == a0 and b == b0 then
      call('SETRANGE', key, '16', pack('<d', c))
    else
      call('SETRANGE', key, '0', pack('<ddd', a, b, c))
    end
  end
end
return table.concat(stored)
