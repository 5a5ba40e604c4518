"""Lua scripts of the change stream of the catalogue, each of which Redis runs as one atomic step."""

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
-- There, a deletion keeps the payload of the put before it, so that the item can come back with its content.
local revision = tonumber(string.match(last_id(KEYS[1]), '^%d+'))
local id = ''
if revision < tonumber(ARGV[2]) then return id end
for i = 3, #ARGV, 3 do
  revision = revision + 1
  local old = redis.call('HGET', KEYS[2], ARGV[i])
  local text = string.format('%.0f', revision)
  local first = old and string.match(old, '^%d+') or text
  id = text .. '-' .. ARGV[1]
  local kept = ARGV[i + 2]
  if old and kept == '' then kept = string.match(old, '^%d+ [%d-]+ %a+ (.*)$') or '' end
  redis.call('XADD', KEYS[1], id, 'item', ARGV[i], 'kind', ARGV[i + 1], 'payload', ARGV[i + 2])
  redis.call('HSET', KEYS[2], ARGV[i], first .. ' ' .. id .. ' ' .. ARGV[i + 1] .. ' ' .. kept)
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
