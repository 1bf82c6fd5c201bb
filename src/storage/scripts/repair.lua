-- Notes that a node repairs what Redis has forgotten of rooms and channels, unless another does it or
-- has done it.
-- KEYS: who writes
-- ARGV: writer, the last repair that the node has seen, how often the catalogue was changed as far as
--       it knows, its token
-- Answers with how often the catalogue was changed by now, which is more than the node knew; 0
-- if another repairs it.
local held = redis.call('HMGET', KEYS[1], 'generation', 'token', 'changes', 'repair')
if (whole(held[1]) or 0) > tonumber(ARGV[1]) or held[2] ~= 'shared' then
  return {'fenced', whole(held[1]) and held[1] or '0'}
end
if (held[4] or '') ~= ARGV[2] then return {'done', '0'} end
local changes = math.max(whole(held[3]) or 0, tonumber(ARGV[3])) + 1
changes = string.format('%.0f', changes)
redis.call('HSET', KEYS[1], 'changes', changes, 'repair', changes .. ' ' .. ARGV[4])
return {'done', changes}
