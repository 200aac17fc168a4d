"""Pages for a browser, made of arrays and text: a side room that no other room needs, with libraries of its own."""
