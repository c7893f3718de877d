import bot as the_bot  # the neighbour, not the runtime


def greeting() -> str:
    from bot import GREETING  # pyright: ignore[reportAttributeAccessIssue]

    assert the_bot.GREETING is GREETING  # pyright: ignore[reportAttributeAccessIssue]
    return GREETING
