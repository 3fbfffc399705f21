"""Secrets that work on for a while after a rotation, and a key's limit of open streams."""

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

WATCHED = "name, key_hash, scopes, allowed_models, requests_per_minute, tokens_per_minute, enabled, expires_at"

# Both change what the gateway keeps of keys in memory.
FOLLOWED = f"""
DROP TRIGGER ziggie_epoch_write ON ziggie_apikey;
CREATE TRIGGER ziggie_epoch_write AFTER INSERT OR DELETE OR UPDATE OF {WATCHED}, max_streams ON ziggie_apikey
FOR EACH STATEMENT EXECUTE FUNCTION ziggie_bump_epoch();
CREATE TRIGGER ziggie_epoch_write AFTER INSERT OR DELETE OR UPDATE ON ziggie_formersecret
FOR EACH STATEMENT EXECUTE FUNCTION ziggie_bump_epoch();
CREATE TRIGGER ziggie_epoch_truncate AFTER TRUNCATE ON ziggie_formersecret
FOR EACH STATEMENT EXECUTE FUNCTION ziggie_bump_epoch();
"""
NOT_FOLLOWED = f"""
DROP TRIGGER ziggie_epoch_write ON ziggie_formersecret;
DROP TRIGGER ziggie_epoch_truncate ON ziggie_formersecret;
DROP TRIGGER ziggie_epoch_write ON ziggie_apikey;
CREATE TRIGGER ziggie_epoch_write AFTER INSERT OR DELETE OR UPDATE OF {WATCHED} ON ziggie_apikey
FOR EACH STATEMENT EXECUTE FUNCTION ziggie_bump_epoch();
"""


class Migration(migrations.Migration):
    dependencies = [("ziggie", "0001_initial"), ("routing", "0002_config_epoch")]
    operations = [
        migrations.AddField(
            model_name="apikey",
            name="max_streams",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Streams that may be open at a time, over all processes; empty: 4,000.",
                null=True,
                validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(100_000)],
            ),
        ),
        migrations.CreateModel(
            name="FormerSecret",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("prefix", models.CharField(max_length=12)),
                ("key_hash", models.BinaryField(max_length=32, unique=True)),
                ("valid_until", models.DateTimeField()),
                (
                    "key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="former_secrets", to="ziggie.apikey"
                    ),
                ),
            ],
            options={"ordering": ("valid_until",)},
        ),
        migrations.RunSQL(FOLLOWED, NOT_FOLLOWED),
    ]
