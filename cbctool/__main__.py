"""``python -m cbctool``."""

from cbctool.cli import main

if __name__ == "__main__":
    main()
