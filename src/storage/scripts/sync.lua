-- Gives what follows a mark. If Redis has forgotten what was marked, the term ends.
-- KEYS: stream, meta, who follows the channel
-- ARGV: writer, token, epoch, term, how many, another term, where it is told, then marks, each
--       sequence, id and origin, the newest first
local meta = meta_of(KEYS[2])
if meta.writer > tonumber(ARGV[1]) then
  return {'fenced', {string.format('%.0f', meta.writer), ''}, {}}
end
if not meta.epoch then return {'missing', {}, {}} end
if redis.call('HEXISTS', KEYS[3], ARGV[2]) == 0 then redis.call('HSET', KEYS[3], ARGV[2], 1) end
if meta.epoch ~= ARGV[3] then return {'apart', {}, {}} end
local state = has(KEYS[1], meta, ARGV[8], ARGV[9], ARGV[10])
if state == 'yes' then
  local entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[9], '+', 'COUNT', ARGV[5])
  return {'on', redis.call('HGETALL', KEYS[2]), entries}
end
if state == 'no' then
  local sure = 0
  for at = 11, #ARGV, 3 do
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
return {'apart', {}, {}}
