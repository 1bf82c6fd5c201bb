-- Forgets that nodes which live no more followed a channel. What one of them was told by this run of the
-- server is there. What it was told by an earlier one may have been forgotten, and nobody else may know:
-- then the term ends.
-- KEYS: meta, who follows the channel
-- ARGV: writer, another term, where it is told, then the tokens of the nodes
local meta, wrong = meta_of(KEYS[1])
if wrong then return wrong end
if meta.writer > tonumber(ARGV[1]) then return {'fenced', string.format('%.0f', meta.writer)} end
local run, is_sure = nil, true
for at = 4, #ARGV do
  local told_by = redis.call('HGET', KEYS[2], ARGV[at])
  if told_by then
    run = run or run_of_server()
    is_sure = is_sure and told_by == run and run ~= ''
    redis.call('HDEL', KEYS[2], ARGV[at])
  end
end
if meta.epoch and not is_sure then bump(KEYS[1], ARGV[3], meta, meta.last, ARGV[2]) end
return {'done', is_sure and '0' or '1'}
