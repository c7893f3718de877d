"""Parts that the providers at Google Cloud share: credentials, calls, and the meaning of errors."""
