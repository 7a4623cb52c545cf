"""Job types: registered over HTTP, looked up by tenant, compiled when needed, and payloads checked against them."""
