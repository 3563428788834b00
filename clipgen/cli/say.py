"""What a command tells a person while it works."""


def say(line: str) -> None:
    """Print a line at once, also into a file or a pipe."""
    print(line, flush=True)
