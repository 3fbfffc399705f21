"""What Django's TransactionTestCase calls after each test whose transactions were real."""

from typing import Any

from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management.commands import flush
from django.db import OperationalError, connections, transaction

CHANCES = 5
# What `migrate` fills, and every flush would have to fill again: no test changes it.
KEPT = {Permission._meta.db_table, ContentType._meta.db_table}


class Command(flush.Command):
    """Empties the tables that hold rows. Django's own truncates all of them, which costs a file each, every time."""

    def handle(self, **options: Any) -> None:
        connection = connections[options["database"]]
        quote = connection.ops.quote_name
        tables = set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - KEPT
        names = sorted(quote(table) for table in tables)
        look = " UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT FROM {name})" for name in names)
        for chance in range(1, CHANCES + 1):
            try:
                with transaction.atomic(using=options["database"]), connection.cursor() as cursor:
                    # As TRUNCATE does: whoever still writes comes to an end first.
                    cursor.execute(f"LOCK TABLE {', '.join(names)} IN EXCLUSIVE MODE")
                    cursor.execute(look)
                    for (name,) in cursor.fetchall():
                        cursor.execute(f"DELETE FROM {name}")
                return
            except OperationalError:  # a process that a test has killed may have left a transaction at work
                if chance == CHANCES:
                    raise
