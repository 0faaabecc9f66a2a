"""Tells the owner of a picture how a viewer would be answered, and which rule decides."""

from __future__ import annotations

import re
from datetime import datetime

from blossom_async.errors import InvalidRequest, ResponseError, shown
from blossom_async.gateway.http.addresses import client_address
from blossom_async.gateway.serving.access import Viewer
from blossom_async.gateway.serving.gatekeeper import Gatekeeper
from blossom_async.gateway.serving.urls import picture_url
from blossom_async.gateway.storage.records import ImageRecord
from blossom_async.models import FORMATS, IMAGE_ID, WIDTH, ExplainRequest, Explanation

__all__ = ["explain"]

_PATH_AT_END = re.compile(  # below whatever folder a proxy or CDN puts it
    rf"/(?:image/|generated/(?=[0-9A-Za-z/]+\.))(?P<id>{IMAGE_ID})(?:{WIDTH})?(?:\.(?:{'|'.join(FORMATS)}|auto))?$",
    re.ASCII,
)


async def explain(
    gatekeeper: Gatekeeper, record: ImageRecord, asked: ExplainRequest, now: datetime
) -> Explanation:
    """The status that the viewer in ``asked`` would get at that time, and why.

    Raises ``InvalidRequest`` for a URL that is not this picture's, or an invalid address.
    """
    path, mark, query = asked.url.partition("#")[0].partition("?")
    found = _PATH_AT_END.search(path)
    if found is None or found["id"] != record.id:
        raise InvalidRequest("url", asked.url, f"a URL of this picture, such as /image/{record.id}")
    address = client_address(asked.address, (), ())
    if asked.address is not None and address is None:
        raise InvalidRequest("address", asked.address, "an IPv4 or IPv6 address")

    async def viewer() -> Viewer:
        return Viewer(
            address=address,
            authorization_tenant=record.tenant if asked.authorized else None,
            origins=[asked.origin] if asked.origin is not None else [],
            referers=[asked.referer] if asked.referer is not None else [],
        )

    try:
        url = picture_url(found[0], f"{found[0]}{mark}{query}")
        await gatekeeper.admit(url, viewer, now)
    except ResponseError as exc:
        return Explanation(status=exc.status, code=exc.code, detail=_owners_detail(exc, record, asked))
    return Explanation(status=200, code="ok", detail="Every rule of this picture lets this viewer in.")


def _owners_detail(refused: ResponseError, record: ImageRecord, asked: ExplainRequest) -> str:
    """What strangers are not told: which rule refused, and what it was compared with."""
    request = record.request
    if refused.code == "address_not_allowed":
        rules = ", ".join(request.ip_whitelist or ())
        return f"ip_whitelist allows {rules}; the viewer's address is {asked.address or 'not known'}."
    if refused.code == "site_not_allowed":
        rules = ", ".join(request.allowed_domains or ())
        sent = f"Origin {shown(asked.origin)} and Referer {shown(asked.referer)}"
        return f"allowed_domains allows {rules}; the viewer sends {sent}, and each that is sent must match."
    if refused.code == "bad_signature" and "?" not in asked.url:
        return "require_signature is set and the URL has no signature; give out signed URLs."
    return refused.detail
