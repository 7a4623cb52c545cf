"""`python -m workers` is `accepted worker`."""

from app.cli import main

if __name__ == "__main__":
    main(["worker"])
