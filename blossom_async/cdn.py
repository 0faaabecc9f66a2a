"""The CDN in front of a gateway, and the URLs that pictures have under it."""

from __future__ import annotations

from typing import TypeVar

import attrs

from blossom_async.errors import ConfigurationError
from blossom_async.models import ImageInfo, ImageSettings
from blossom_async.transport import http_url

__all__ = ["Cdn", "without_cdn"]

Settings = TypeVar("Settings", bound=ImageSettings)

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def _prefix(value: str | None) -> str | None:
    if value is None:
        return None
    url = http_url(value, "cdn_prefix")
    if url.scheme != "https" and url.host not in _LOOPBACK:
        raise ConfigurationError(f"cdn_prefix: {value!r} is not https")
    return str(url).rstrip("/")


@attrs.frozen
class Cdn:
    """A client's CDN; ``prefix`` is what its URLs begin with, None if the client has no CDN.

    Raises ``ConfigurationError`` for a prefix that is not an https address.
    """

    prefix: str | None = attrs.field(converter=_prefix)

    def checked(self, settings: Settings) -> Settings:
        """The settings. Raises ``ConfigurationError`` if they need a CDN and there is none."""
        if settings.use_custom_cdn and self.prefix is None:
            raise ConfigurationError(
                "use_custom_cdn needs BlossomClient(cdn_prefix='https://cdn.example.com')"
            )
        return settings

    def serves(self, url: str) -> bool:
        """Whether a URL is under the prefix."""
        return self.prefix is not None and url.startswith(f"{self.prefix}/")

    def url(self, url: str) -> str:
        """The URL under the prefix for one of the gateway's ``/generated/`` URLs."""
        return f"{self.prefix}{url[url.rindex('/generated/') :]}"

    def placed(self, info: ImageInfo, settings: ImageSettings) -> ImageInfo:
        """The picture with its URL under the prefix, if the settings ask for that."""
        if not settings.use_custom_cdn:
            return info
        return attrs.evolve(info, url=f"{self.prefix}/generated/{info.id}.{info.format}")


def without_cdn(settings: Settings) -> Settings:
    """What the gateway is asked for: it does not know the client's CDN."""
    return attrs.evolve(settings, use_custom_cdn=False) if settings.use_custom_cdn else settings
