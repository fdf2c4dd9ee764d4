// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong on the way to a kernel.

use std::path::PathBuf;

use super::ManifestError;
use super::functions::TableError;
use super::image::ImageError;
use super::make::Lack;
use crate::arch::Arch;
use crate::exit::ExitCode;
use crate::host::HostError;
use crate::host::command::indented;

/// There is no such kernel, or it could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Not the form of a kernel's name.
    #[error("`{name}` is not the name of a kernel")]
    Name {
        /// As given.
        name: String,
    },
    /// The manifest does not have it.
    #[error("there is no kernel variant `{name}`")]
    UnknownVariant {
        /// As given.
        name: String,
        /// Those that there are, without the mutants.
        known: Vec<String>,
    },
    /// The last of a range does not come after its first.
    #[error("`{name}` is no range of kernel variants: its end is not behind its beginning")]
    Range {
        /// As given.
        name: String,
    },
    /// guest-tests/variants/variants.toml is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The patch does not fit the source.
    #[error("{patch} does not apply to {onto}{output}", output = indented(output))]
    PatchDoesNotApply {
        /// What the patch is called; of a series also which it is.
        patch: String,
        /// The source, `linux-source-7.2`, and the patches that are on it already.
        onto: String,
        /// What git said, and the hunk that it refused.
        output: String,
    },
    /// The configuration came out without options that are wanted.
    #[error("the kernel's configuration lacks{}", indented(&missing.join("\n")))]
    Config {
        /// As `CONFIG_X=y`.
        missing: Vec<String>,
        /// The user's file, if it is from one.
        own: Option<PathBuf>,
    },
    /// A configuration of the user's is none.
    #[error("{path} is no kernel configuration: {why}", path = path.display())]
    OwnConfig {
        /// The file.
        path: PathBuf,
        /// In a sentence.
        why: String,
    },
    /// A kernel that is built already lacks something.
    #[error("{path}: {why}", path = path.display())]
    Ready {
        /// What it is about.
        path: PathBuf,
        /// In a sentence.
        why: String,
    },
    /// A directory is not a kernel tree that can be built.
    #[error("{dir} is no kernel tree to build: {why}", dir = dir.display())]
    Tree {
        /// As given.
        dir: PathBuf,
        /// In a sentence.
        why: String,
    },
    /// A tree has no such commit.
    #[error("{dir} has no commit `{commit}`", dir = dir.display())]
    NoCommit {
        /// The tree.
        dir: PathBuf,
        /// As given.
        commit: String,
    },
    /// A patch of the user's cannot be used.
    #[error("the patch {from} cannot be used: {why}")]
    Patch {
        /// As given.
        from: String,
        /// In a sentence.
        why: String,
    },
    /// The name that the kernel of a patch would have is another's.
    #[error("the kernel of the patch {from} would be called `{name}`, as another one is")]
    NameTaken {
        /// As given.
        from: String,
        /// The name.
        name: String,
    },
    /// A name means the state of a tree that was not asked for.
    #[error("the kernel `{name}` is put on a tree that is not given")]
    NoTree {
        /// The kernel.
        name: String,
    },
    /// The kernel does not compile.
    #[error("{what} does not build ({status}); the whole log is {log}{tail}", tail = indented(tail), log = log.display())]
    Make {
        /// Kernel or module.
        what: String,
        /// How make ended.
        status: String,
        /// The log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// The guest module does not compile against the kernel, which itself was built: that says more about the module than
    /// about the kernel.
    #[error("{failure}")]
    Module {
        /// What make said.
        failure: Box<KernelError>,
    },
    /// The guest module's sources are not there.
    #[error("{path} has no Kbuild file: the guest module cannot be built", path = path.display())]
    NoModule {
        /// The directory.
        path: PathBuf,
    },
    /// This machine has no compiler for such guests.
    #[error("kernels for {guest} are built on x86_64, and this machine is {host}")]
    Architecture {
        /// The guest's.
        guest: Arch,
        /// This machine's.
        host: &'static str,
    },
    /// Something that was asked for is there for other guests only.
    #[error("{what} is not there for guests of {arch}")]
    NotFor {
        /// What.
        what: &'static str,
        /// The guest's.
        arch: Arch,
    },
    /// The functions of a kernel cannot be read from what was built.
    #[error("cannot read the functions of {path}", path = path.display())]
    Image {
        /// The vmlinux.
        path: PathBuf,
        /// Why.
        source: ImageError,
    },
    /// A table of functions in the cache is broken.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The machine.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl KernelError {
    /// How the process ends with this error: a kernel that does not build says nothing about the kernel (125).
    pub fn exit(&self) -> ExitCode {
        match self {
            KernelError::Name { .. }
            | KernelError::UnknownVariant { .. }
            | KernelError::Range { .. }
            | KernelError::OwnConfig { .. }
            | KernelError::Ready { .. }
            | KernelError::Tree { .. }
            | KernelError::NoCommit { .. }
            | KernelError::NoTree { .. }
            | KernelError::Patch { .. }
            | KernelError::NameTaken { .. }
            | KernelError::NotFor { .. }
            | KernelError::Manifest(_) => ExitCode::Usage,
            KernelError::Make { tail, .. } if Lack::told_by(tail).is_some() => {
                ExitCode::Infrastructure
            }
            KernelError::PatchDoesNotApply { .. }
            | KernelError::Config { .. }
            | KernelError::Make { .. } => ExitCode::CannotTell,
            KernelError::Module { failure } => failure.exit(),
            KernelError::NoModule { .. }
            | KernelError::Architecture { .. }
            | KernelError::Image { .. }
            | KernelError::Table(_) => ExitCode::Infrastructure,
            KernelError::Host(e) => e.exit(),
        }
    }

    /// What to do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            KernelError::Name { .. } => {
                Some("a name is VARIANT[+FRAGMENT][@SOURCE], as in base, v7, v7@7.3 or v7+rt".to_owned())
            }
            KernelError::UnknownVariant { known, .. } => {
                Some(format!("known are {}, and the mutants that `vfrace kernel list` shows; add yours to guest-tests/variants/variants.toml", known.join(", ")))
            }
            KernelError::Range { .. } => {
                Some("`vfrace kernel list` shows them in their order, e.g. v5..v7".to_owned())
            }
            KernelError::Manifest(_) => Some("see the comment at the top of guest-tests/variants/variants.toml".to_owned()),
            KernelError::PatchDoesNotApply { .. } => {
                Some("bring it up to date with that source, or put it on a variant with --patch-on; of a variant, `vfrace kernel show` says which sources it was tried on".to_owned())
            }
            KernelError::Config { own: Some(own), .. } => {
                Some(format!("add these lines to {}; one that is there already has a dependency that is off", own.display()))
            }
            KernelError::Ready { .. } => {
                Some("--modules wants /lib/modules/RELEASE of that image, with `build` pointing to its headers or object tree".to_owned())
            }
            KernelError::OwnConfig { .. } => {
                Some("give a .config, as `make menuconfig` writes it".to_owned())
            }
            KernelError::Tree { .. } => {
                Some("give the top directory of a kernel's git tree or unpacked source; of a bare repository also --commit".to_owned())
            }
            KernelError::NoCommit { .. } => {
                Some("`git log` shows the commits; one of another repository must be fetched first".to_owned())
            }
            KernelError::Patch { .. } => {
                Some("a patch is a diff, a mail, a mailbox, a directory of them, `-`, or a range of commits A..B".to_owned())
            }
            KernelError::NameTaken { .. } => {
                Some("give the file another name: the kernel is called after it".to_owned())
            }
            KernelError::NoTree { .. } => {
                Some("give the tree with --linux DIR, and names without @SOURCE go onto it".to_owned())
            }
            KernelError::Config { .. } => {
                Some("an option with a dependency that is off vanishes: add the dependency to guest-tests/kconfig".to_owned())
            }
            KernelError::Make { tail, .. } => Lack::told_by(tail).map(|lack| {
                match lack {
                    Lack::Disk => "the disk is full: free some space, or set VFRACE_CACHE to a larger disk",
                    Lack::Memory => "a compiler or linker ran out of memory: end other programs, or build with fewer CPUs (taskset)",
                }
                .to_owned()
            }),
            KernelError::Module { failure } => Some(failure.hint().unwrap_or_else(|| {
                "the kernel itself is built; vfrace's own module does not know this version or configuration of it: see guest-tests/module".to_owned()
            })),
            KernelError::Architecture { .. } => None,
            KernelError::NotFor { .. } => Some("leave out --arch, or build that kernel with --linux".to_owned()),
            KernelError::Image { .. } => {
                Some("remove the object tree under build/ in the cache, and build again".to_owned())
            }
            KernelError::Table(_) => {
                Some("remove the kernel's directory from the cache, and build again".to_owned())
            }
            KernelError::NoModule { .. } => Some("set VFRACE_DATA to a complete checkout".to_owned()),
            KernelError::Host(e) => e.hint(),
        }
    }
}
