"""The cloud `aws` for a reviewer: permissions, openings, secrets and idle cost of its resources."""

from stacks.aws.review.cloud import AwsReview

__all__ = ["AwsReview"]
