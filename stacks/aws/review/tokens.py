"""Pulumi's type tokens of AWS resources that a review looks at."""

from __future__ import annotations

DISTRIBUTION = "aws:cloudfront/distribution:Distribution"
ROLE, POLICY = "aws:iam/role:Role", "aws:iam/rolePolicy:RolePolicy"
ATTACHMENT = "aws:iam/rolePolicyAttachment:RolePolicyAttachment"
GROUP, OLD_RULE = "aws:ec2/securityGroup:SecurityGroup", "aws:ec2/securityGroupRule:SecurityGroupRule"
DEFAULT_GROUP = "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
EGRESS = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
BALANCER, LISTENER = "aws:lb/loadBalancer:LoadBalancer", "aws:lb/listener:Listener"
SERVICE, DEFINITION = "aws:ecs/service:Service", "aws:ecs/taskDefinition:TaskDefinition"
SECRET_TYPE, PARAMETER = "aws:secretsmanager/secret:Secret", "aws:ssm/parameter:Parameter"
DATABASE, ENDPOINT = "aws:rds/instance:Instance", "aws:ec2/vpcEndpoint:VpcEndpoint"
CONNECTION = "aws:cloudwatch/eventConnection:EventConnection"
REPOSITORY, LOG = "aws:ecr/repository:Repository", "aws:cloudwatch/logGroup:LogGroup"
CERTIFICATE = "aws:acm/certificate:Certificate"
LOGIN = "aws:ecr/getAuthorizationToken:getAuthorizationToken"
