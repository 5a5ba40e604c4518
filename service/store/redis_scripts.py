"""Lua scripts, each of which Redis runs as one atomic step on the ``KEYS`` and ``ARGV`` given."""

from service.store.redis_subject_scripts import MARK_SUBJECT

_HISTORY = """
-- Histories are lists whose entries ascend by time. An entry: byte 254, a letter for the type, the time in five bytes,
-- the item id (model_store/replication/redis_values.py).
local MARK, NEWEST = string.char(254), string.char(255)
local function time_of(entry)
  local a, b, c, d, e = string.byte(entry, 3, 7)
  return e and (((a * 256 + b) * 256 + c) * 256 + d) * 256 + e or 0
end

local function append(key, entries, first)
  for i = first, #entries, 1000 do
    redis.call('RPUSH', key, unpack(entries, i, math.min(i + 999, #entries)))
  end
end

-- Replaces a list that exists. If memory is full, the first call is refused, and nothing has happened.
local function rewrite(key, entries)
  redis.call('RPUSH', key, entries[1])
  local ttl = redis.call('PTTL', key)
  redis.call('DEL', key)
  append(key, entries, 1)
  if ttl > 0 then redis.call('PEXPIRE', key, ttl) end
end

-- Returns the newest entry. Earlier releases store item ids alone, and as the last entry the newest time: all of them
-- get that time now. While they run beside this release, entries of both kinds can stand in a list.
local function newest_entry(key)
  local last = redis.call('LINDEX', key, -1)
  if not last or string.sub(last, 1, 1) == MARK then return last end
  local newest = tonumber(string.match(last, '^' .. NEWEST .. '(%d+)$')) or 0
  local digits = {}
  for i = 5, 1, -1 do
    digits[i] = newest % 256
    newest = math.floor(newest / 256)
  end
  local head = MARK .. '~' .. string.char(unpack(digits))
  local entries = {}
  for _, entry in ipairs(redis.call('LRANGE', key, 0, -1)) do
    local first = string.sub(entry, 1, 1)
    if first == MARK then
      entries[#entries + 1] = entry
    elseif first ~= NEWEST then
      entries[#entries + 1] = head .. entry
    end
  end
  for i = 2, #entries do  -- sorted already, but for what both releases wrote in turns
    local entry, at = entries[i], i
    while at > 1 and time_of(entries[at - 1]) > time_of(entry) do
      entries[at] = entries[at - 1]
      at = at - 1
    end
    entries[at] = entry
  end
  if #entries > 0 then rewrite(key, entries) else redis.call('DEL', key) end
  return entries[#entries]
end
"""
"""What scripts that write histories share."""

