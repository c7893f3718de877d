"""Variables of containers that nobody else is to see: in Secrets Manager, or in SSM's Parameter Store.

Secrets Manager has one secret with all variables of a container ($0.40 a month). The Parameter Store has one
SecureString for each, which is free up to 4 KiB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pulumi
import pulumi_aws as aws

SecretStore = Literal["secretsmanager", "ssm"]


@dataclass(frozen=True)
class ContainerSecretsArgs:
    prefix: str
    """First part of parameters' names, such as /switchboard/prod/echo."""
    store: SecretStore
    values: Mapping[str, pulumi.Input[str]]
    """Variable → value."""
    tags: Mapping[str, str] = field(default_factory=dict)


class ContainerSecrets(pulumi.ComponentResource):
    """The variables of one container, and where ECS finds each."""

    references: dict[str, pulumi.Output[str]]
    """Variable → `valueFrom` of a container definition."""
    secrets: Sequence[pulumi.Output[str]]
    """ARNs in Secrets Manager."""
    parameters: Sequence[pulumi.Output[str]]
    """ARNs in SSM."""
    written: Sequence[pulumi.Resource]
    """What must be there before a task starts."""

    def __init__(
        self, name: str, args: ContainerSecretsArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("switchboard:aws:ContainerSecrets", name, None, opts)
        self.references, self.secrets, self.parameters, self.written = {}, [], [], []
        within = pulumi.ResourceOptions(parent=self)
        if args.store == "ssm":
            made = {
                variable: aws.ssm.Parameter(
                    f"{name}-{variable.lower().replace('_', '-')}",
                    name=f"{args.prefix}/{variable}",
                    type="SecureString",
                    value=pulumi.Output.secret(value),
                    tags=args.tags,
                    opts=within,
                )
                for variable, value in sorted(args.values.items())
            }
            self.references = {variable: one.arn for variable, one in made.items()}
            self.parameters = list(self.references.values())
            self.written = list(made.values())
        elif args.values:
            secret = aws.secretsmanager.Secret(
                name,
                description=f"Variables of the container {args.prefix}",
                # Its values come from whoever runs the engine: nothing is lost with it.
                recovery_window_in_days=0,
                tags=args.tags,
                opts=within,
            )
            version = aws.secretsmanager.SecretVersion(
                f"{name}-values",
                secret_id=secret.id,
                secret_string=pulumi.Output.secret(
                    pulumi.Output.json_dumps(dict(args.values), sort_keys=True)
                ),
                opts=within,
            )
            # `ARN:key:stage:version` with neither stage nor version: what is there when a task starts.
            self.references = {
                one: pulumi.Output.concat(secret.arn, f":{one}::") for one in sorted(args.values)
            }
            self.secrets, self.written = [secret.arn], [version]
        self.register_outputs({})
