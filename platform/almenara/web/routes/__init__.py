"""The routes: pages, JSON API, sign-in, WebSocket and probes."""