RECORD = (
    _HISTORY
    + MARK_SUBJECT
    + """
-- KEYS: event stream, recorded ids, the decayed counts of each half-life, the counters of each day, sums and subjects
--       of each experiment, then the history of each event's user
-- ARGV: history cap, seconds to remember ids, items counted, seconds after which idle users expire (0: never), events
--       that may wait for training (0: any number), number of days, number of experiments, seconds after which those
--       that only events know expire, number of half-lives, each half-life in seconds,
--       then per event: id, item id ('': it does not count for trends), Unix time, JSON, entry of the history ('': it
--       is none), what it adds to counters, what it says about a subject: '' for nothing, else the place of its
--       experiment and a blank before it; last the traceparent that all came with, or ''
-- What an event adds: '' for nothing, else for each day its place, then names and amounts, all with blanks between; a
-- semicolon between two days, such as a day and that of its counters by code.
-- Returns how many events were new, and how many of the oldest were dropped from the stream.
-- The history comes first: if its key holds another type, the event leaves no trace and can be repeated. And the first
-- write must be one that needs memory: Redis lets a script that has written anything go on although memory is full.
-- Counts and counters are less important: a key of another type is deleted and started anew.
local cap, window, counted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ttl, waiting, days, experiments = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local kinds = tonumber(ARGV[9])
local trace = ARGV[#ARGV]
local now = tonumber(redis.call('TIME')[1])
local LN2 = math.log(2)
local function delete_unless(key, wanted)
  local kind = redis.call('TYPE', key).ok
  if kind ~= wanted and kind ~= 'none' then redis.call('DEL', key) end
end
local half_lives = {}
for c = 1, kinds do
  half_lives[c] = tonumber(ARGV[9 + c])
  delete_unless(KEYS[2 + c], 'zset')
end
for d = 1, days + 2 * experiments do delete_unless(KEYS[2 + kinds + d], 'hash') end

-- Inserts behind all entries of the same time or an earlier one; beyond the cap the oldest entry goes.
local function insert(key, entry)
  local time = time_of(entry)
  local last = newest_entry(key)
  if not last or time_of(last) <= time then
    redis.call('RPUSH', key, entry)
  else
    local low, high = 0, redis.call('LLEN', key) - 1  -- the first entry that is later lies between them
    while low < high do
      local middle = math.floor((low + high) / 2)
      if time_of(redis.call('LINDEX', key, middle)) > time then high = middle else low = middle + 1 end
    end
    if low > 0 then
      local later = redis.call('LRANGE', key, low, -1)
      redis.call('RPUSH', key, entry)
      redis.call('LTRIM', key, 0, low - 1)
      redis.call('RPUSH', key, entry)
      append(key, later, 1)
    elseif redis.call('LLEN', key) < cap then
      redis.call('LPUSH', key, entry)
    end
  end
  redis.call('LTRIM', key, -cap, -1)
end

local accepted = 0
local marked = 2 + kinds + days  -- keys before those of the first experiment
local first = 1 + marked + 2 * experiments
for i = first, #KEYS do
  local at = 10 + kinds + 7 * (i - first)
  if not redis.call('ZSCORE', KEYS[2], ARGV[at]) then
    if ARGV[at + 4] ~= '' then
      insert(KEYS[i], ARGV[at + 4])
      if ttl > 0 then redis.call('EXPIRE', KEYS[i], ttl) else redis.call('PERSIST', KEYS[i]) end
    end
    if trace == '' then
      redis.call('XADD', KEYS[1], '*', 'event', ARGV[at + 3])
    else
      redis.call('XADD', KEYS[1], '*', 'event', ARGV[at + 3], 'traceparent', trace)
    end
    redis.call('ZADD', KEYS[2], now, ARGV[at])
    accepted = accepted + 1
    for added in string.gmatch(ARGV[at + 5], '[^;]+') do
      local day = string.match(added, '^%d+')
      for name, amount in string.gmatch(added, ' (%S+) (%S+)') do
        redis.call('HINCRBYFLOAT', KEYS[2 + kinds + day], name, amount)
      end
    end
    local place, said = string.match(ARGV[at + 6], '^(%d+) (.*)$')
    if place then
      local sums, subjects = KEYS[marked + 2 * place - 1], KEYS[marked + 2 * place]
      local is_known = redis.call('EXISTS', sums) == 1
      mark(sums, subjects, said)
      if not is_known then  -- answers make it last: a deleted experiment does not come back for good
        redis.call('EXPIRE', sums, ARGV[8])
        redis.call('EXPIRE', subjects, ARGV[8])
      end
    end
    for c = 1, ARGV[at + 1] == '' and 0 or kinds do  -- service/store/decayed_counts.py explains these scores
      local score = math.min(tonumber(ARGV[at + 2]), now) / half_lives[c]
      local known = redis.call('ZSCORE', KEYS[2 + c], ARGV[at + 1])
      if known then
        known = tonumber(known)
        local high = math.max(known, score)
        score = high + math.log(1 + math.exp((math.min(known, score) - high) * LN2)) / LN2
      end
      redis.call('ZADD', KEYS[2 + c], string.format('%.17g', score), ARGV[at + 1])
    end
  end
end
-- each call removes a bounded number of entries, more than it adds: the sets stay trimmed without a pause
local old = redis.call('ZRANGE', KEYS[2], '-inf', now - window, 'BYSCORE', 'LIMIT', 0, 1000)
if #old > 0 then redis.call('ZREM', KEYS[2], unpack(old)) end
local dropped = 0
if accepted > 0 then
  for c = 1, kinds do
    local excess = redis.call('ZCARD', KEYS[2 + c]) - counted
    if excess > 0 then redis.call('ZREMRANGEBYRANK', KEYS[2 + c], 0, math.min(excess, 1000) - 1) end
    redis.call('PERSIST', KEYS[2 + c])
  end
  if waiting > 0 then dropped = redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', waiting) end
end
return {accepted, dropped}
"""
)
"""Record events: history, stream, recorded ids, decayed counts, counters and subjects of experiments."""

