"""The way to the dispatcher from outside: HTTPS, since browsers give a page a microphone over nothing else.

With a domain a public load balancer has its certificate. Without one CloudFront's own name leads to an
internal load balancer, through a VPC origin: no other address leads there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from stacks.aws.network import ANYWHERE

PORT = 7860
"""Port of the dispatcher, in its task."""

IDLE_SECONDS = 120
"""Idle timeout of a connection. Channels have a heartbeat at least every 60 s (`heartbeatSeconds`)."""

ORIGIN_SECONDS = 60
"""CloudFront's longest wait for a byte of an answer, without a raised quota. A start that waits for a bot
longer than this ends in a 504, and goes on: use `wait: none` or a reserve."""

TLS_POLICY = "ELBSecurityPolicy-TLS13-1-2-2021-06"

# CloudFront's managed policies, the same in all accounts (developer guide, "Use managed cache policies").
CACHING_DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
ALL_VIEWER = "216adef6-5c7f-47e4-b989-5492eafa07d3"


@dataclass(frozen=True)
class FrontArgs:
    prefix: str
    vpc_id: pulumi.Input[str]
    subnet_ids: Sequence[pulumi.Input[str]]
    domain: str
    """Public name; empty: CloudFront's own."""
    zone_id: str
    """Route 53's zone of the domain; empty: its records are printed."""
    certificate_arn: str
    """Certificate for the domain that exists; empty: one is made."""
    tags: Mapping[str, str]


