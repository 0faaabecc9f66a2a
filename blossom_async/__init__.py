"""Pictures from AI models as URLs: an asyncio client, a batch engine and the gateway that owns the URLs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blossom_async.batch import Outcome, Progress, RateLimit, RetryPolicy
    from blossom_async.client import BlossomClient
    from blossom_async.errors import (
        BlossomError,
        ConfigurationError,
        Conflict,
        Gone,
        InvalidRequest,
        NotFound,
        NotRun,
        Overloaded,
        PaymentRequired,
        PermissionDenied,
        ProviderFailed,
        RateLimited,
        Rejected,
        ResponseError,
        ServerFailed,
        StaleConnection,
        TimedOut,
        TransportError,
        Unauthenticated,
    )
    from blossom_async.models import (
        Estimate,
        Explanation,
        ImageInfo,
        ImageOptions,
        ImagePage,
        ImageRequest,
        PreloadReport,
        PreloadResult,
        UrlStats,
    )
    from blossom_async.url_batch import BatchOptions, UrlBatch

__all__ = [
    "BatchOptions",
    "BlossomClient",
    "BlossomError",
    "ConfigurationError",
    "Conflict",
    "Estimate",
    "Explanation",
    "Gone",
    "ImageInfo",
    "ImageOptions",
    "ImagePage",
    "ImageRequest",
    "InvalidRequest",
    "NotFound",
    "NotRun",
    "Outcome",
    "Overloaded",
    "PaymentRequired",
    "PermissionDenied",
    "PreloadReport",
    "PreloadResult",
    "Progress",
    "ProviderFailed",
    "RateLimit",
    "RateLimited",
    "Rejected",
    "ResponseError",
    "RetryPolicy",
    "ServerFailed",
    "StaleConnection",
    "TimedOut",
    "TransportError",
    "Unauthenticated",
    "UrlBatch",
    "UrlStats",
]

_ROOMS = ("errors", "models", "batch", "url_batch", "client")  # the quickest to import first


def __getattr__(name: str) -> Any:
    # PEP 562: names load at first use, so that `blossom --help` need not wait for aiohttp.
    if name == "__version__":
        from importlib.metadata import version

        return version("blossom-async")
    if name in __all__:
        for room in _ROOMS:
            module = import_module(f"{__name__}.{room}")
            if name in module.__all__:
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
