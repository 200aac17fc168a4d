"""`python -m gptlite.cli`."""

from gptlite.cli.main import main

if __name__ == "__main__":
    main()
