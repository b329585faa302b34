"""``python -m diffsim`` is the command ``diffsim``."""

from .cli import main

if __name__ == "__main__":
    main()
