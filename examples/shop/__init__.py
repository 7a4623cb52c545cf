"""A shop that submits jobs in its own transaction, runs them in steps, and is told by webhooks."""
