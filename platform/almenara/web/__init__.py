"""The web: pages, API, WebSocket, probes."""
