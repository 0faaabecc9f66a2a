"""Pages a person looks at: pictures, campaigns, storage and errors. Without a script, behind an API key."""

from blossom_async.gateway.dashboard.site import Dashboard

__all__ = ["Dashboard"]
