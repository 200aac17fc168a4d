"""`python -m gptlite`: the one file of the library that looks up to the command line."""

from gptlite.cli.process import start

if __name__ == "__main__":
    start()
