"""The intake: signals that senders push over HTTP.

Each intake of the configuration is one sender with limits of its own. A request is answered once
its signals are durable, all of them or none.
"""
