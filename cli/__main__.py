"""`python -m gptlite.cli`."""

from gptlite.__main__ import main

if __name__ == "__main__":
    main()
