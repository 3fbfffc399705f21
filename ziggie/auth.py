"""Who is calling: a staff session or an API key. Everything else is refused."""

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from ziggie.guesses import caller_address, check
from ziggie.models import ApiKey, FormerSecret, hash_key

if TYPE_CHECKING:  # rest_framework.views itself imports this module, by its name in the settings
    from rest_framework.views import APIView

LAST_USED_RESOLUTION = timedelta(minutes=1)
ROUTING = ("routing.change_routingpolicy",)  # what applying a routing file needs
# What staff need for all that a key of the scope "admin" may write: without them nobody gives or renews such a key.
ADMIN_PERMISSIONS = (
    *ROUTING,
    *("routing.add_provider", "routing.change_provider", "routing.add_languagemodel", "routing.change_languagemodel"),
    *("routing.add_price", "routing.add_budget", "routing.change_budget", "routing.change_routingsettings"),
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Someone who may call. A staff session has every scope that staff have; `key_id` is None then."""

    name: str
    scopes: frozenset[str]
    is_staff: bool = False
    key_id: str | None = None
    allowed_models: tuple[str, ...] = ()


def authenticate_key(raw_key: str, address: str | None = None) -> Caller | None:
    """The caller behind an API key, or None if it is unknown, disabled or expired. With the address that it came
    from it may be a guess: raises RateLimited where that has made too many."""
    now = timezone.now()
    digest = hash_key(raw_key)
    former = FormerSecret.objects.filter(key_hash=digest, valid_until__gt=now).values("key")
    key = ApiKey.objects.filter(Q(key_hash=digest) | Q(pk__in=former)).first()
    is_usable = key is not None and key.usable
    if address is not None:
        check(address, str(key.pk) if key and is_usable else None)
    if key is None or not is_usable:
        return None
    ApiKey.objects.filter(
        Q(last_used_at__isnull=True) | Q(last_used_at__lt=now - LAST_USED_RESOLUTION), pk=key.pk
    ).update(last_used_at=now)
    return Caller(
        name=key.name,
        scopes=frozenset(key.scopes),
        key_id=str(key.pk),
        allowed_models=tuple(key.allowed_models),
    )


def raw_key_of(authorization: str, x_api_key: str) -> str:
    """The key in `Authorization: Bearer …` or `x-api-key`, or ""."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else x_api_key.strip()


class KeyUser(AnonymousUser):
    """What request.user is for a call with an API key: authenticated, but nobody's account."""

    def __init__(self, caller: Caller) -> None:
        super().__init__()
        self.caller = caller
        self.username = f"key:{caller.name}"  # type: ignore[assignment]  # nobody's account, but it has a name

    @property
    def is_authenticated(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_anonymous(self) -> bool:  # type: ignore[override]
        return False


class ApiKeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[KeyUser, Caller] | None:
        raw_key = raw_key_of(request.headers.get("Authorization", ""), request.headers.get("X-Api-Key", ""))
        if not raw_key:
            return None
        address = caller_address(request.META.get("REMOTE_ADDR", ""), request.headers.get("X-Forwarded-For", ""))
        caller = authenticate_key(raw_key, address)
        if caller is None:
            raise AuthenticationFailed("this API key is unknown, disabled or expired")
        return KeyUser(caller), caller

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def caller_of(request: Request) -> Caller:
    """The caller of a REST request that passed IsStaffOrKey."""
    if isinstance(request.auth, Caller):
        return request.auth
    return Caller(name=request.user.get_username(), scopes=frozenset({"coordinator", "tools"}), is_staff=True)


class IsStaffOrKey(BasePermission):
    """Staff sessions, and keys with the view's scope (`required_scope`, "coordinator" if it names none).

    A view with `staff_write = True` lets keys read; only keys with the scope "admin" write, and those of the staff who
    hold its `staff_permissions`: what the admin and the pages ask of them for the same.
    """

    message = "this needs a staff login or an API key with the right scope"

    def has_permission(self, request: Request, view: "APIView") -> bool:
        changes = request.method not in SAFE_METHODS and getattr(view, "staff_write", False)
        if isinstance(request.auth, Caller):
            scope = "admin" if changes else getattr(view, "required_scope", "coordinator")
            return scope in request.auth.scopes or "admin" in request.auth.scopes
        if not (request.user and request.user.is_authenticated and request.user.is_staff):
            return False
        return not changes or request.user.has_perms(getattr(view, "staff_permissions", ROUTING))
