"""`make drill`: faults are injected into the real service, and it has to say what is wrong within seconds."""
