-- Takes client ids of nodes without a lease back, one step of them; gives where the next begins, 0 if
-- there is none, and how many there were.
-- KEYS: the client ids
-- ARGV: what the keys of leases begin with, where to begin, about how many
local leases = {}
local function lives(node)
  if leases[node] == nil then leases[node] = redis.call('EXISTS', ARGV[1] .. node) == 1 end
  return leases[node]
end
local step = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local removed = 0
for at = 1, #step[2], 2 do
  -- What is no claim is of no node that lives.
  if not lives(string.match(step[2][at + 1], '^%S+') or '') then
    removed = removed + redis.call('HDEL', KEYS[1], step[2][at])
  end
end
return {step[1], removed}