ADD_COUNTS = """
-- KEYS: number of the last counts that this replica added, the counters of each day
-- ARGV: number of these counts, seconds to remember it, then per amount: place of its day, name, amount
-- Repeating the call with the same number changes nothing. A key of another type is deleted and started anew.
if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
for d = 2, #KEYS do
  local kind = redis.call('TYPE', KEYS[d]).ok
  if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[d]) end
end
for i = 3, #ARGV, 3 do redis.call('HINCRBYFLOAT', KEYS[1 + ARGV[i]], ARGV[i + 1], ARGV[i + 2]) end
return 1
"""
"""Add to counters what no event does, such as answers that were given."""

IMPORT = (
    _HISTORY
    + """
-- KEYS: tombstones, then the history of each user
-- ARGV: history cap, seconds after which idle users expire (0: never), then per user: tombstone, entries that ascend by
--       time, each behind one byte with its length
-- Returns how many histories changed, and how many entries came.
-- An entry is left out if the history has one of the same item and time, or of the same item from before times were
-- kept; if it is not later than the user's erasure; and if it is older than the newest entries that fit.
local cap, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = tonumber(redis.call('TIME')[1])

local function missing_entries(packed, stored, erased_at)
  local has = {}
  for _, entry in ipairs(stored) do
    has[string.sub(entry, 3)] = true  -- time and item
    if string.sub(entry, 2, 2) == '~' then has['~' .. string.sub(entry, 8)] = true end
  end
  local missing, at = {}, 1
  while at <= #packed do
    local length = string.byte(packed, at)
    local entry = string.sub(packed, at + 1, at + length)
    at = at + 1 + length
    local is_known = has[string.sub(entry, 3)] or has['~' .. string.sub(entry, 8)]
    if not is_known and not (erased_at and time_of(entry) <= erased_at) then missing[#missing + 1] = entry end
  end
  return missing
end

-- Returns the newest entries of both, as many as the cap allows, and how many of them are imported.
-- At equal times the imported ones come first.
local function merge(imported, stored)
  local merged, came, i, j = {}, 0, #imported, #stored
  for at = math.min(cap, i + j), 1, -1 do
    if j > 0 and (i == 0 or time_of(stored[j]) >= time_of(imported[i])) then
      merged[at] = stored[j]
      j = j - 1
    else
      merged[at] = imported[i]
      i = i - 1
      came = came + 1
    end
  end
  return merged, came
end

local users, interactions = 0, 0
for i = 2, #KEYS do
  local key, at = KEYS[i], 3 + 2 * (i - 2)
  local kind = redis.call('TYPE', key).ok
  if kind == 'list' or kind == 'none' then
    newest_entry(key)
    local stored = redis.call('LRANGE', key, 0, -1)
    local erased_at = tonumber(redis.call('HGET', KEYS[1], ARGV[at]) or '')
    local entries, came = merge(missing_entries(ARGV[at + 1], stored, erased_at), stored)
    local left = ttl  -- seconds until the user expires: an import is no sign of life
    if ttl > 0 and #entries > 0 and time_of(entries[#entries]) > 0 then
      left = math.min(ttl, time_of(entries[#entries]) + ttl - now)
    end
    if came > 0 and #stored > 0 then
      rewrite(key, entries)
    elseif came > 0 and (ttl == 0 or left > 0) then
      append(key, entries, 1)
      if ttl > 0 then redis.call('EXPIRE', key, left) end
    else
      came = 0
    end
    interactions = interactions + came
    if came > 0 then users = users + 1 end
  end
end
return {users, interactions}
"""
)
"""Import interactions into histories."""

