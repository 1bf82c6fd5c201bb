-- Gives client ids to a node: those that are free, its own, or of a node that has no lease.
-- KEYS: the client ids
-- ARGV: what the keys of leases begin with, the node's token, client ids
if redis.call('EXISTS', ARGV[1] .. ARGV[2]) == 0 then return {'gone', {}} end
local lives = {[ARGV[2]] = false}
local granted = {}
for at = 3, #ARGV do
  local holder = redis.call('HGET', KEYS[1], ARGV[at])
  if holder and lives[holder] == nil then
    lives[holder] = redis.call('EXISTS', ARGV[1] .. holder) == 1
  end
  if holder and lives[holder] then
    granted[at - 2] = 0
  else
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[2])
    granted[at - 2] = 1
  end
end
return {'done', granted}
