"""The Pulumi programs, one package per cloud, and what drives them."""
