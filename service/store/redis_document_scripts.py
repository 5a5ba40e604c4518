"""Lua scripts of documents such as placements, each of which Redis runs as one atomic step.

All documents of a kind are one hash: the field of a name holds ``<revision> <JSON>``, the field of the empty name the
number of the newest write.
"""

_EXPECTED = """
local function number_of(value) return tonumber(string.match(value or '', '^%d+') or '0') end
local revision = number_of(redis.call('HGET', KEYS[1], ''))
if revision < tonumber(ARGV[2]) then return {'lost', revision} end
local old = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[3] ~= '' and number_of(old) ~= tonumber(ARGV[3]) then return {'changed', number_of(old)} end
"""

PUT = (
    """
-- KEYS: documents.  ARGV: name, revision that the caller has read, expected revision of the document ('': any),
--       documents at most, 1 if nothing else may have been written, JSON
-- Returns what happened, and the revision of the document.
"""
    + _EXPECTED
    + """
if ARGV[5] == '1' and revision ~= tonumber(ARGV[2]) then return {'others', revision} end
if not old and redis.call('HLEN', KEYS[1]) > tonumber(ARGV[4]) then return {'full', 0} end
revision = revision + 1
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s', revision, ARGV[6]), '', string.format('%.0f', revision))
return {'done', revision}
"""
)
"""Store a document."""

DELETE = (
    """#!lua flags=allow-oom
-- KEYS: documents.  ARGV: name, revision that the caller has read, expected revision of the document ('': any)
-- Returns what happened, and the number of this write; 0 if there is no such document.
"""
    + _EXPECTED
    + """
if not old then return {'done', 0} end
revision = revision + 1
redis.call('HSET', KEYS[1], '', string.format('%.0f', revision))
redis.call('HDEL', KEYS[1], ARGV[1])
return {'done', revision}
"""
)
"""Delete a document, although Redis is out of memory. Needs Redis 7."""

READ = """
-- KEYS: documents.  ARGV: revision that the caller has read
-- Returns the revision, then, if it is another one, all names, and the names and values that are newer.
local revision = tonumber(redis.call('HGET', KEYS[1], '') or '0')
local known = tonumber(ARGV[1])
if revision == known then return {revision} end
if revision < known then known = 0 end  -- writes are lost: the caller must see all that is left
local names, changed = {}, {}
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if name ~= '' then
    names[#names + 1] = name
    local value = redis.call('HGET', KEYS[1], name)
    if tonumber(string.match(value, '^%d+') or '0') > known then
      changed[#changed + 1] = name
      changed[#changed + 1] = value
    end
  end
end
return {revision, names, changed}
"""
"""Read the documents that changed."""

RESTORE = """
-- KEYS: documents.  ARGV: revision, then name and value of each document
if tonumber(redis.call('HGET', KEYS[1], '') or '0') >= tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], '', ARGV[1])
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
"""
"""Replace documents that Redis has lost, unless another replica was faster."""
