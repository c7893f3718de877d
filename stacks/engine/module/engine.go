//go:build engine

// Package engine names the one package that is built here, so that go.mod and go.sum pin it and all it needs.
package engine

import _ "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
