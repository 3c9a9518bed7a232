const common = `
local function expire_in(key, ms)
  redis.call('PEXPIRE', key, string.format('%.0f', ms + 60000))
end
local function burn(key)
  redis.call('HSET', key, 'state', 'burnt')
  redis.call('HDEL', key, 'kid', 'mac', 'subject', 'lease', 'lease_until')
end
local now = tonumber(ARGV[1])
`

/**
 * One script per verb of the cache. A record is a hash in state issued, verified, exhausted or burnt; `ends_at` is the
 * end of the code and, once verified, of the grant. An exhausted one keeps its subject, a burnt one keeps nothing.
 */
export const scripts = {
  put: `${common}
local ends_at, grant_ms, tries = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
-- A code may be guessed in its last moment: the index knows a record until the last possible end of its grant.
local last = ends_at + grant_ms
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    local at = 3 * i - 1
    redis.call('HSET', KEYS[i], 'state', 'issued', 'ends_at', ARGV[2], 'grant_ms', ARGV[3], 'tries', tries,
      'used', 0, 'refusals', 0, 'kid', ARGV[at], 'mac', ARGV[at + 1], 'subject', ARGV[at + 2])
    expire_in(KEYS[i], ends_at - now)
    redis.call('ZADD', KEYS[1], string.format('%.0f', last), KEYS[i])
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - 60000))
if redis.call('PTTL', KEYS[1]) < last - now + 60000 then expire_in(KEYS[1], last - now) end
local first = redis.call('HMGET', KEYS[2], 'state', 'ends_at')
local alive = (first[1] == 'issued' or first[1] == 'verified') and now < tonumber(first[2])
return alive and first[2] or '0'`,

  guess: `${common}
local record = redis.call('HMGET', KEYS[1], 'state', 'ends_at', 'grant_ms', 'tries', 'kid', 'mac', 'lease_until')
local state, kid, mac = record[1], record[5], record[6]
if state ~= 'issued' and state ~= 'verified' then return 'dead' end
if now >= tonumber(record[2]) then return 'dead' end
local right = false
for i = 2, #ARGV, 2 do
  if ARGV[i] == kid then right = ARGV[i + 1] == mac end
end
if state == 'verified' then
  if record[7] and now < tonumber(record[7]) then return 'dead' end
  return right and 'right' or 'wrong'
end
-- Counted before it is compared: a guess past the last try never learns whether it was right.
if redis.call('HINCRBY', KEYS[1], 'used', 1) > tonumber(record[4]) then
  redis.call('HSET', KEYS[1], 'state', 'exhausted')
  redis.call('HDEL', KEYS[1], 'kid', 'mac')
  return 'exhausted'
end
if not right then return 'wrong' end
local grant_ms = tonumber(record[3])
redis.call('HSET', KEYS[1], 'state', 'verified', 'ends_at', string.format('%.0f', now + grant_ms))
expire_in(KEYS[1], grant_ms)
return 'right'`,

  lease: `${common}
local record = redis.call('HMGET', KEYS[1], 'state', 'ends_at', 'lease_until', 'subject')
if record[1] ~= 'verified' or now >= tonumber(record[2]) then return false end
if record[3] and now < tonumber(record[3]) then return false end
redis.call('HSET', KEYS[1], 'lease', ARGV[2], 'lease_until', ARGV[3])
return record[4]`,

  giveBack: `${common}
local record = redis.call('HMGET', KEYS[1], 'state', 'lease')
if record[1] ~= 'verified' or record[2] ~= ARGV[2] then return 'OK' end
if ARGV[3] == 'refused' and redis.call('HINCRBY', KEYS[1], 'refusals', 1) >= 5 then
  burn(KEYS[1])
else
  redis.call('HDEL', KEYS[1], 'lease', 'lease_until')
end
return 'OK'`,

  burn: `${common}
-- The records are in the index's slot. One that is gone must not come back, as a key without a lifetime.
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if redis.call('EXISTS', key) == 1 then burn(key) end
end
return 'OK'`,

  peek: `${common}
local record = redis.call('HMGET', KEYS[1], 'ends_at', 'subject')
if not record[1] or now >= tonumber(record[1]) then return false end
return record[2]`,
}
