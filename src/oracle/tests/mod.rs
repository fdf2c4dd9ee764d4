// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
mod additions;
mod console;
mod corpus;
mod deadlock;
mod expect;
mod measured;
mod races;
mod reading;
mod verdict;
