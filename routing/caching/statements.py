"""What the cache (cache.py) says to the database."""

READ = "SELECT answer FROM routing_cachedanswer WHERE key = %s AND expires_at > now()"
LOOK = "SELECT answer IS NOT NULL OR expires_at <= now() FROM routing_cachedanswer WHERE key = %s"
CLAIM = """
INSERT INTO routing_cachedanswer AS c (key, owner, expires_at, bytes)
VALUES (%(key)s, %(owner)s, now() + %(lease)s * interval '1 second', 0)
ON CONFLICT (key) DO UPDATE
SET owner = excluded.owner, expires_at = excluded.expires_at, bytes = 0, answer = NULL, stored_at = NULL
WHERE c.expires_at <= now()
RETURNING owner
"""
BEAT = """
UPDATE routing_cachedanswer SET expires_at = now() + %s * interval '1 second'
WHERE key = %s AND owner = %s AND answer IS NULL
"""
STORE = """
UPDATE routing_cachedanswer
SET answer = %s, bytes = %s, stored_at = now(), expires_at = now() + %s * interval '1 second'
WHERE key = %s AND owner = %s AND answer IS NULL
"""
# Its lease ends at once, and one of those who wait takes over.
GIVE_UP = "UPDATE routing_cachedanswer SET expires_at = now() WHERE key = %s AND owner = %s AND answer IS NULL"
RELEASE = "DELETE FROM routing_cachedanswer WHERE key = %s AND owner = %s AND answer IS NULL"
EVICT_EXPIRED = "DELETE FROM routing_cachedanswer WHERE expires_at <= now() - %s * interval '1 second'"
EVICT_OLDEST = """
DELETE FROM routing_cachedanswer WHERE key IN (
    SELECT key FROM (
        SELECT key, row_number() OVER newest AS place, sum(bytes) OVER newest AS total
        FROM routing_cachedanswer WHERE answer IS NOT NULL
        WINDOW newest AS (ORDER BY stored_at DESC, key)
    ) AS kept WHERE place > %s OR total > %s
)
"""
