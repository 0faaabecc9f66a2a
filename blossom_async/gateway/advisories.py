"""Security advisories against installed packages that read untrusted bytes.

pyproject.toml also allows versions that are unsafe, so that other packages can be installed beside this one.
The gateway warns of unsafe ones at start, and runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version

import attrs

__all__ = ["ADVISORIES", "Advisory", "AdvisoryWarning", "advice"]


class AdvisoryWarning(UserWarning):
    """An installed package is known to be unsafe in the way this gateway uses it."""


@attrs.frozen
class Advisory:
    """A vulnerability in every version of ``package`` before ``fixed``."""

    package: str
    fixed: str
    names: str
    what: str
    decodes: bool = False  # concerns only gateways that decode pictures made elsewhere


ADVISORIES = (
    Advisory("aiohttp", "3.14.4", "GHSA-2g87-pp6c-29x5", "requests that use memory and CPU without bound"),
    Advisory("aiohttp", "3.14.5", "GHSA-5wr8-gcqf-gqf3", "connections that never send a request"),
    Advisory(
        "pillow",
        "13.0.0",
        "GHSA-8g5g-8vmr-9782 and GHSA-5x8w-8jj5-q52h",
        "JPEG files that overflow the decoder's memory",
        decodes=True,
    ),
)
"""Published by the packages' maintainers. Advisories about formats or functions that the gateway does not use
are left out."""


def advice(*, exposed: bool, decodes: bool) -> Iterator[str]:
    """A sentence for each advisory that concerns this gateway: the vulnerability, and what to install.

    ``exposed``: other machines or users can reach it. ``decodes``: it decodes files of a remote provider.
    """
    for advisory in ADVISORIES:
        if not (decodes if advisory.decodes else exposed):
            continue
        found = version(advisory.package)
        if _numbers(found) < _numbers(advisory.fixed):
            yield (
                f"{advisory.package} {found} is open to {advisory.what} ({advisory.names}); "
                f"install {advisory.package}>={advisory.fixed}"
            )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])
