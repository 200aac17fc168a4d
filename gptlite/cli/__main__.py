"""`python -m gptlite.cli`."""

from gptlite.__main__ import start

if __name__ == "__main__":
    start()
