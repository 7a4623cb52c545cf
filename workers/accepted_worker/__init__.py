"""The processes that run jobs and move them on. Handler modules import `accepted` alone."""
