"""OpenTelemetry traces, by the semantic conventions of HTTP and messaging (docs/decisions/0030). Off unless a standard
OTEL_… variable names an exporter: then nothing of OpenTelemetry is loaded, and each place of a span costs a comparison.

`setup` turns it on, `http` has the spans of requests and of calls, `jobs` those of a job on its way.
"""
