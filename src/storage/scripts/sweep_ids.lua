-- Takes the client ids of a dead node back, one step of them; gives where the next begins, 0 if there
-- is none, and how many there were.
-- KEYS: the client ids
-- ARGV: what the keys of leases begin with, the dead node's token, where to begin, about how many
if redis.call('EXISTS', ARGV[1] .. ARGV[2]) == 1 then return {'lives', 0} end
local step = redis.call('HSCAN', KEYS[1], ARGV[3], 'COUNT', ARGV[4])
local removed = 0
for at = 1, #step[2], 2 do
  if string.match(step[2][at + 1], '^%S+') == ARGV[2] then
    removed = removed + redis.call('HDEL', KEYS[1], step[2][at])
  end
end
return {step[1], removed}
