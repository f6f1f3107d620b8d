-- Sliding windows and buckets that are only charged, by the numbers in ARGV[1]:
-- of each key's limit, then of each key its charges; see charges.rs. The states
-- and the arithmetic are those of counters.lua; here they are in local numbers,
-- since tables and calls are what a run costs.
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

-- Each takes a state, where its limit is in N, and its charges, from N[i] to
-- N[last]: when, and how many hits. Hits given back have a minus.

local function window(a, b, c, limit, i, last)
  local full, tick, length, start = N[limit + 1], N[limit + 3], N[limit + 4], N[limit + 5]
  local micros = tick * length
  if a < start or a > start + (micros > AHEAD and micros or AHEAD) then
    if a + micros == start then b = c else b = 0 end
    a, c = start, 0
  end
  for i = i, last, 2 do
    local hits = N[i + 1]
    if hits < 0 then
      hits = -hits
      if hits > c then b = b > hits - c and b - (hits - c) or 0 end
      c = c > hits and c - hits or 0
    elseif b + c + hits <= full then
      -- Also if all of the last window were covered.
      c = c + hits
    elseif c + hits <= full then
      local elapsed = N[i] - a
      if elapsed < 0 then elapsed = 0 elseif elapsed > micros then elapsed = micros end
      local covered, more = muldiv(length - (elapsed - elapsed % tick) / tick, b, length)
      if more then covered = covered + 1 end
      if covered + c + hits <= full then c = c + hits end
    end
  end
  return a, b, c
end

local function bucket(a, b, limit, i, last)
  local most, rate, tick, length = N[limit + 1] * ONE, N[limit + 2] * ONE, N[limit + 3], N[limit + 4]
  local micros = tick * length
  local ahead = micros > AHEAD and micros or AHEAD
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
    if hits < 0 then
      a, b = level > 0 and level or 0, when
    elseif hits > 0 and level <= most then
      a, b = level, when
    end
  end
  return a, b
end

local function live(key, expires, now, a, b, c, first, more)
  local lives = expires - now
  if lives < 0 then lives = 0 elseif lives > 1e17 then lives = 1e17 end
  lives = lives + more + SLACK
  lives = lives - lives % 1000 + 1000
  call('SET', key, pack('<dddddd', a, b, c, 0, first, now + lives), 'PX', lives / 1000)
end

local stored = call('MGET', unpack(KEYS))
local at = N[1]
for place = 1, #KEYS do
  local key, state, limit, last = KEYS[place], stored[place], N[at], at + 2 * N[at + 1]
  local i = at + 2
  at = last + 2
  last = last + 1
  local a, b, c, locked, first, kept = 0, 0, 0, 0, 0, 0
  if state then
    if #state < LENGTH then
      state = state .. REST
      stored[place] = state
    end
    a, b, c, locked, first, kept = unpack_state('<dddddd', state)
  else
    stored[place] = NONE
  end
  local was_locked = locked > 0
  if was_locked then
    -- By rules that are no more.
    while i < last and N[i] < locked do i = i + 2 end
    if i < last then a, b, c, locked = 0, 0, 0, 0 end
  end
  if locked == 0 then
    local now = N[last - 1]
    if N[limit] == 0 then
      local start, before, count = window(a, b, c, limit, i, last)
      if state and start == a and not was_locked then
        if before ~= b then
          call('SETRANGE', key, '8', pack('<dd', before, count))
        elseif count ~= c then
          call('SETRANGE', key, '16', pack('<d', count))
        end
      elseif state or before + count > 0 then
        live(key, start + 2 * N[limit + 3] * N[limit + 4], now, start, before, count, first, 0)
      end
    else
      local level, when = bucket(a, b, limit, i, last)
      if level ~= a or when ~= b or was_locked then
        local requests, micros = N[limit + 2], N[limit + 3] * N[limit + 4]
        if requests == 0 then requests = 1 end
        local expires = when + level / (requests * ONE) * micros + SECOND
        if kept >= expires + SLACK and not was_locked then
          call('SETRANGE', key, '0', pack('<dd', level, when))
        else
          live(key, expires, now, level, when, 0, first, micros)
        end
      end
    end
  end
end
return table.concat(stored)
