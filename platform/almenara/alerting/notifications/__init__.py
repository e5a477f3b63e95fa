"""Notifications: from alerts on the bus to receivers, grouped, routed and delivered at least once.

`dispatcher` follows the bus, `groups` decides who is notified of what and when, `store` makes that
durable, and `worker` delivers it through the notifiers of plugins.
"""
