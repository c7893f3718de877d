"""Schemathesis against a real dispatcher: requests made from the OpenAPI document, good and bad."""