class Front(pulumi.ComponentResource):
    """The load balancer, and the certificate or the distribution before it."""

    group: aws.ec2.SecurityGroup
    """The load balancer's, from which alone the dispatcher is reached."""
    targets: aws.lb.TargetGroup
    balancer: aws.lb.LoadBalancer
    url: pulumi.Output[str]
    records: pulumi.Output[list[str]] | None
    """DNS records that the domain needs."""
    listening: list[pulumi.Resource]
    """What a service of the target group must wait for."""

    def __init__(self, name: str, args: FrontArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:aws:Front", name, None, opts)
        self._name, self._args = name, args
        self._within = pulumi.ResourceOptions(parent=self)
        self.records = None
        self.group = aws.ec2.SecurityGroup(
            f"{name}-group",
            description="Switchboard: the dispatcher's load balancer",
            vpc_id=args.vpc_id,
            tags=args.tags,
            opts=self._within,
        )
        aws.vpc.SecurityGroupEgressRule(
            f"{name}-out",
            security_group_id=self.group.id,
            description="To the dispatcher",
            ip_protocol="-1",
            cidr_ipv4=ANYWHERE,
            tags=args.tags,
            opts=self._within,
        )
        for port in (80, 443) if args.domain else (80,):
            # Without a domain the load balancer has no public address: this is CloudFront's way in.
            aws.vpc.SecurityGroupIngressRule(
                f"{name}-in-{port}",
                security_group_id=self.group.id,
                description="Callers, pages and bots" if args.domain else "CloudFront's VPC origin",
                ip_protocol="tcp",
                from_port=port,
                to_port=port,
                cidr_ipv4=ANYWHERE,
                tags=args.tags,
                opts=self._within,
            )
        self.balancer = aws.lb.LoadBalancer(
            f"{name}-balancer",
            load_balancer_type="application",
            internal=not args.domain,
            security_groups=[self.group.id],
            subnets=args.subnet_ids,
            idle_timeout=IDLE_SECONDS,
            drop_invalid_header_fields=True,
            tags=args.tags,
            opts=self._within,
        )
        self.targets = aws.lb.TargetGroup(
            f"{name}-targets",
            port=PORT,
            protocol="HTTP",
            target_type="ip",
            vpc_id=args.vpc_id,
            # A dispatcher that drains says so by /readyz, and gives its last answers within this time.
            deregistration_delay=30,
            load_balancing_algorithm_type="least_outstanding_requests",
            health_check=aws.lb.TargetGroupHealthCheckArgs(
                path="/readyz",
                interval=10,
                timeout=5,
                healthy_threshold=2,
                unhealthy_threshold=2,
                matcher="200",
            ),
            tags=args.tags,
            opts=self._within,
        )
        if args.domain:
            self._with_domain()
        else:
            self._behind_cloudfront()
        self.register_outputs({})

    def _with_domain(self) -> None:
        name, args = self._name, self._args
        certificate = pulumi.Output.from_input(args.certificate_arn or self._certificate())
        listener = aws.lb.Listener(
            f"{name}-https",
            load_balancer_arn=self.balancer.arn,
            port=443,
            protocol="HTTPS",
            ssl_policy=TLS_POLICY,
            certificate_arn=certificate,
            default_actions=[self._forward()],
            tags=args.tags,
            opts=self._within,
        )
        redirect = aws.lb.ListenerDefaultActionRedirectArgs(
            port="443", protocol="HTTPS", status_code="HTTP_301"
        )
        aws.lb.Listener(
            f"{name}-http",
            load_balancer_arn=self.balancer.arn,
            port=80,
            protocol="HTTP",
            default_actions=[aws.lb.ListenerDefaultActionArgs(type="redirect", redirect=redirect)],
            tags=args.tags,
            opts=self._within,
        )
        if args.zone_id:
            aws.route53.Record(
                f"{name}-name",
                zone_id=args.zone_id,
                name=args.domain,
                type="A",
                aliases=[
                    aws.route53.RecordAliasArgs(
                        name=self.balancer.dns_name,
                        zone_id=self.balancer.zone_id,
                        evaluate_target_health=False,
                    )
                ],
                opts=self._within,
            )
        else:
            leads = self.balancer.dns_name.apply(lambda dns: [f"{args.domain} CNAME {dns}"])
            known = self.records
            self.records = (
                leads
                if known is None
                else pulumi.Output.all(known, leads).apply(lambda both: [*both[0], *both[1]])
            )
        self.url = pulumi.Output.from_input(f"https://{args.domain}")
        self.listening = [listener]

    def _certificate(self) -> pulumi.Output[str]:
        """Describe a certificate; return its ARN, once it is valid."""
        name, args = self._name, self._args
        certificate = aws.acm.Certificate(
            f"{name}-certificate",
            domain_name=args.domain,
            validation_method="DNS",
            tags=args.tags,
            opts=self._within,
        )
        wanted = certificate.domain_validation_options[0]
        proof: list[pulumi.Resource] = []
        if args.zone_id:
            proof = [
                aws.route53.Record(
                    f"{name}-certificate-proof",
                    zone_id=args.zone_id,
                    name=wanted.resource_record_name,
                    type=wanted.resource_record_type,
                    records=[wanted.resource_record_value],
                    ttl=300,
                    allow_overwrite=True,
                    opts=self._within,
                )
            ]
        else:
            self.records = pulumi.Output.all(
                wanted.resource_record_name, wanted.resource_record_type, wanted.resource_record_value
            ).apply(lambda parts: [" ".join(parts)])
            # Said now: the run waits for the record, and its outputs come at its end.
            self.records.apply(
                lambda records: pulumi.log.info(
                    f"add the DNS record, for which the certificate waits: {records[0]}"
                )
            )
        return aws.acm.CertificateValidation(
            f"{name}-certificate-valid",
            certificate_arn=certificate.arn,
            opts=pulumi.ResourceOptions(parent=self, depends_on=proof),
        ).certificate_arn

    def _behind_cloudfront(self) -> None:
        name, args = self._name, self._args
        listener = aws.lb.Listener(
            f"{name}-http",
            load_balancer_arn=self.balancer.arn,
            port=80,
            protocol="HTTP",
            default_actions=[self._forward()],
            tags=args.tags,
            opts=self._within,
        )
        origin = aws.cloudfront.VpcOrigin(
            f"{name}-origin",
            vpc_origin_endpoint_config=aws.cloudfront.VpcOriginVpcOriginEndpointConfigArgs(
                name=args.prefix,
                arn=self.balancer.arn,
                http_port=80,
                https_port=443,
                # Inside the VPC.
                origin_protocol_policy="http-only",
                origin_ssl_protocols=aws.cloudfront.VpcOriginVpcOriginEndpointConfigOriginSslProtocolsArgs(
                    items=["TLSv1.2"], quantity=1
                ),
            ),
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[listener]),
        )
        distribution = aws.cloudfront.Distribution(
            f"{name}-distribution",
            comment=f"Switchboard {args.prefix}",
            enabled=True,
            http_version="http2and3",
            is_ipv6_enabled=True,
            origins=[
                aws.cloudfront.DistributionOriginArgs(
                    origin_id="dispatcher",
                    domain_name=self.balancer.dns_name,
                    vpc_origin_config=aws.cloudfront.DistributionOriginVpcOriginConfigArgs(
                        vpc_origin_id=origin.id,
                        origin_keepalive_timeout=ORIGIN_SECONDS,
                        origin_read_timeout=ORIGIN_SECONDS,
                    ),
                )
            ],
            default_cache_behavior=aws.cloudfront.DistributionDefaultCacheBehaviorArgs(
                target_origin_id="dispatcher",
                viewer_protocol_policy="redirect-to-https",
                allowed_methods=["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"],
                cached_methods=["GET", "HEAD"],
                cache_policy_id=CACHING_DISABLED,
                # All headers as they come, with the name that the caller used: WebSockets and keys need them.
                origin_request_policy_id=ALL_VIEWER,
                # An event stream's lines are not to wait for a block of them.
                compress=False,
            ),
            restrictions=aws.cloudfront.DistributionRestrictionsArgs(
                geo_restriction=aws.cloudfront.DistributionRestrictionsGeoRestrictionArgs(
                    restriction_type="none"
                )
            ),
            viewer_certificate=aws.cloudfront.DistributionViewerCertificateArgs(
                cloudfront_default_certificate=True
            ),
            tags=args.tags,
            opts=self._within,
        )
        self.url = pulumi.Output.concat("https://", distribution.domain_name)
        self.listening = [listener]

    def _forward(self) -> aws.lb.ListenerDefaultActionArgs:
        return aws.lb.ListenerDefaultActionArgs(type="forward", target_group_arn=self.targets.arn)
