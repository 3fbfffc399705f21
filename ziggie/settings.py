"""Every setting, read top to bottom. The environment is read here and nowhere else."""

import os
import secrets
from pathlib import Path
from typing import Any

from django.templatetags.static import static

from ziggie.environment import Environment, database_settings

BASE_DIR = Path(__file__).resolve().parent.parent
env = Environment()
if (BASE_DIR / ".env").exists():
    Environment.read_env(BASE_DIR / ".env")

# --- where things live -------------------------------------------------------------------------

ZIGGIE_HOME = Path(env.str("ZIGGIE_HOME", default=str(BASE_DIR / ".ziggie"))).expanduser().absolute()
MEDIA_ROOT = ZIGGIE_HOME / "media"
HOST = env.str("HOST", default="127.0.0.1")
PORT = env.int("PORT", default=8000)

# --- security ----------------------------------------------------------------------------------

DEBUG = env.bool("DEBUG", default=True)


def _generated_secret(name: str) -> str:
    """The secret kept in ZIGGIE_HOME/NAME, made on first use and readable by its owner alone."""
    path = ZIGGIE_HOME / name
    if not path.exists():
        ZIGGIE_HOME.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(50))
        try:
            os.link(draft, path)  # two first starts at once agree on one secret: the first link wins
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()


SECRET_KEY = env.str("SECRET_KEY", default="") or (_generated_secret("secret_key") if DEBUG else "")
# Provider keys typed into the admin are encrypted with a key of their own, so that a leaked
# SECRET_KEY does not open them.
FIELD_ENCRYPTION_KEY = env.str("FIELD_ENCRYPTION_KEY", default="") or (
    _generated_secret("field_key") if DEBUG else SECRET_KEY
)
# Signs what is sent to callers' addresses (docs/operations.md).
CALLBACK_SECRET = env.str("CALLBACK_SECRET", default="") or (_generated_secret("callback_secret") if DEBUG else "")
# Where callbacks may go beside the public internet: networks such as 10.0.0.0/8.
CALLBACK_PRIVATE_NETWORKS: list[str] = env.list("CALLBACK_PRIVATE_NETWORKS", default=[])
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=[HOST, "127.0.0.1", "localhost", "[::1]"])
# Proxies (addresses or networks) whose X-Forwarded-For is believed; unset, whoever connects is the caller.
TRUSTED_PROXIES: list[str] = env.list("TRUSTED_PROXIES", default=[])
# Connections of clients that one process has open: in all and from one address; 0 is what the system allows, and half
# of that (docs/gateway.md).
MAX_CONNECTIONS = env.int("MAX_CONNECTIONS", default=0)
MAX_CONNECTIONS_PER_ADDRESS = env.int("MAX_CONNECTIONS_PER_ADDRESS", default=0)
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", default=[])
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = env.bool("HTTPS", default=False)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if SESSION_COOKIE_SECURE else None
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "dashboard"
LOGOUT_REDIRECT_URL = "login"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

# --- the database, the queue and the live layer ------------------------------------------------

DATABASE_URL = env.str("DATABASE_URL", default="")
REDIS_URL = env.str("REDIS_URL", default="")
WORKERS = env.int("WORKERS", default=2)


def _database() -> dict[str, Any]:
    if DATABASE_URL:
        config = database_settings(DATABASE_URL)
    else:
        from ziggie.embedded import connection_settings

        config = connection_settings(ZIGGIE_HOME)
    config["CONN_MAX_AGE"] = 60
    config["CONN_HEALTH_CHECKS"] = True
    return config


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# An analysis may walk a whole chain of slow local models; retry must outlast timeout.
TASK_TIMEOUT_SECONDS = 1800
Q_CLUSTER: dict[str, Any] = {
    "name": "ziggie",
    "workers": WORKERS,
    "timeout": TASK_TIMEOUT_SECONDS,
    "retry": TASK_TIMEOUT_SECONDS + 120,
    "max_attempts": 3,
    "ack_failures": True,
    "catch_up": False,
    "queue_limit": WORKERS * 2,
    "poll": 0.2,
    "save_limit": 1000,
    "max_rss": 600_000,
    "label": "Queue",
    **({"redis": REDIS_URL} if REDIS_URL else {"orm": "default"}),
}

