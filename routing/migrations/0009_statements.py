import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import ziggie.ids


class Migration(migrations.Migration):
    dependencies = [("routing", "0008_stored_bodies")]
    operations = [
        migrations.CreateModel(
            name="Statement",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=ziggie.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("provider", models.CharField(max_length=60)),
                ("file_name", models.CharField(max_length=200)),
                ("digest", models.CharField(help_text="SHA-256 of the file.", max_length=64)),
                ("form", models.CharField(help_text="Which kind of export it is.", max_length=40)),
                ("first_day", models.DateField()),
                ("last_day", models.DateField()),
                ("file_rows", models.PositiveIntegerField()),
                ("loaded_by", models.CharField(max_length=150)),
                ("loaded_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "ordering": ("-id",),
                "constraints": [
                    models.UniqueConstraint(fields=("provider", "digest"), name="statement_loaded_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="StatementLine",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("day", models.DateField()),
                (
                    "model",
                    models.CharField(
                        help_text="The provider's name for it; empty for what is no model's.", max_length=150
                    ),
                ),
                ("input_tokens", models.BigIntegerField(null=True)),
                ("output_tokens", models.BigIntegerField(null=True)),
                ("cost_microusd", models.BigIntegerField(null=True)),
                (
                    "statement",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="lines", to="routing.statement"
                    ),
                ),
            ],
            options={
                "ordering": ("day", "model"),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("statement", "day", "model"), name="line_of_day_and_model"
                    )
                ],
            },
        ),
    ]
