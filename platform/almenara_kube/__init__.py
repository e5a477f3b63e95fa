"""The Kubernetes API for plugins and `security`: client, credentials, list-watch, rules, roles."""
