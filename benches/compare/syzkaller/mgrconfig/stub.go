// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

// Package mgrconfig has what the report package asks of syzkaller's configuration when there is no kernel to symbolize
// with: nothing but the target. The real one brings in every VM type and its dependencies.
package mgrconfig

import (
	"github.com/google/syzkaller/pkg/vminfo"
	"github.com/google/syzkaller/sys/targets"
)

// Derived is the part of the configuration that is worked out.
type Derived struct {
	TargetOS, TargetArch, TargetVMArch string
	SysTarget                          *targets.Target
	LocalModules                       []*vminfo.KernelModule
}

// Config is a configuration without a kernel.
type Config struct {
	Derived
	Type, KernelObj                  string
	ModuleObj                        []string
	Ignores, Interests, Suppressions []string
}

// KernelDirs says where the kernel lies: nowhere.
type KernelDirs struct{ Src, Obj, BuildSrc string }

// KernelDirs returns empty paths.
func (*Config) KernelDirs() *KernelDirs { return &KernelDirs{} }
