"""Lua scripts of the subjects of experiments, each of which Redis runs as one atomic step.

A subject is a field of a hash, ``<variant>|<hash>``. Its value is ``+`` or ``-``, for exposed or not, then what it did
with blanks before each: ``+ click=1 purchase=1 purchase|EUR=12.5``. The sums over subjects are the fields of another
hash. :mod:`model_store.events.marks` does the same in Python and explains their names.
"""

from model_store.events.marks import MOST_MARKS

EXPOSE_SUBJECT = """
-- Notes that a subject got an answer, and returns what is kept of it.
local function expose(sums, subjects, who)
  local state = redis.call('HGET', subjects, who)
  if state and string.sub(state, 1, 1) == '+' then return state end
  state = '+' .. string.sub(state or '', 2)
  redis.call('HSET', subjects, who, state)
  redis.call('HINCRBYFLOAT', sums, string.match(who, '^%d+') .. '|#subjects', 1)
  return state
end
"""

MARK_SUBJECT = (
    EXPOSE_SUBJECT
    + f"local MOST_MARKS = {MOST_MARKS}"
    + """
-- Notes what an event says about a subject: 1 if it was exposed (else 0), who, type, value ('' for none), currency.
local function mark(sums, subjects, text)
  local exposes, who, kind, value, currency = string.match(text, '^(%d) (%S+) (%S+) (%S*) (%S+)$')
  local state = exposes == '1' and expose(sums, subjects, who) or redis.call('HGET', subjects, who) or '-'
  local marks, names = {}, {}
  for name, amount in string.gmatch(state, ' ([^= ]+)=(%S+)') do
    marks[name] = tonumber(amount)
    names[#names + 1] = name
  end

  local group = string.match(who, '^%d+') .. '|' .. kind
  if not marks[kind] and #names < MOST_MARKS then
    marks[kind] = 1
    names[#names + 1] = kind
    redis.call('HINCRBYFLOAT', sums, group .. '|#active', 1)
  end
  local name = kind .. '|' .. currency
  if value ~= '' and (marks[name] or #names < MOST_MARKS) then
    local before = marks[name] or 0
    if not marks[name] then names[#names + 1] = name end
    marks[name] = before + tonumber(value)
    group = group .. '|' .. currency
    local payers = (marks[name] ~= 0 and 1 or 0) - (before ~= 0 and 1 or 0)
    redis.call('HINCRBYFLOAT', sums, group .. '|#payers', payers)
    redis.call('HINCRBYFLOAT', sums, group .. '|#total', string.format('%.17g', marks[name] - before))
    redis.call('HINCRBYFLOAT', sums, group .. '|#squares', string.format('%.17g', marks[name] ^ 2 - before ^ 2))
  end

  local parts = { string.sub(state, 1, 1) }
  for _, each in ipairs(names) do parts[#parts + 1] = each .. '=' .. string.format('%.17g', marks[each]) end
  redis.call('HSET', subjects, who, table.concat(parts, ' '))
end
"""
)
"""What scripts share that change subjects."""

EXPOSE = (
    EXPOSE_SUBJECT
    + """
-- KEYS: sums, then subjects, of each experiment.  ARGV: per subject: place of its experiment, who
-- A key of another type is deleted and started anew.
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[i]) end
end
for i = 1, #ARGV, 2 do expose(KEYS[2 * ARGV[i] - 1], KEYS[2 * ARGV[i]], ARGV[i + 1]) end
for i = 1, #KEYS do redis.call('PERSIST', KEYS[i]) end
return #ARGV / 2
"""
)
"""Note who got an answer."""
