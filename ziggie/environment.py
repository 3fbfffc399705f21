"""Reads environment variables for the settings, and names the one that is wrong. Values are never repeated."""

from typing import Any
from urllib.parse import unquote

import environ

from ziggie.errors import ConfigurationError

# Of a server that has lost its power or its network nobody tells. Without these a page that is just being made waits
# for it for a quarter of an hour, an idle worker for two, and who connects for two minutes, or without end.
IF_SERVER_IS_LOST = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class Environment(environ.Env):  # type: ignore[misc]  # django-environ has no annotations
    """django-environ's reader, whose errors say which variable they are about."""

    def get_value(
        self, var: str, cast: Any = None, default: Any = environ.Env.NOTSET, parse_default: bool = False
    ) -> Any:
        try:
            return super().get_value(var, cast=cast, default=default, parse_default=parse_default)
        except ValueError as error:
            wanted = {int: "a whole number", float: "a number"}.get(cast, "readable")
            raise ConfigurationError(f"{var} in the environment or .env is not {wanted}.") from error


def database_settings(url: str) -> dict[str, Any]:
    """Django's DATABASES entry for DATABASE_URL. ConfigurationError for what is no PostgreSQL address."""
    problem = ConfigurationError(
        "DATABASE_URL is not a PostgreSQL address; it looks like postgres://user:password@host:5432/name "
        "(special characters in it percent-encoded)."
    )
    if not url.startswith(("postgres://", "postgresql://")):
        raise problem
    try:
        config: dict[str, Any] = dict(environ.Env.db_url_config(url))
    except (ValueError, KeyError) as error:
        raise problem from error
    if not config.get("NAME"):
        raise problem
    config["HOST"] = unquote(config["HOST"])  # a socket's folder is written %2Fvar%2Frun%2Fpostgresql
    config["OPTIONS"] = {**IF_SERVER_IS_LOST, **config.get("OPTIONS", {})}
    return config
