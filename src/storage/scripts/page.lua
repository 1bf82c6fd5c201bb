-- The newest entries of a stream, and what the clock shows by which the time that they have left is kept.
-- KEYS: stream
-- ARGV: the newest, how many
return {redis.call('TIME'), redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', ARGV[2])}
