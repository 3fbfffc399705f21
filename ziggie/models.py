"""API keys: programs that may call Ziggie. Only a key's hash is stored."""

import hashlib
import secrets
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone

from ziggie.ids import uuid7

PREFIX = "zg_"
SCOPES = ("gateway", "coordinator", "tools", "admin")


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

    def renew_secret(self) -> str:
        """Gives the key a new secret (not saved yet) and returns it: the only time it is seen."""
        raw_key = PREFIX + secrets.token_urlsafe(32)
        self.prefix = raw_key[:10]
        self.key_hash = hash_key(raw_key)
        return raw_key


def create_api_key(name: str, **fields: Any) -> tuple[ApiKey, str]:
    """A new key and its secret. Raises ValidationError for an unknown scope or a taken name."""
    key = ApiKey(name=name, **fields)
    raw_key = key.renew_secret()
    key.full_clean()
    key.save()
    return key, raw_key
