"""The SDKs' modules that our programs use, loaded.

Both SDKs load a module when a program first uses something of it, which takes longer than all else that a
recorded program does: what programs are forked from imports this.
"""

from __future__ import annotations

import pulumi_aws as aws
import pulumi_gcp as gcp

for module in (
    *(aws.cloudfront, aws.cloudwatch, aws.ec2, aws.ecr, aws.ecs, aws.iam, aws.lb, aws.rds),
    *(aws.secretsmanager, aws.vpc),
    *(gcp.artifactregistry, gcp.cloudrunv2, gcp.compute, gcp.monitoring, gcp.organizations, gcp.projects),
    *(gcp.secretmanager, gcp.serviceaccount, gcp.sql),
):
    # Any name but a few, such as __name__ and __doc__, has it loaded.
    getattr(module, "__all__", None)
