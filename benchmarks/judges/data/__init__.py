"""What the judges were trained on: each module has the words of its prompts and draws a sample for a prompt."""
