"""What an import loads, in an interpreter of its own."""

import json
import subprocess
import sys


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after `statement`, beside those that it starts with."""
    program = (
        f"import json, sys; before = {{*sys.modules}}\n{statement}\nprint(json.dumps([*({{*sys.modules}} - before)]))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(ran.stdout))
