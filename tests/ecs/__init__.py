"""A fake of Amazon ECS with Fargate, held to the AWS SDK's own model of the service.

Written from the ECS API reference and developer guide: "Request throttling for the Amazon ECS API", "AWS
Fargate throttling quotas", "Task lifecycle", "Ensuring idempotency" and "Stopped tasks error codes". Each
request and each answer is validated against botocore's service model.
"""
