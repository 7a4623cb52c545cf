"""The dashboard: pages for people, at `/` and below `/ui` (docs/dashboard.md)."""
