-- Keeps a room, and tells it to the nodes that share it; another that is kept under its name stays,
-- unless the asker knows it.
-- KEYS: who writes, the rooms
-- ARGV: writer, where it is told, what is told, name, room, what may be replaced by it: a room, '' for
--       none, '*' for whatever is there
-- Answers with the room that stays.
local held = redis.call('HMGET', KEYS[1], 'generation', 'token', 'changes')
if (whole(held[1]) or 0) > tonumber(ARGV[1]) or held[2] ~= 'shared' then
  return {'fenced', whole(held[1]) and held[1] or '0'}
end
local kept = redis.call('HGET', KEYS[2], ARGV[4])
if kept and ARGV[6] ~= '*' and kept ~= ARGV[6] and kept ~= ARGV[5] then return {'there', kept} end
redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
local changes = (whole(held[3]) or 0) + 1
redis.call('HSET', KEYS[1], 'changes', string.format('%.0f', changes))
redis.call('PUBLISH', ARGV[2], string.format('%.0f', changes) .. ' ' .. ARGV[3])
return {'done', ''}
