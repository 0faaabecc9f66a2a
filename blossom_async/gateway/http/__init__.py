"""HTTP for every route: errors, connections and their limits, client addresses, metrics, readiness."""
