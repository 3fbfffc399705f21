"""Every change of configuration, by whatever hand, bumps one epoch and notifies `ziggie_config`.

The epoch comes from a sequence, so that it never goes back, not even when tables are emptied.
"""

from django.db import migrations

TABLES = {
    "routing_provider": "",
    "routing_languagemodel": "",
    "routing_price": "",
    "routing_routingsettings": "",
    "routing_routingpolicy": "",
    "routing_routingrule": "",
    "routing_budget": "",
    "ziggie_apikey": " OF name, key_hash, scopes, allowed_models, requests_per_minute, tokens_per_minute, enabled, expires_at",
}

FUNCTION = """
CREATE SEQUENCE ziggie_config_epoch;
CREATE FUNCTION ziggie_bump_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE new_epoch bigint;
BEGIN
    INSERT INTO routing_configepoch (id, epoch) VALUES (1, nextval('ziggie_config_epoch'))
        ON CONFLICT (id) DO UPDATE SET epoch = EXCLUDED.epoch
        RETURNING epoch INTO new_epoch;
    PERFORM pg_notify('ziggie_config', new_epoch::text);
    RETURN NULL;
END $$;
"""


def triggers() -> str:
    return "\n".join(
        f"CREATE TRIGGER ziggie_epoch_write AFTER INSERT OR DELETE OR UPDATE{columns} ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION ziggie_bump_epoch();\n"
        f"CREATE TRIGGER ziggie_epoch_truncate AFTER TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION ziggie_bump_epoch();"
        for table, columns in TABLES.items()
    )


def no_triggers() -> str:
    return "\n".join(
        f"DROP TRIGGER ziggie_epoch_write ON {table}; DROP TRIGGER ziggie_epoch_truncate ON {table};" for table in TABLES
    )


class Migration(migrations.Migration):
    dependencies = [("routing", "0001_initial"), ("ziggie", "0001_initial")]
    operations = [
        migrations.RunSQL(
            FUNCTION + triggers(),
            no_triggers() + "DROP FUNCTION ziggie_bump_epoch(); DROP SEQUENCE ziggie_config_epoch;",
        )
    ]
