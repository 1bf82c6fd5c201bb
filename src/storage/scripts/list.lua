-- Changes an index of what several nodes share, and tells them.
-- KEYS: who writes, the index
-- ARGV: writer, where it is told, what is told or '', command, its arguments
local held = redis.call('HMGET', KEYS[1], 'generation', 'token', 'changes')
if (whole(held[1]) or 0) > tonumber(ARGV[1]) or held[2] ~= 'shared' then
  return {'fenced', whole(held[1]) and held[1] or '0'}
end
redis.call(ARGV[4], KEYS[2], unpack(ARGV, 5))
if ARGV[3] ~= '' then
  local changes = (whole(held[3]) or 0) + 1
  redis.call('HSET', KEYS[1], 'changes', string.format('%.0f', changes))
  redis.call('PUBLISH', ARGV[2], string.format('%.0f', changes) .. ' ' .. ARGV[3])
end
return {'done', '1'}
