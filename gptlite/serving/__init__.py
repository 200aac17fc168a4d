"""A model behind an address that speaks OpenAI's protocol. Needs the extra `serve`: starlette and uvicorn."""
