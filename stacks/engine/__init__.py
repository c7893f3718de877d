"""The Pulumi engine: found or made (`find`, `build`), and driven through the Automation API (`drive`).

python -m stacks.engine up --stack local
"""
