import django.contrib.postgres.fields
import django.core.validators
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("routing", "0007_usage_partitions")]
    operations = [
        migrations.AddField(
            model_name="routingsettings",
            name="body_days",
            field=models.PositiveSmallIntegerField(
                default=30,
                help_text="How long bodies are kept.",
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(3650),
                ],
            ),
        ),
        migrations.AddField(
            model_name="routingsettings",
            name="body_kilobytes",
            field=models.PositiveSmallIntegerField(
                default=64,
                help_text="The most that is kept of a request, and of an answer.",
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(1024),
                ],
            ),
        ),
        migrations.AddField(
            model_name="routingsettings",
            name="redact_patterns",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=300),
                blank=True,
                default=list,
                help_text="RE2 expressions: what they find is taken out of bodies, beside keys, addresses and numbers.",
                size=None,
            ),
        ),
        migrations.CreateModel(
            name="StoredBody",
            fields=[
                ("call_id", models.UUIDField(primary_key=True, serialize=False)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("request", models.JSONField()),
                ("answer", models.JSONField(help_text="Null for a call that had no answer.", null=True)),
                ("redactions", models.PositiveIntegerField(default=0)),
                (
                    "cut",
                    models.BooleanField(default=False, help_text="Something was longer than what is kept."),
                ),
            ],
            options={
                "verbose_name_plural": "stored bodies",
                "indexes": [models.Index(fields=["created_at"], name="storedbody_age")],
            },
        ),
    ]
