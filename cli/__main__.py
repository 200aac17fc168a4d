"""`python -m gptlite.cli`."""

from gptlite.cli.process import start

if __name__ == "__main__":
    start()
