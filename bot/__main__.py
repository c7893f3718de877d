"""`python -m bot`: one machine, one session."""

from bot.runtime import main

# A bot's own multiprocessing children import this module again, under another name.
if __name__ == "__main__":
    main()
