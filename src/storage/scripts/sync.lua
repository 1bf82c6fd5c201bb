-- Gives what follows a mark, a page of it. If Redis has forgotten what was marked, the term ends.
-- KEYS: stream, meta, who follows the channel
-- ARGV: writer, token, epoch, term, the bytes that are enough, another term, where it is told, how many
--       events are too many to follow, '1' if this is the first look over a new connection, then marks,
--       each sequence, id and origin, the newest first
-- Answers with a word, the hash, entries, what the clock shows, and the bytes of the entries' texts.
local meta, wrong = meta_of(KEYS[2])
if wrong then return wrong end
if meta.writer > tonumber(ARGV[1]) then
  return {'fenced', {string.format('%.0f', meta.writer), ''}, {}, {0, 0}, 0}
end
if not meta.epoch then return {'missing', {}, {}, {0, 0}, 0} end
local is_known = redis.call('HEXISTS', KEYS[3], ARGV[2]) == 1
if not is_known then redis.call('HSET', KEYS[3], ARGV[2], '') end
if meta.epoch ~= ARGV[3] then return {'apart', {}, {}, {0, 0}, 0} end
local function mark(number)
  local at = 7 + 3 * number
  return has(KEYS[1], meta, ARGV[at], ARGV[at + 1], ARGV[at + 2])
end
local marks = (#ARGV - 9) / 3
local state = mark(1)
if state == 'yes' then
  if meta.last - tonumber(ARGV[10]) > tonumber(ARGV[8]) then return {'far', {}, {}, {0, 0}, 0} end
  -- All that it was told, this run of the server has.
  if not is_known or ARGV[9] == '1' then
    redis.call('HSET', KEYS[3], ARGV[2], run_of_server())
  end
  local entries, bytes, enough = {}, 0, tonumber(ARGV[5])
  walk(KEYS[1], '(' .. ARGV[11], '+', false, function(entry, length)
    entries[#entries + 1] = entry
    bytes = bytes + length
    return bytes >= enough
  end)
  return {'on', redis.call('HGETALL', KEYS[2]), entries, redis.call('TIME'), bytes}
end
if state == 'no' then
  -- What is so of a mark is so of all older ones, unless they are older than what is kept: so few of
  -- the entries must be read.
  local wrong_one, right_one = 1, marks + 1
  while right_one - wrong_one > 1 do
    local middle = math.floor((wrong_one + right_one) / 2)
    if mark(middle) == 'no' then wrong_one = middle else right_one = middle end
  end
  local sure = 0
  if right_one <= marks and mark(right_one) == 'yes' then sure = tonumber(ARGV[7 + 3 * right_one]) end
  -- Another node may have ended the term already, and have known less of what is gone.
  local told = tonumber(string.match(meta.past, '%[' .. ARGV[4] .. ',(%d+)%]'))
  if meta.term == ARGV[4] or (told and told > sure) then
    bump(KEYS[2], ARGV[7], meta, sure, ARGV[6])
  end
end
return {'apart', {}, {}, {0, 0}, 0}
