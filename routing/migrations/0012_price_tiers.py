from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("routing", "0011_reviews_and_findings")]
    operations = [
        migrations.AddField(
            "Price",
            "input_tiers",
            models.JSONField(blank=True, default=list, help_text="What requests pay whose input is longer: see docs/routing.md."),
        )
    ]
