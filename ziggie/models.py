"""API keys: programs that may call Ziggie. Only a key's hash is stored."""

import hashlib
import secrets
from datetime import timedelta
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.utils import timezone

from ziggie.ids import uuid7

PREFIX = "zg_"
SCOPES = ("gateway", "coordinator", "tools", "admin")
USUAL_GRACE = timedelta(hours=24)
LONGEST_GRACE = timedelta(days=90)
MOST_FORMER_SECRETS = 10  # of one key at a time


def hash_key(raw_key: str) -> bytes:
    """Keys are 256 random bits, so a plain hash cannot be reversed; it also makes look-ups constant time."""
    return hashlib.sha256(raw_key.encode()).digest()


def default_scopes() -> list[str]:
    return ["gateway"]


def validate_scopes(scopes: list[str]) -> None:
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ValidationError(
            f"scopes must be some of {', '.join(SCOPES)}; not known: {', '.join(unknown) or 'none given'}"
        )


class ApiKey(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=100, unique=True, help_text="Who uses it; shown on usage pages.")
    prefix = models.CharField(max_length=12, editable=False)
    key_hash = models.BinaryField(max_length=32, unique=True, editable=False)
    scopes = ArrayField(models.CharField(max_length=20), default=default_scopes, validators=[validate_scopes])
    allowed_models = ArrayField(
        models.CharField(max_length=100), default=list, blank=True, help_text="Model slugs; empty allows all."
    )
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    tokens_per_minute = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    max_streams = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(100_000)],
        help_text="Streams that may be open at a time, over all processes; empty: 4,000.",
    )
    enabled = models.BooleanField(default=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "API key"
        ordering = ("name",)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @property
    def usable(self) -> bool:
        return self.enabled and (self.expires_at is None or self.expires_at > timezone.now())

    def new_secret(self) -> str:
        """Gives the key a new secret (not saved yet) and returns it: the only time it is seen."""
        raw_key = PREFIX + secrets.token_urlsafe(32)
        self.prefix = raw_key[:10]
        self.key_hash = hash_key(raw_key)
        return raw_key


class FormerSecret(models.Model):
    """A secret that has been replaced and works for a while longer, so that programs can be changed one by one."""

    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="former_secrets")
    prefix = models.CharField(max_length=12)
    key_hash = models.BinaryField(max_length=32, unique=True)
    valid_until = models.DateTimeField()

    class Meta:
        ordering = ("valid_until",)

    def __str__(self) -> str:
        return f"{self.prefix}… until {self.valid_until:%Y-%m-%d %H:%M} UTC"


def create_api_key(name: str, **fields: Any) -> tuple[ApiKey, str]:
    """A new key and its secret. Raises ValidationError for an unknown scope or a taken name."""
    key = ApiKey(name=name, **fields)
    raw_key = key.new_secret()
    key.full_clean()
    key.save()
    return key, raw_key


@transaction.atomic
def rotate(key: ApiKey, *, grace: timedelta = USUAL_GRACE) -> str:
    """A new secret, returned this once. The one before it works until the grace has passed, and so do those that had
    some left; with no grace all of them stop now. Raises ValidationError for an impossible grace."""
    if not timedelta() <= grace <= LONGEST_GRACE:
        raise ValidationError(f"the grace must be from 0 to {LONGEST_GRACE.days} days")
    key = ApiKey.objects.select_for_update().get(pk=key.pk)
    over = key.former_secrets.filter(valid_until__lte=timezone.now()) if grace else key.former_secrets.all()
    over.delete()
    if grace:
        if key.former_secrets.count() >= MOST_FORMER_SECRETS:
            raise ValidationError(f"{MOST_FORMER_SECRETS} earlier secrets of this key work still: rotate without grace")
        key.former_secrets.create(prefix=key.prefix, key_hash=key.key_hash, valid_until=timezone.now() + grace)
    raw_key = key.new_secret()
    key.save(update_fields=["prefix", "key_hash"])
    return raw_key
