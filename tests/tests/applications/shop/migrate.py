"""Makes the tables."""

from shop import database

database().execute("CREATE TABLE IF NOT EXISTS visit (number integer, at timestamp DEFAULT now())")
