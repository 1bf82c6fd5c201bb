-- Tries each command that is needed, and leaves nothing.
-- KEYS: a string, a hash, a set, a stream, none of which is there
-- ARGV: a pub/sub channel, or '' where nothing is told
-- Answers with each command that was refused, and why.
local refused = {}
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then
    refused[#refused + 1] = {(...), answer.err}
  end
end
try('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
-- What is made has to go again.
if #refused > 0 then return refused end
try('TIME')
try('TYPE', KEYS[1])
try('EXISTS', KEYS[1])
try('UNLINK', KEYS[1])
try('SET', KEYS[1], 'x', 'PX', '10000', 'GET')
try('GETRANGE', KEYS[1], 0, 0)
try('MGET', KEYS[1])
try('GETDEL', KEYS[1])
try('HSET', KEYS[2], 'a', '1')
try('HGET', KEYS[2], 'a')
try('HMGET', KEYS[2], 'a')
try('HGETALL', KEYS[2])
try('HKEYS', KEYS[2])
try('HEXISTS', KEYS[2], 'a')
try('HINCRBY', KEYS[2], 'a', 1)
try('HSCAN', KEYS[2], '0', 'COUNT', 1)
try('HDEL', KEYS[2], 'a')
try('SADD', KEYS[3], 'a')
try('SSCAN', KEYS[3], '0', 'COUNT', 1)
try('SREM', KEYS[3], 'a')
try('XADD', KEYS[4], '1-1', 'a', '1')
try('XRANGE', KEYS[4], '-', '+', 'COUNT', 1)
try('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)
try('XINFO', 'STREAM', KEYS[4])
try('XLEN', KEYS[4])
try('XTRIM', KEYS[4], 'MINID', '=', '1')
try('XDEL', KEYS[4], '1-1')
if ARGV[1] ~= '' then
  try('PUBLISH', ARGV[1], '')
  try('GET', KEYS[1])
  try('PEXPIRE', KEYS[1], '10000')
  try('ZADD', KEYS[1], '1', 'a')
  try('ZSCORE', KEYS[1], 'a')
  try('ZREVRANGE', KEYS[1], 0, 0)
  try('ZREM', KEYS[1], 'a')
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
return refused