CHANNEL_LAYERS: dict[str, Any] = {
    "default": (
        {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [REDIS_URL]}}
        if REDIS_URL
        else {"BACKEND": "ziggie.pglayer.PostgresChannelLayer"}
    )
}

# --- first seeding (after that the rows rule) --------------------------------------------------

SEED = {
    "ollama_base_url": env.str("OLLAMA_BASE_URL", default="http://localhost:11434"),
    "anthropic_base_url": env.str("ANTHROPIC_BASE_URL", default="https://api.anthropic.com"),
    "moonshot_base_url": env.str("MOONSHOT_BASE_URL", default="https://api.moonshot.ai/v1"),
    "openai_base_url": env.str("OPENAI_BASE_URL", default="https://api.openai.com/v1"),
    "strategy": env.str("LLM_STRATEGY", default="balanced"),
    "monthly_api_budget_usd": env.str("MONTHLY_API_BUDGET", default="10.00"),
    "kimi_enabled": env.bool("ENABLE_KIMI_K2", default=False),
}
# Which of these a provider uses is a column of its row (api_key_env); the values stay out of the database.
PROVIDER_API_KEYS = {name: value for name, value in os.environ.items() if name.endswith("_API_KEY") and value.strip()}

# --- the Django project ------------------------------------------------------------------------

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.forms",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "django.contrib.humanize",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "django_q",
    "ziggie",
    "routing",
    "knowledge",
    "agents",
    "monitoring",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "ziggie.middleware.ContentSecurityPolicyMiddleware",
]
ROOT_URLCONF = "ziggie.urls"
ASGI_APPLICATION = "ziggie.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "ziggie.pages.navigation",
            ]
        },
    }
]
STATIC_URL = "static/"
STATIC_ROOT = ZIGGIE_HOME / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
# The body of one upload; the transcript endpoint answers 413 above its own, lower limit.
DATA_UPLOAD_MAX_MEMORY_SIZE = 60 * 1024 * 1024

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "ziggie.auth.ApiKeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["ziggie.auth.IsStaffOrKey"],
    "DEFAULT_PAGINATION_CLASS": "ziggie.pagination.NewestFirstCursor",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["ziggie.inputs.WholeCharacters"],
    "DEFAULT_METADATA_CLASS": None,  # what an endpoint takes is said at /api/schema/
    "EXCEPTION_HANDLER": "ziggie.errors.rest_exception_handler",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Ziggie",
    "DESCRIPTION": "The control center that moves LLM work to local models and proves the saving.",
    "VERSION": "0.1.0",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SERVE_PERMISSIONS": ["ziggie.auth.IsStaffOrKey"],
    "SERVE_INCLUDE_SCHEMA": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "ziggie.openapi.describe_errors",
        "routing.gateway.wire.openapi.describe",
    ],
}
UNFOLD = {
    "SITE_TITLE": "Ziggie",
    "SITE_HEADER": "Ziggie",
    "SITE_SYMBOL": "alt_route",
    "SHOW_VIEW_ON_SITE": False,
    "SITE_DROPDOWN": [
        {"title": "Dashboard", "icon": "dashboard", "link": "/"},
        {"title": "Policies", "icon": "alt_route", "link": "/policies/"},
        {"title": "Receipts", "icon": "receipt_long", "link": "/usage/calls/"},
    ],
    "STYLES": [lambda request: static("admin.css")],
    "SCRIPTS": [lambda request: static("admin.js")],
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        # httpx2 logs each request's full address at INFO, which may carry a key.
        "httpx2": {"level": "WARNING"},
        "httpcore2": {"level": "WARNING"},
        "daphne": {"level": "WARNING"},
        "django": {"handlers": []},  # its own console handler would say everything twice
        "django-q": {"level": "WARNING"},
    },
}
