"""Moves visits from the cache to the database."""

from shop import cache, database

rows = database()
while True:
    _, job = cache().blpop("jobs")
    rows.execute("INSERT INTO visit (number) VALUES (%s)", (int(job),))
