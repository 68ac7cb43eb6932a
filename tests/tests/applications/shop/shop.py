"""What the parts of the shop share."""

import os

import psycopg2
import redis


def cache():
    return redis.Redis(host=os.environ["CACHE"])


def database():
    with open("/run/secrets/db_password") as file:
        password = file.read().strip()
    connection = psycopg2.connect(
        host=os.environ["DATABASE"], user="postgres", password=password, dbname="postgres"
    )
    connection.autocommit = True
    return connection.cursor()
