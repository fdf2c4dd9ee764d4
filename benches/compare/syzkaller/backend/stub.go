// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

// Package backend stands in for syzkaller's pkg/cover/backend, which the report package asks only for paths of sources.
package backend

import (
	"github.com/google/syzkaller/pkg/mgrconfig"
	"github.com/google/syzkaller/pkg/vminfo"
	"github.com/google/syzkaller/sys/targets"
)

// DiscoverModules is never called: there is no kernel object.
func DiscoverModules(*targets.Target, string, []string) ([]*vminfo.KernelModule, error) {
	return nil, nil
}

// CleanPath leaves the path as it is.
func CleanPath(path string, _ *mgrconfig.KernelDirs, _ []string) (string, string) {
	return path, path
}
