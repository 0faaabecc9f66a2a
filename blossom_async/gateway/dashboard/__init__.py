"""The pages for people: pictures, campaigns, storage and errors. An API key opens them."""

from blossom_async.gateway.dashboard.site import Dashboard

__all__ = ["Dashboard"]
