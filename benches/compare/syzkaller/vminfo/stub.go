// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

// Package vminfo stands in for syzkaller's, which the report package asks only for the addresses of modules.
package vminfo

// KernelModule is a loaded module.
type KernelModule struct {
	Name, Path string
	Addr, Size uint64
}
