"""Every setting of contract section 2: its type, its default, its check.

The command line reads them once, at start, and passes them on; the domain never imports this module.
"""

import os
import re
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from accepted.domain.ids import MAX_ROOT, ROOT_PATTERN, is_own_path
from accepted.domain.network.addresses import EgressAllow, HostList, IPNetwork, read_networks
from accepted.domain.network.servers import ADDRESS, ADDRESS_OR_DOMAIN, MAX_ADDRESS, AmqpUrl, PostgresUrl, SmtpServer
from accepted.domain.network.signing import is_secret
from accepted.domain.network.urls import allowing_host_of
from accepted.environment import DOT_ENV, OF_CLIENTS, PREFIX, names_in_file
from accepted.errors import ConfigurationError, nearest

SECRETS = frozenset({"database_url", "broker_url", "webhook_secret", "alert_url", "smtp_url"})
"""Settings whose value may hold a password: it is never printed."""

LONGEST_RETENTION = 3660 * 86400.0
"""Seconds: ten years. PostgreSQL's intervals have a limit."""

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(value: object) -> object:
    if isinstance(value, str) and (found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value)):
        return float(found[1]) * _UNITS[found[2]]
    if isinstance(value, str):
        raise ValueError("must be a number of seconds, or like 45s, 30m, 12h, 7d")
    return value


def _comma_separated(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _off(value: object) -> object:
    return None if value == "off" else value


def _without_slash(value: object) -> object:
    return value.rstrip("/") if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]


