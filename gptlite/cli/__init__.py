"""The command line of gptlite: reads options, calls the library, shows what it returns."""
