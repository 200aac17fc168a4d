"""From text files to a trained run: plan, loop, state, resume."""
