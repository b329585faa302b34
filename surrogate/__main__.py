"""``python -m surrogate`` is the command ``surrogate``."""

from .cli import main

if __name__ == "__main__":
    main()
