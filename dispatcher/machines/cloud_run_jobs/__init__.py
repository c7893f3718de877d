"""The `cloud-run-jobs` provider."""
