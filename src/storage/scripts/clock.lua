-- What the clock shows of the server that has the key.
-- KEYS: who writes
return redis.call('TIME')
