-- Gives what follows a mark. If Redis has forgotten what was marked, the term ends.
-- KEYS: stream, meta, who follows the channel
-- ARGV: writer, token, epoch, term, how many, another term, where it is told, '1' if this is the first
--       look over a new connection, then marks, each sequence, id and origin, the newest first
local meta = meta_of(KEYS[2])
if meta.writer > tonumber(ARGV[1]) then
  return {'fenced', {string.format('%.0f', meta.writer), ''}, {}, {0, 0}}
end
if not meta.epoch then return {'missing', {}, {}, {0, 0}} end
local is_known = redis.call('HEXISTS', KEYS[3], ARGV[2]) == 1
if not is_known then redis.call('HSET', KEYS[3], ARGV[2], '') end
if meta.epoch ~= ARGV[3] then return {'apart', {}, {}, {0, 0}} end
local state = has(KEYS[1], meta, ARGV[9], ARGV[10], ARGV[11])
if state == 'yes' then
  -- All that it was told, this run of the server has.
  if not is_known or ARGV[8] == '1' then
    redis.call('HSET', KEYS[3], ARGV[2], run_of_server())
  end
  local entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[10], '+', 'COUNT', ARGV[5])
  return {'on', redis.call('HGETALL', KEYS[2]), entries, redis.call('TIME')}
end
if state == 'no' then
  local sure = 0
  for at = 12, #ARGV, 3 do
    if has(KEYS[1], meta, ARGV[at], ARGV[at + 1], ARGV[at + 2]) == 'yes' then
      sure = tonumber(ARGV[at])
      break
    end
  end
  -- Another node may have ended the term already, and have known less of what is gone.
  local told = tonumber(string.match(meta.past, '%[' .. ARGV[4] .. ',(%d+)%]'))
  if meta.term == ARGV[4] or (told and told > sure) then
    bump(KEYS[2], ARGV[7], meta, sure, ARGV[6])
  end
end
return {'apart', {}, {}, {0, 0}}
