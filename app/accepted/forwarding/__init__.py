"""`accepted forward`: takes jobs out of the outbox of a caller's database, and submits them over HTTP."""
