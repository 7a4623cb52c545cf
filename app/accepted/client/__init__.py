"""The client of the HTTP API: `Client` and `AsyncClient`, which programs import from `accepted`.

steps, exchange         requests, answers, pauses as values; which failures are tried again
jobs, events            the operations, each written once, without I/O
…_driver                what does the steps: one that blocks, one for an event loop
blocking, asynchronous  the public classes over them
fields, errors, options what they show, raise and take
"""
