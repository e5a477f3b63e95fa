"""The Kubernetes API for plugins and `security`: rules, roles, client and list-watch."""
