// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

// Package vcs stands in for syzkaller's, which the report package asks only for the addresses of maintainers.
package vcs

import "net/mail"

// RecipientInfo is one address.
type RecipientInfo struct{ Address mail.Address }

// Recipients are addresses.
type Recipients []RecipientInfo

// ParseMaintainersLinux is never called: there is no kernel source.
func ParseMaintainersLinux([]byte) Recipients { return nil }
