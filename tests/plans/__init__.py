"""Golden plans: the plan of each stack as Markdown. A change of infrastructure shows as a readable diff.

`make plans` writes them anew.
"""
