"""Lua scripts, each of which Redis runs as one atomic step on the ``KEYS`` and ``ARGV`` given."""

RECORD = """
-- KEYS: event stream, recorded ids, the decayed counts of each half-life, then the history of each event's user
-- ARGV: history cap, seconds to remember ids, items counted, seconds after which idle users expire (0: never), events
--       that may wait for training (0: any number), number of half-lives, each half-life in seconds, then per event:
--       id, item id, Unix time, JSON
-- Returns how many events were new, and how many of the oldest were dropped from the stream.
-- The history comes first: if its key holds another type, the event leaves no trace and can be repeated. And the first
-- write must be one that needs memory: Redis lets a script that has written anything go on although memory is full.
-- Counts are less important: a key of another type is deleted and started anew.
local cap, window, counted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ttl, waiting, kinds = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local now = tonumber(redis.call('TIME')[1])
local LN2 = math.log(2)
local MARK = string.char(255)
local half_lives = {}
for c = 1, kinds do
  half_lives[c] = tonumber(ARGV[6 + c])
  local kind = redis.call('TYPE', KEYS[2 + c]).ok
  if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[2 + c]) end
end
local accepted = 0
for i = 3 + kinds, #KEYS do
  local at = 7 + kinds + 4 * (i - 3 - kinds)
  if not redis.call('ZSCORE', KEYS[2], ARGV[at]) then
    local newest = ARGV[at + 2]
    local last = redis.call('LINDEX', KEYS[i], -1)
    if last and string.sub(last, 1, 1) == MARK then  -- the time of the newest event stays the last entry
      local before = string.match(last, '^.(%d+)$')
      if before and tonumber(before) > tonumber(newest) then newest = before end
      redis.call('LSET', KEYS[i], -1, ARGV[at + 1])
      redis.call('RPUSH', KEYS[i], MARK .. newest)
    else
      redis.call('RPUSH', KEYS[i], ARGV[at + 1], MARK .. newest)
    end
    redis.call('LTRIM', KEYS[i], -cap - 1, -1)
    if ttl > 0 then redis.call('EXPIRE', KEYS[i], ttl) else redis.call('PERSIST', KEYS[i]) end
    redis.call('XADD', KEYS[1], '*', 'event', ARGV[at + 3])
    redis.call('ZADD', KEYS[2], now, ARGV[at])
    accepted = accepted + 1
    for c = 1, kinds do  -- service/store/decayed_counts.py explains these scores
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
"""Record events: history with the newest time, stream, recorded ids and decayed counts."""

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

_LAST_ID = """
-- The stream remembers its last id even when trimmed, so no second counter can disagree with it.
local function last_id(stream)
  if redis.call('EXISTS', stream) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end
"""

APPEND_CHANGES = (
    _LAST_ID
    + """
-- KEYS: change stream, latest changes.  ARGV: nonce, least revision, then per change: item id, kind, payload
-- The hash is read before the first write: if a key holds another type, nothing is written.
local revision = tonumber(string.match(last_id(KEYS[1]), '^%d+'))
local id = ''
if revision < tonumber(ARGV[2]) then return id end
for i = 3, #ARGV, 3 do
  revision = revision + 1
  local old = redis.call('HGET', KEYS[2], ARGV[i])
  local text = string.format('%.0f', revision)
  local first = old and string.match(old, '^%d+') or text
  id = text .. '-' .. ARGV[1]
  redis.call('XADD', KEYS[1], id, 'item', ARGV[i], 'kind', ARGV[i + 1], 'payload', ARGV[i + 2])
  redis.call('HSET', KEYS[2], ARGV[i], first .. ' ' .. id .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2])
end
return id
"""
)
"""Append changes and update the latest change of each item; empty answer if the stream holds too little."""

APPEND_DELETIONS = "#!lua flags=allow-oom\n" + APPEND_CHANGES
"""The same, run although Redis is out of memory: hiding an item must always work. Needs Redis 7."""

READ_CHANGES = (
    _LAST_ID
    + """
-- KEYS: change stream, snapshot head.  ARGV: first id, number of entries
return {last_id(KEYS[1]), redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2]), redis.call('GET', KEYS[2])}
"""
)
"""Read the last id, entries and the head of the newest snapshot."""

LAST_CHANGE = (
    _LAST_ID
    + """
-- KEYS: change stream
return last_id(KEYS[1])
"""
)
"""Read the id of the last change."""

RESTART_CHANGES = (
    _LAST_ID
    + """
-- KEYS: change stream.  ARGV: last revision of a reader who has read more than the stream holds, id of the first entry
if tonumber(string.match(last_id(KEYS[1]), '^%d+')) >= tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('XADD', KEYS[1], ARGV[2], 'item', '-', 'kind', 'restart', 'payload', '')
return 1
"""
)
"""Start the stream anew, unless another replica was faster."""

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