class Settings(BaseSettings):
    """The settings of one process. Durations are seconds; `7d`, `12h`, `30m` and `45s` are also accepted."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=DOT_ENV, extra="ignore", frozen=True, env_ignore_empty=True
    )

    database_url: str | None = Field(None, description="postgresql://user:password@host/database")
    broker_url: str = Field("postgres", description="postgres, amqp://… or amqps://…, comma-separated for a cluster")
    handlers: Names = Field(("accepted_worker.handlers",), description="comma-separated Python modules")
    auth: Literal["required", "off"] = "required"
    dashboard: Literal["on", "off"] = "on"
    idempotency_key: Literal["optional", "required"] = "optional"
    idempotency_ttl: Seconds = Field(86400, ge=1, le=366 * 86400)
    max_body_bytes: int = Field(16 * 2**20, ge=1024)
    max_payload_bytes: int = Field(256 * 2**10, ge=64)
    max_result_bytes: int = Field(256 * 2**10, ge=1024)
    egress_allow: Annotated[EgressAllow, NoDecode] = Field(
        EgressAllow(), description="comma-separated networks and host names, e.g. 127.0.0.0/8"
    )
    webhook_secret: str | None = Field(None, description="whsec_ and the base64 of 24 to 64 bytes")
    smtp_url: Annotated[SmtpServer | None, NoDecode] = Field(
        None, description="smtp://user:password@host:587 (STARTTLS), smtps://… (TLS) or smtp+plain://host:25"
    )
    smtp_from: Annotated[str, Field(pattern=ADDRESS, max_length=MAX_ADDRESS)] | None = Field(
        None, description="an address, e.g. noreply@example.com"
    )
    smtp_from_allow: Annotated[
        tuple[Annotated[str, Field(pattern=ADDRESS_OR_DOMAIN, max_length=MAX_ADDRESS)], ...],
        NoDecode,
        BeforeValidator(_comma_separated),
    ] = Field((), description="comma-separated addresses and @domains, e.g. shop@example.com,@news.example.com")
    upload_space: int | None = Field(None, ge=2**20, description="bytes on disk, for all uploads of one API process")
    picture_memory: int | None = Field(None, ge=64 * 2**20, description="bytes, for all children of one worker")
    metadata_keys: Names = Field((), max_length=20, description="up to 20 comma-separated names, e.g. customer,order")
    retention: Seconds = Field(7 * 86400, ge=60, le=LONGEST_RETENTION)
    retention_failed: Seconds = Field(30 * 86400, ge=60, le=LONGEST_RETENTION)
    alert_url: str | None = Field(None, description="http:// or https:// without user-info")
    max_fanout_depth: int = Field(5, ge=0, le=1000)
    max_fanout_jobs: int = Field(10_000, ge=0, le=1_000_000)
    shutdown_grace: Seconds = Field(30, ge=0, le=3600)
    ack_within: Seconds = Field(600, ge=1)
    lease_ttl: Seconds = Field(30, ge=1, le=3600)
    blocked_limit: Annotated[float | None, Field(ge=1, le=3600), BeforeValidator(_seconds), BeforeValidator(_off)] = (
        Field(30, description="seconds, or off")
    )
    keep_alive: Seconds = Field(75, ge=1, le=3600)
    metrics_port: Annotated[int | None, Field(ge=1, le=65535), BeforeValidator(_off)] = Field(
        None, description="off, or a port"
    )
    root_path: Annotated[str, Field(max_length=MAX_ROOT), BeforeValidator(_without_slash)] = Field(
        "", pattern=f"^{ROOT_PATTERN}$", description="the prefix behind a proxy, e.g. /accepted"
    )
    trusted_proxies: Annotated[tuple[IPNetwork, ...], NoDecode] = Field(
        (), description="comma-separated networks, e.g. 10.0.0.0/8"
    )
    allowed_hosts: Annotated[HostList, NoDecode] = Field(
        HostList(), description="comma-separated host names and networks, without ports"
    )

    @field_validator("root_path")
    @classmethod
    def _is_no_own_path(cls, value: str) -> str:
        if is_own_path(value):
            raise ValueError("must not begin as a path of the service does")
        return value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _read_proxies(cls, value: object) -> object:
        return read_networks(value) if isinstance(value, str) else value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _read_hosts(cls, value: object) -> object:
        return HostList.parse(value) if isinstance(value, str) else value

    @field_validator("egress_allow", mode="before")
    @classmethod
    def _read_networks(cls, value: object) -> object:
        return EgressAllow.parse(value) if isinstance(value, str) else value

    @field_validator("smtp_url", mode="before")
    @classmethod
    def _read_smtp_url(cls, value: object) -> object:
        return SmtpServer.parse(value) if isinstance(value, str) else value

    @field_validator(*SECRETS, mode="before")
    @classmethod
    def _without_white_space(cls, value: object) -> object:
        """A secret that comes from a file often ends in a line break. (The last validator of this kind runs first.)"""
        return value.strip() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if not value.startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://")
        for path in PostgresUrl.parse(value).files:
            if not os.access(path, os.R_OK):
                raise ValueError(f"names the file {path}, which cannot be read")
        return value

    @field_validator("broker_url")
    @classmethod
    def _is_broker(cls, value: str) -> str:
        if value != "postgres" and not all(u.strip().startswith(("amqp://", "amqps://")) for u in value.split(",")):
            raise ValueError("must be postgres, or amqp:// or amqps:// URLs")
        for url in value.split(",") if value != "postgres" else ():
            AmqpUrl.parse(url.strip())
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _is_webhook_secret(cls, value: str | None) -> str | None:
        if value is not None and not is_secret(value):
            raise ValueError("must be whsec_ and the base64 of 24 to 64 bytes")
        return value

    @field_validator("alert_url")
    @classmethod
    def _is_alert_url(cls, value: str | None) -> str | None:
        if value is not None:
            allowing_host_of(value)
        return value

    @property
    def broker_urls(self) -> tuple[str, ...]:
        return tuple(url.strip() for url in self.broker_url.split(","))

    def require_database(self) -> str:
        if self.database_url is None:
            raise ConfigurationError(f"{PREFIX}DATABASE_URL is required, e.g. postgresql://user:password@host/accepted")
        return self.database_url


def load(**overrides: Any) -> Settings:
    """The settings from the environment and `.env`; `overrides` come from the command line and win."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        _explain(error)


def unknown() -> dict[str, str | None]:
    """The variables `ACCEPTED_…`, in the environment and in `.env`, that nothing reads; each with the nearest known."""
    known = {*Settings.model_fields, *OF_CLIENTS}
    given = [name.upper() for name in (*os.environ, *names_in_file())]
    names = [name.removeprefix(PREFIX).lower() for name in given if name.startswith(PREFIX)]
    found = {name: nearest(name, sorted(known)) for name in names if name not in known}
    return {PREFIX + name.upper(): near and PREFIX + near.upper() for name, near in found.items()}


def _explain(error: ValidationError) -> NoReturn:
    lines = []
    for one in error.errors():
        name = str(one["loc"][0])
        variable = PREFIX + name.upper()
        shown = "(hidden)" if name in SECRETS else repr(os.environ.get(variable, one["input"]))
        hint = Settings.model_fields[name].description
        reason = one["msg"].removeprefix("Value error, ")
        lines.append(f"{variable}={shown}: {reason}" + (f" ({hint})" if hint else ""))
    raise ConfigurationError("; ".join(lines)) from None