FORGET = """#!lua flags=allow-oom
-- KEYS: history, tombstones, event stream, list of what was shown.  ARGV: tombstone
-- Returns the history as it was, and the id of the last event; empty if there is none.
local entries = redis.call('TYPE', KEYS[1]).ok == 'list' and redis.call('LRANGE', KEYS[1], 0, -1) or {}
redis.call('DEL', KEYS[1], KEYS[4])
redis.call('HSET', KEYS[2], ARGV[1], redis.call('TIME')[1])
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
return {entries, last[1] and last[1][1] or ''}
"""
"""Erase history and shown items, and remember that the user was erased, on a full Redis as well. Needs Redis 7."""

TRIM = """
-- KEYS: event stream, recorded ids.  ARGV: seconds to remember ids, events that may wait for training (0: any number)
-- Returns how many events were dropped. Nothing here needs memory. A key of another type is left to whoever reads it.
local now = tonumber(redis.call('TIME')[1])
local function of(key, kind) return redis.call('TYPE', key).ok == kind end
if of(KEYS[2], 'zset') then
  local old = redis.call('ZRANGE', KEYS[2], '-inf', now - tonumber(ARGV[1]), 'BYSCORE', 'LIMIT', 0, 5000)
  if #old > 0 then redis.call('ZREM', KEYS[2], unpack(old)) end
  -- ids from the future were recorded before the clock was put back: they count as recorded now, or they would stay
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], '(' .. now, '+inf', 'BYSCORE', 'LIMIT', 0, 1000)) do
    redis.pcall('ZINCRBY', KEYS[2], now - tonumber(redis.call('ZSCORE', KEYS[2], id)), id)
  end
end
if tonumber(ARGV[2]) > 0 and of(KEYS[1], 'stream') then return redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[2]) end
return 0
"""
"""Trim recorded ids and waiting events, also while a full Redis refuses to record any."""

ERASE = """
-- KEYS: event stream.  ARGV: user id, first entry id, last entry id, entries to look at
-- Returns the number of erased entries, and the last entry that was looked at; empty if it was the last of all.
local entries = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])
local found = {}
for _, entry in ipairs(entries) do
  local is_event, event = pcall(cjson.decode, entry[2][2])
  if is_event and type(event) == 'table' and (event[2] or event.user_id) == ARGV[1] then
    found[#found + 1] = entry[1]
  end
end
if #found > 0 then redis.call('XDEL', KEYS[1], unpack(found)) end
return {#found, #entries == tonumber(ARGV[4]) and entries[#entries][1] or ''}
"""
"""Erase a user's events from a part of the stream."""

PUBLISH_SNAPSHOT = """
-- KEYS: lock, head, the new chunks, the old chunks.  ARGV: token, new head, number of new chunks, grace in ms
local holder = redis.call('GET', KEYS[1])
if not holder then return 'expired' end
if holder ~= ARGV[1] then return 'taken' end
local last = 2 + tonumber(ARGV[3])
for i = 3, last do
  if redis.call('EXISTS', KEYS[i]) == 0 then return 'evicted' end
end
redis.call('SET', KEYS[2], ARGV[2])
for i = 3, last do redis.call('PERSIST', KEYS[i]) end
for i = last + 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
return 'published'
"""
"""Publish a snapshot, if its writer still holds the lock and no chunk was evicted."""

UNLOCK = """
-- KEYS: lock.  ARGV: token.  Only the holder may release it: the lock may have expired and belong to another replica.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
"""Release a lock."""

RENEW = """
-- KEYS: lock.  ARGV: token, life in ms
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
"""Renew a lock."""
