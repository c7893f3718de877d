"""Webhooks to the deployment's own back end: what becomes of its sessions."""
