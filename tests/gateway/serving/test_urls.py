"""Which picture a path is of, and in which width."""

from __future__ import annotations

from blossom_async.gateway.serving.urls import picture_url


def test_an_id_that_begins_as_a_width_does() -> None:
    """Only the width after the id is taken out."""
    image_id = "w640AAAAAAAAAAAAAAAAAA"
    found = picture_url(path := f"/image/{image_id}/w640", path)
    assert (found.path, found.width) == (f"/image/{image_id}", 640)
