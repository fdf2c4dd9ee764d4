// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
pub(crate) mod fake;
mod kill;
mod merging;
mod planning;
mod shards;
mod storing;
mod tables;
