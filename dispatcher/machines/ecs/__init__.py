"""The `ecs` provider: machines are Fargate tasks of Amazon ECS."""
