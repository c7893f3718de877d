"""`python -m bot`: one machine, one session."""

# A bot's own multiprocessing children import this module again, under another name.
if __name__ == "__main__":
    import gc

    # Imports leave no garbage; `bot.session` lets the collector run once the bot is loaded.
    gc.disable()

    from bot.runtime import main

    main()
