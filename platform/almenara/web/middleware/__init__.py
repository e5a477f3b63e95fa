"""ASGI middleware, one concern a module, in the order in which `web.app` stacks it.

Pure ASGI around the framework, because a check that runs after routing misses what routing refuses,
and a check for HTTP alone misses the WebSocket.
"""
