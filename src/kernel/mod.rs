// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernels under test: source, variant (patch), configuration, build, and the cache of what was built.
//!
//! A kernel is identified by a hash over everything that goes into it; one that is in the cache is found without
//! running make. There is one source tree a source version and one object tree a configuration of it, so that going
//! from one variant to the next compiles only what the two patches touch. The same for a tree of the user's
//! ([`TreeRequest`]), of which the cache has a checkout.

mod build;
mod config;
mod definitions;
mod error;
mod functions;
mod git;
mod ground;
mod image;
mod layer;
mod make;
mod module;
mod mutant;
mod name;
mod outline;
mod points;
mod ready;
mod repository;
mod series;
mod snapshot;
mod source;
mod target;
mod tree;
mod variant;
mod work;

pub use build::{BuiltKernel, Kernels, Listed, OutOfLine, built_symbols};
pub use config::Config;
pub use error::KernelError;
pub use functions::{Absence, Functions, Presence, TableError, Untraceable};
pub use image::ImageError;
pub use module::PF_FILE;
pub use mutant::{Mutant, Seen};
pub use name::KernelName;
pub use points::{KnownFunction, POINTS, Scope, known};
pub use ready::ReadyRequest;
pub use series::{PatchRequest, Series, SeriesPatch};
pub use snapshot::{Revision, TreeRequest};
pub use source::{Source, unpacked_sources};
pub use variant::{Manifest, ManifestError, Variant};
